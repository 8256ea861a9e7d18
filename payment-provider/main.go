// payment-provider takes payments, each of them once.
package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"example.com/invoices/internal/command"
	"example.com/invoices/internal/config"
	"example.com/invoices/internal/database"
	"example.com/invoices/internal/identity"
	"example.com/invoices/payment-provider/api"
	"example.com/invoices/payment-provider/store"
)

const usage = `payment-provider takes payments, each of them once.

  payment-provider                            serve
  payment-provider migrate [--grant-to ROLE]  bring the database's schema up to date; in
                                              PostgreSQL, grant ROLE what serving needs
  payment-provider help                       this text
`

func main() { command.Main(newCommand()) }

func newCommand() *cobra.Command {
	settings := config.New("payment-provider")
	cfg := readConfig(settings)
	root := command.New("payment-provider", usage, settings, cfg.Log, func(ctx context.Context) error {
		return serve(ctx, cfg)
	})
	command.AddMigrate(root, func(ctx context.Context, grantTo string) error {
		return store.Schema.Migrate(ctx, cfg.DatabaseURL, grantTo)
	})
	return root
}

func serve(ctx context.Context, cfg Config) error {
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
	certificates, callers, err := cfg.TLS.Open(cfg.Log)
	if err != nil {
		return err
	}
	if cfg.Tokens != (identity.Config{}) {
		callers = identity.NewVerifier(cfg.Tokens, cfg.Log)
	}
	if callers == nil {
		cfg.Log.Warn("callers are not verified, so anyone who can reach this address can request payments: " +
			"set CALLER_NAMES or CALLER_KEYS_FILE")
	}
	server := api.New(cfg.Log, prometheus.NewRegistry(), payments.Ping, payments, callers)
	server.AllowedHosts, server.Certificates = cfg.AllowedHosts, certificates
	return server.Run(ctx, cfg.ListenAddr, cfg.ShutdownTimeout, func() {})
}
