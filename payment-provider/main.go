// payment-provider takes payments, each of them once.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"example.com/invoices/internal/database"
	"example.com/invoices/internal/identity"
	"example.com/invoices/internal/program"
	"example.com/invoices/payment-provider/api"
	"example.com/invoices/payment-provider/store"
)

const usage = `payment-provider takes payments, each of them once.

  payment-provider                            serve
  payment-provider migrate [--grant-to ROLE]  bring the database's schema up to date; in
                                              PostgreSQL, let ROLE do what serving needs
  payment-provider help                       this text
`

func main() {
	var grantTo string
	program.Program[Config]{
		Name:   "payment-provider",
		Usage:  usage,
		Config: readConfig,
		Logger: func(cfg Config) *slog.Logger { return cfg.Log },
		Commands: map[string]program.Command[Config]{
			"serve": {Run: serve},
			"migrate": {
				Flags: func(f *flag.FlagSet) { f.StringVar(&grantTo, "grant-to", "", "") },
				Run: func(ctx context.Context, cfg Config, _ []string) error {
					return store.Schema.Migrate(ctx, cfg.DatabaseURL, grantTo)
				},
			},
		},
	}.Main()
}

func serve(ctx context.Context, cfg Config, _ []string) error {
	payments, err := store.Open(ctx, cfg.DatabaseURL, cfg.DatabaseConns)
	if errors.Is(err, database.ErrNotMigrated) {
		return fmt.Errorf("%w; run: payment-provider migrate", err)
	}
	if err != nil {
		return err
	}
	defer payments.Close()
	if err := database.CheckRole(ctx, payments, cfg.RequireNarrowRole, cfg.Log); err != nil {
		return err
	}
	var callers *identity.Verifier
	if cfg.Callers == (identity.Config{}) {
		cfg.Log.Warn("callers are not verified, so anyone who reaches this address can have payments taken: set CALLER_KEYS_FILE")
	} else {
		callers = identity.NewVerifier(cfg.Callers, cfg.Log)
	}
	server := api.New(cfg.Log, prometheus.NewRegistry(), payments.Ping, payments, callers)
	server.AllowedHosts = cfg.AllowedHosts
	return server.Run(ctx, cfg.ListenAddr, cfg.ShutdownTimeout, func() {})
}
