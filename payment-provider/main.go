// payment-provider takes payments, each of them once.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"example.com/invoices/internal/config"
	"example.com/invoices/internal/database"
	"example.com/invoices/internal/identity"
	"example.com/invoices/payment-provider/api"
	"example.com/invoices/payment-provider/store"
)

const usage = `payment-provider takes payments, each of them once.

  payment-provider                            serve
  payment-provider migrate [--grant-to ROLE]  bring the database's schema up to date; in
                                              PostgreSQL, let ROLE do what serving needs
  payment-provider help                       this text

Variables (a .env file in the service's folder may set them, too), their defaults and meaning:
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	if err := newCommand().ExecuteContext(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "payment-provider: %v\n", err)
		os.Exit(1)
	}
}

func newCommand() *cobra.Command {
	settings := config.New("payment-provider")
	cfg := readConfig(settings)
	root := &cobra.Command{
		Use: "payment-provider", Args: cobra.NoArgs, SilenceErrors: true, SilenceUsage: true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		PersistentPreRunE: func(c *cobra.Command, _ []string) error {
			if err := settings.Err(); err != nil && c.Name() != "help" {
				return err
			}
			slog.SetDefault(cfg.Log)
			return nil
		},
		RunE: func(c *cobra.Command, _ []string) error { return serve(c.Context(), cfg) },
	}
	root.SetHelpFunc(func(c *cobra.Command, _ []string) {
		fmt.Fprint(c.OutOrStdout(), usage)
		settings.Help(c.OutOrStdout())
	})

	migration := &cobra.Command{Use: "migrate", Args: cobra.NoArgs}
	grantTo := migration.Flags().String("grant-to", "", "")
	migration.RunE = func(c *cobra.Command, _ []string) error {
		return store.Schema.Migrate(c.Context(), cfg.DatabaseURL, *grantTo)
	}

	root.AddCommand(&cobra.Command{Use: "serve", Args: cobra.NoArgs, RunE: root.RunE}, migration)
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
