// audit watches that what the services have stored agrees: it compares both databases again and again, and exposes the
// result as metrics. It is the platform's, because no team can read the other's database.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"

	"example.com/invoices/audit/comparison"
	"example.com/invoices/internal/command"
	"example.com/invoices/internal/config"
)

const usage = `audit compares what invoice-app and payment-provider have stored. It only reads.

  audit          compare again and again, and serve the result as metrics
  audit compare  compare once, print the result as JSON, and fail if there are violations
  audit help     this text
`

type settings struct {
	ListenAddr  string
	InvoicesURL string
	PaymentsURL string
	Interval    time.Duration
	Timeout     time.Duration
	Log         *slog.Logger
}

func readSettings(s *config.Set) settings {
	read := settings{
		ListenAddr:  s.Address("LISTEN_ADDR", ":8083", "address to listen on, as host:port or :port"),
		InvoicesURL: s.Text("INVOICES_DATABASE_URL", "`postgres://` URL of invoice-app's database: of its primary"),
		PaymentsURL: s.Text("PAYMENTS_DATABASE_URL", "`postgres://` URL of payment-provider's database: of its primary"),
		Interval: s.Duration("INTERVAL", 15*time.Second, time.Second, 24*time.Hour,
			"time between two comparisons; longer if they take more than a tenth of it"),
		Timeout: s.Duration("TIMEOUT", 5*time.Minute, time.Second, time.Hour, "maximum time for a comparison"),
		Log:     s.Logger(os.Stderr),
	}
	s.Require(read.InvoicesURL != "", "INVOICES_DATABASE_URL is not set: must be the URL of invoice-app's database")
	s.Require(read.PaymentsURL != "", "PAYMENTS_DATABASE_URL is not set: must be the URL of payment-provider's database")
	return read
}

func main() { command.Main(newCommand()) }

func newCommand() *cobra.Command {
	set := config.New("audit")
	read := readSettings(set)
	root := command.New("audit", usage, set, read.Log, func(ctx context.Context) error { return serve(ctx, read) })
	root.AddCommand(&cobra.Command{
		Use: "compare", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			figures, err := compare(c.Context(), read)
			if err != nil {
				return err
			}
			encoder := json.NewEncoder(c.OutOrStdout())
			encoder.SetIndent("", "  ")
			if err := encoder.Encode(figures); err != nil {
				return err
			}
			if !figures.Equal() {
				return errors.New("the databases contradict each other: see docs/operations.md")
			}
			return nil
		},
	})
	return root
}

// compare reads the URLs' passfiles again each time, so a password can be rotated.
func compare(ctx context.Context, s settings) (*comparison.Figures, error) {
	ctx, cancel := context.WithTimeout(ctx, s.Timeout)
	defer cancel()
	return comparison.Compare(ctx, s.InvoicesURL, s.PaymentsURL)
}

// serve compares and serves until ctx is done.
func serve(ctx context.Context, s settings) error {
	latest := &latest{}
	registry := prometheus.NewRegistry()
	registry.MustRegister(latest)
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /livez", func(http.ResponseWriter, *http.Request) {})
	server := &http.Server{Handler: mux, ReadTimeout: 5 * time.Second, WriteTimeout: 10 * time.Second}
	listener, err := net.Listen("tcp", s.ListenAddr)
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	s.Log.Info("serving", "address", listener.Addr().String())
	go latest.update(ctx, s)
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve: %w", err)
	}
	return nil
}

// update compares until ctx is done.
func (l *latest) update(ctx context.Context, s settings) {
	for {
		begin := time.Now()
		figures, err := compare(ctx, s)
		took := time.Since(begin)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			s.Log.Warn("the comparison failed", "error", err)
		case !figures.Equal():
			s.Log.Error("the databases contradict each other", "examples", figures.Examples)
		default:
			s.Log.Debug("compared", "took", took.String(), "payments", figures.Payments)
		}
		l.set(figures, took, err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(max(s.Interval, 10*took)): // a tenth of the time at most
		}
	}
}
