package main

import (
	"errors"
	"log/slog"
	"net/url"
	"os"
	"time"

	"example.com/invoices/internal/config"
	"example.com/invoices/internal/database"
	"example.com/invoices/invoice-app/invoice"
)

// Config is everything that can be set from outside. The table in docs/reference.md is
// made from the same lines (a test compares them).
type Config struct {
	ListenAddr        string
	AllowedHosts      []string
	DatabaseURL       string
	DatabaseConns     int
	RequireNarrowRole bool
	ProviderURL       *url.URL
	ProviderTokenFile string
	Seed              bool
	Pay               invoice.PayerConfig
	ShutdownTimeout   time.Duration
	Log               *slog.Logger
}

// readConfig reads the variables of s; s.Err says what is wrong with them.
func readConfig(s *config.Set) Config {
	c := Config{
		ListenAddr:        s.Address("LISTEN_ADDR", ":8081", "address to listen on, as host:port or :port"),
		AllowedHosts:      s.List("ALLOWED_HOSTS", "names by which browsers may reach it besides localhost and IP addresses, separated by commas"),
		DatabaseURL:       s.URL("DATABASE_URL", "sqlite:data/invoice-app.db", database.Schemes, "`sqlite:` and a file's path, or the `postgres://` URL of a database").String(),
		DatabaseConns:     s.Int("DATABASE_CONNS", 10, 1, 1000, "most connections to PostgreSQL at once"),
		RequireNarrowRole: s.Bool("REQUIRE_NARROW_ROLE", false, "refuse to serve with a database role that can do more than it needs"),
		ProviderURL:       s.URL("PAYMENT_PROVIDER_URL", "http://localhost:8082", []string{"http", "https"}, "where payment-provider is"),
		ProviderTokenFile: s.Text("PAYMENT_PROVIDER_TOKEN_FILE", "file with the token that tells payment-provider who calls; if not set, none is sent"),
		Seed:              s.Bool("SEED_INVOICES", false, "put the invoices I1, I2 and I3 into a database that has none"),
		Pay: invoice.PayerConfig{
			Concurrency: s.Int("PAY_CONCURRENCY", 8, 1, 1000, "calls to payment-provider at once"),
			Batch:       s.Int("PAY_BATCH", 256, 1, 500, "invoices in one call to payment-provider at most"),
			Timeout:     s.Duration("PAYMENT_TIMEOUT", 3*time.Second, 10*time.Millisecond, time.Minute, "longest call to payment-provider"),
			Lease:       s.Duration("CLAIM_LEASE", 15*time.Second, time.Second, 10*time.Minute, "how long an invoice stays with a replica that may have died"),
			Patience:    s.Duration("PAY_PATIENCE", 10*time.Second, 0, time.Hour, "pay-all gives up after so long without a payment that works"),
			Answer: s.Duration("PAY_ANSWER", 45*time.Second, 10*time.Millisecond, 10*time.Minute,
				"longest time to an answer of pay-all: 202 if paying goes on; less than the idle timeout of any proxy before it"),
			RunTimeout: s.Duration("PAY_TIMEOUT", 10*time.Minute, time.Second, 24*time.Hour, "longest pay-all; what remains then, the next one pays"),
			Transient:  func(err error) bool { return errors.Is(err, database.ErrUnavailable) },
		},
		ShutdownTimeout: s.Duration("SHUTDOWN_TIMEOUT", 20*time.Second, time.Second, 10*time.Minute, "longest time from SIGTERM to the end"),
		Log:             s.Logger(os.Stderr),
	}
	// A claim that ran out during the call would let two replicas pay at once:
	// harmless, since the provider takes one payment, but work done twice.
	s.Require(c.Pay.Lease >= 2*c.Pay.Timeout, "CLAIM_LEASE=%s is refused: allowed is twice PAYMENT_TIMEOUT (%s) and more", c.Pay.Lease, c.Pay.Timeout)
	return c
}
