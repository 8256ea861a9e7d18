// invoice-app keeps invoices, and pays the unpaid ones through
// payment-provider, each of them exactly once.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"example.com/invoices/internal/command"
	"example.com/invoices/internal/config"
	"example.com/invoices/internal/database"
	"example.com/invoices/internal/identity"
	"example.com/invoices/invoice-app/api"
	"example.com/invoices/invoice-app/importer"
	"example.com/invoices/invoice-app/invoice"
	"example.com/invoices/invoice-app/provider"
	"example.com/invoices/invoice-app/store"
	"example.com/invoices/invoice-app/web"
)

const usage = `invoice-app keeps invoices, and pays the unpaid ones through payment-provider.

  invoice-app                            serve
  invoice-app migrate [--grant-to ROLE]  bring the database's schema up to date; in
                                         PostgreSQL, grant ROLE what serving needs
  invoice-app import [--decimal-comma] FILE
                                         add the invoices of a file of CSV, JSON lines or
                                         JSON (- for standard input), all of them or none;
                                         with --decimal-comma a CSV's 12,15 is 12.15
  invoice-app reconcile [--after SEQ]    ask payment-provider again for the payment of each
                                         invoice that is marked paid, after the databases were
                                         restored to different moments; with --after from there
  invoice-app help                       this text
`

func main() { command.Main(newCommand()) }

func newCommand() *cobra.Command {
	settings := config.New("invoice-app")
	cfg := readConfig(settings)
	root := command.New("invoice-app", usage, settings, cfg.Log, func(ctx context.Context) error {
		return serve(ctx, cfg)
	})
	command.AddMigrate(root, func(ctx context.Context, grantTo string) error {
		return migrate(ctx, cfg, grantTo)
	})
	var options importer.Options
	addition := &cobra.Command{
		Use: "import FILE", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return importFile(c.Context(), cfg, args[0], options, c.OutOrStdout())
		},
	}
	addition.Flags().BoolVar(&options.DecimalComma, "decimal-comma", false, "")
	root.AddCommand(addition)
	reconciliation := &cobra.Command{Use: "reconcile", Args: cobra.NoArgs}
	after := reconciliation.Flags().Int64("after", 0, "")
	reconciliation.RunE = func(c *cobra.Command, _ []string) error {
		return reconcile(c.Context(), cfg, *after, c.OutOrStdout())
	}
	root.AddCommand(reconciliation)
	return root
}

// migrate brings the schema up to date and, if SEED_INVOICES is set, adds the first invoices.
func migrate(ctx context.Context, cfg Config, grantTo string) error {
	if err := store.Schema.Migrate(ctx, cfg.DatabaseURL, grantTo); err != nil {
		return err
	}
	invoices, err := openStore(ctx, cfg)
	if err == nil {
		invoices.Close()
	}
	return err
}

// openStore opens the database and, if SEED_INVOICES is set, adds the first invoices.
func openStore(ctx context.Context, cfg Config) (store.Store, error) {
	invoices, err := store.Open(ctx, cfg.DatabaseURL, cfg.DatabaseConns)
	if errors.Is(err, database.ErrNotMigrated) {
		return nil, fmt.Errorf("%w; run: invoice-app migrate", err)
	}
	if err != nil {
		return nil, err
	}
	if cfg.Seed {
		if err := store.Seed(ctx, invoices); err != nil {
			invoices.Close()
			return nil, fmt.Errorf("seed (SEED_INVOICES): %w", err)
		}
	}
	return invoices, nil
}

