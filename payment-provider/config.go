package main

import (
	"log/slog"
	"os"
	"time"

	"example.com/invoices/internal/config"
	"example.com/invoices/internal/database"
	"example.com/invoices/internal/identity"
)

// Config is the service's configuration. The table in docs/reference.md is generated from the same
// lines, and a test compares the two.
type Config struct {
	ListenAddr        string
	AllowedHosts      []string
	DatabaseURL       string
	DatabaseConns     int
	RequireNarrowRole bool
	TLS               identity.TLSConfig
	Tokens            identity.Config
	ShutdownTimeout   time.Duration
	Log               *slog.Logger
}

// readConfig reads the variables of s; s.Err returns what is wrong with them.
func readConfig(s *config.Set) Config {
	c := Config{
		ListenAddr: s.Address("LISTEN_ADDR", ":8082", "address to listen on, as host:port or :port"),
		AllowedHosts: s.List("ALLOWED_HOSTS",
			"host names that browsers can use besides localhost and IP addresses, separated by commas"),
		DatabaseURL: s.URL("DATABASE_URL", "sqlite:data/payment-provider.db", database.Schemes,
			"`sqlite:` and a file's path, or the `postgres://` URL of a database").String(),
		DatabaseConns: s.Int("DATABASE_CONNS", 10, 1, 1000, "maximum number of connections to PostgreSQL"),
		RequireNarrowRole: s.Bool("REQUIRE_NARROW_ROLE", false,
			"refuse to serve with a database role that has privileges it does not need"),
		TLS:    identity.ReadTLSConfig(s),
		Tokens: identity.ReadConfig(s),
		ShutdownTimeout: s.Duration("SHUTDOWN_TIMEOUT", 35*time.Second, time.Second, 10*time.Minute,
			"maximum time from SIGTERM to exit"),
		Log: s.Logger(os.Stderr),
	}
	s.Require(len(c.TLS.Callers) == 0 || c.Tokens == identity.Config{}, "CALLER_NAMES=%q and CALLER_KEYS_FILE=%q are "+
		"both set: callers have either a certificate or a token, so unset one", c.TLS.Callers, c.Tokens.KeysFile)
	return c
}
