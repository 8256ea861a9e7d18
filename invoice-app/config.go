package main

import (
	"errors"
	"log/slog"
	"net/url"
	"os"
	"time"

	"example.com/invoices/internal/config"
	"example.com/invoices/internal/database"
	"example.com/invoices/internal/identity"
	"example.com/invoices/invoice-app/invoice"
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
	ProviderURL       *url.URL
	ProviderTokenFile string
	Seed              bool
	Pay               invoice.PayerConfig
	ShutdownTimeout   time.Duration
	Log               *slog.Logger
}

// readConfig reads the variables of s; s.Err returns what is wrong with them.
func readConfig(s *config.Set) Config {
	c := Config{
		ListenAddr: s.Address("LISTEN_ADDR", ":8081", "address to listen on, as host:port or :port"),
		AllowedHosts: s.List("ALLOWED_HOSTS",
			"host names that browsers can use besides localhost and IP addresses, separated by commas"),
		DatabaseURL: s.URL("DATABASE_URL", "sqlite:data/invoice-app.db", database.Schemes,
			"`sqlite:` and a file's path, or the `postgres://` URL of a database").String(),
		DatabaseConns: s.Int("DATABASE_CONNS", 10, 1, 1000, "maximum number of connections to PostgreSQL"),
		RequireNarrowRole: s.Bool("REQUIRE_NARROW_ROLE", false,
			"refuse to serve with a database role that has privileges it does not need"),
		TLS: identity.ReadTLSConfig(s),
		ProviderURL: s.URL("PAYMENT_PROVIDER_URL", "http://localhost:8082", []string{"http", "https"},
			"URL of payment-provider"),
		ProviderTokenFile: s.Text("PAYMENT_PROVIDER_TOKEN_FILE",
			"file with the token that identifies this service to payment-provider; if not set, none is sent"),
		Seed: s.Bool("SEED_INVOICES", false, "add the invoices I1, I2 and I3 to a database that has none"),
		Pay: invoice.PayerConfig{
			Concurrency: s.Int("PAY_CONCURRENCY", 8, 1, 1000, "concurrent calls to payment-provider"),
			Batch:       s.Int("PAY_BATCH", 256, 1, 500, "maximum number of invoices in one call to payment-provider"),
			Timeout: s.Duration("PAYMENT_TIMEOUT", 3*time.Second, 10*time.Millisecond, time.Minute,
				"time limit of a call to payment-provider"),
			Lease: s.Duration("CLAIM_LEASE", 15*time.Second, time.Second, invoice.MaxLease,
				"how long an invoice stays reserved for a replica that may have died"),
			Patience: s.Duration("PAY_PATIENCE", 10*time.Second, 0, time.Hour,
				"pay-all gives up after this time without a successful payment"),
			Answer: s.Duration("PAY_ANSWER", 45*time.Second, 10*time.Millisecond, 10*time.Minute,
				"time until pay-all responds with 202 if paying continues; less than the idle timeout of any proxy in front"),
			RunTimeout: s.Duration("PAY_TIMEOUT", 10*time.Minute, time.Second, 24*time.Hour,
				"time limit of a pay-all; the next one pays the rest"),
			Transient: func(err error) bool { return errors.Is(err, database.ErrUnavailable) },
		},
		ShutdownTimeout: s.Duration("SHUTDOWN_TIMEOUT", 35*time.Second, time.Second, 10*time.Minute,
			"maximum time from SIGTERM to exit"),
		Log: s.Logger(os.Stderr),
	}
	// If a claim expired during the call, two replicas could pay at once: harmless, since the
	// provider takes one payment, but twice the work.
	s.Require(c.Pay.Lease >= 2*c.Pay.Timeout,
		"CLAIM_LEASE=%s is invalid: must be at least twice PAYMENT_TIMEOUT (%s)", c.Pay.Lease, c.Pay.Timeout)
	return c
}