func serve(ctx context.Context, cfg Config) error {
	invoices, err := openStore(ctx, cfg)
	if err != nil {
		return err
	}
	defer invoices.Close()
	if err := database.CheckRole(ctx, invoices, cfg.RequireNarrowRole, cfg.Log); err != nil {
		return err
	}
	certificates, callers, err := cfg.TLS.Open(cfg.Log)
	if err != nil {
		return err
	}
	if callers == nil {
		cfg.Log.Warn("callers are not verified, so anyone who can reach this address can add and pay invoices: " +
			"set CALLER_NAMES")
	}
	if cfg.ProviderTokenFile == "" && certificates == nil {
		cfg.Log.Warn("this service does not identify itself to payment-provider: neither PAYMENT_PROVIDER_TOKEN_FILE " +
			"nor TLS_FOLDER is set")
	}
	if most := 10 * cfg.DatabaseConns; cfg.Pay.Concurrency > most {
		cfg.Log.Warn("payments will wait for the database: lower PAY_CONCURRENCY, or raise DATABASE_CONNS",
			"PAY_CONCURRENCY", cfg.Pay.Concurrency, "sensible", most)
	}
	registry := prometheus.NewRegistry()
	invoices = store.Observe(registry, invoices)
	payments := openProvider(cfg, certificates, registry)
	payer := invoice.NewPayer(invoices, payments, cfg.Pay, cfg.Log)
	defer payer.Close() // before the database closes
	server := api.New(cfg.Log, registry, invoices.Ping, invoices, payer, cfg.Pay.Answer, callers)
	server.AllowedHosts, server.Certificates = cfg.AllowedHosts, certificates
	web.Register(server, invoices, payer)
	return server.Run(ctx, cfg.ListenAddr, cfg.ShutdownTimeout, payer.Stop)
}

func openProvider(cfg Config, certificates *identity.Certificates, registry *prometheus.Registry) *provider.Client {
	return provider.New(cfg.ProviderURL, certificates, cfg.ProviderTokenFile, cfg.Pay.Concurrency, registry)
}

// reconcile requests the payments of the paid invoices with a Seq above after, and writes each invoice that was not
// confirmed to out, and the result.
func reconcile(ctx context.Context, cfg Config, after int64, out io.Writer) error {
	invoices, err := openStore(ctx, cfg)
	if err != nil {
		return err
	}
	defer invoices.Close()
	certificates, _, err := cfg.TLS.Open(cfg.Log)
	if err != nil {
		return err
	}
	payments := openProvider(cfg, certificates, prometheus.NewRegistry())
	r, err := invoice.Reconcile(ctx, invoices, payments, cfg.Pay, after, func(i invoice.Invoice, err error) {
		fmt.Fprintf(out, "%s: %v\n", i.ID, err)
	})
	fmt.Fprintf(out, "%d payments confirmed, %d refused, %d without an answer\n", r.Confirmed, r.Refused, r.Unanswered)
	if err != nil {
		return fmt.Errorf("not finished; continue with --after %d: %w", r.Through, err)
	}
	if open := r.Refused + r.Unanswered; open > 0 {
		return fmt.Errorf("%d paid invoices could not be reconciled: see above", open)
	}
	return nil
}

// importFile adds the invoices of the file at path, or of standard input for "-", and writes the
// result to out.
func importFile(ctx context.Context, cfg Config, path string, options importer.Options, out io.Writer) error {
	file := os.Stdin
	if path != "-" {
		var err error
		if file, err = os.Open(path); err != nil {
			return fmt.Errorf("nothing was imported: %w", err)
		}
		defer file.Close()
	}
	invoices, err := openStore(ctx, cfg)
	if err != nil {
		return fmt.Errorf("nothing was imported: %w", err)
	}
	defer invoices.Close()
	result, err := importer.Import(ctx, invoices, file, options)
	var wrong *importer.Error
	switch {
	case errors.As(err, &wrong):
		return fmt.Errorf("nothing was imported: %s:%d: %w", path, wrong.Line, wrong.Err)
	case errors.Is(err, database.ErrUnknownOutcome):
		return fmt.Errorf("whether the invoices were imported is unknown, so run it again (none is added twice): %w", err)
	case err != nil:
		return fmt.Errorf("nothing was imported: %w", err)
	}
	fmt.Fprintf(out, "%d invoices added, %d already present\n", result.Added, result.Existing)
	if len(result.Ignored) > 0 {
		fmt.Fprintf(out, "ignored, since only InvoiceId, Value, Currency and IsPaid are read: %s\n",
			strings.Join(result.Ignored, ", "))
	}
	return nil
}
