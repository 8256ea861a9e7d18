package main

import (
	"log/slog"
	"os"
	"time"

	"example.com/invoices/internal/config"
	"example.com/invoices/internal/database"
	"example.com/invoices/internal/identity"
)

// Config is everything that can be set from outside. The table in docs/reference.md is
// made from the same lines (a test compares them).
type Config struct {
	ListenAddr        string
	AllowedHosts      []string
	DatabaseURL       string
	DatabaseConns     int
	RequireNarrowRole bool
	Callers           identity.Config
	ShutdownTimeout   time.Duration
	Log               *slog.Logger
}

// readConfig reads the variables of s; s.Err says what is wrong with them.
func readConfig(s *config.Set) Config {
	return Config{
		ListenAddr:        s.Address("LISTEN_ADDR", ":8082", "address to listen on, as host:port or :port"),
		AllowedHosts:      s.List("ALLOWED_HOSTS", "names by which browsers may reach it besides localhost and IP addresses, separated by commas"),
		DatabaseURL:       s.URL("DATABASE_URL", "sqlite:data/payment-provider.db", database.Schemes, "`sqlite:` and a file's path, or the `postgres://` URL of a database").String(),
		DatabaseConns:     s.Int("DATABASE_CONNS", 10, 1, 1000, "most connections to PostgreSQL at once"),
		RequireNarrowRole: s.Bool("REQUIRE_NARROW_ROLE", false, "refuse to serve with a database role that can do more than it needs"),
		Callers:           identity.ReadConfig(s),
		ShutdownTimeout:   s.Duration("SHUTDOWN_TIMEOUT", 20*time.Second, time.Second, 10*time.Minute, "longest time from SIGTERM to the end"),
		Log:               s.Logger(os.Stderr),
	}
}
