package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/audit/comparison"
	"example.com/invoices/internal/postgrestest"
	invoicestore "example.com/invoices/invoice-app/store"
	paymentstore "example.com/invoices/payment-provider/store"
)

func scrape(t *testing.T, l *latest) string {
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(l)
	response := httptest.NewRecorder()
	handler := promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
	handler.ServeHTTP(response, httptest.NewRequest(http.MethodGet, "/", nil))
	require.Equal(t, http.StatusOK, response.Code, "%s", response.Body)
	return response.Body.String()
}

func TestMetrics(t *testing.T) {
	l := &latest{}
	l.set(nil, time.Second, errors.New("no database"))
	assert.NotContains(t, scrape(t, l), "audit_paid_without_payment", "no figures rather than zeros")
	euros := &comparison.Sums{Paid: *big.NewInt(10), Taken: *big.NewInt(12), NotMarked: *big.NewInt(2)}
	yen := &comparison.Sums{Paid: *big.NewInt(7)}
	l.set(&comparison.Figures{
		Invoices: 1, Paid: 2, Payments: 3, PaidWithoutPayment: 4, PaidTwice: 5, PaymentsWithoutInvoice: 6, AmountsDiffer: 7,
		NotMarked: 8, OldestNotMarked: 9 * time.Second, Currencies: map[string]*comparison.Sums{"EUR": euros, "JPY": yen},
	}, 10*time.Second, nil)
	l.set(nil, time.Second, errors.New("no database"))
	got := scrape(t, l)
	for _, line := range []string{
		"invoices 1", "invoices_paid 2", "payments 3", "paid_without_payment 4", "paid_twice 5",
		"payments_without_invoice 6", "amounts_differ 7", "payments_not_marked 8", "oldest_not_marked_seconds 9",
		"comparison_duration_seconds 10", "comparisons_failed_total 2",
		`difference_minor{currency="EUR"} 0`, `difference_minor{currency="JPY"} -7`,
		`paid_minor{currency="EUR"} 10`, `taken_minor{currency="EUR"} 12`,
	} {
		assert.Contains(t, got, "\naudit_"+line+"\n")
	}
	assert.InDelta(t, time.Now().Unix(), l.when.Unix(), 10)
}

// The program compares two real databases, as metrics and as a command.
func TestPrograms(t *testing.T) {
	server := postgrestest.Start(t)
	for name, migrate := range map[string]func(ctx context.Context, url, role string) error{
		"i": invoicestore.Schema.Migrate, "p": paymentstore.Schema.Migrate,
	} {
		server.CreateDatabase(name)
		require.NoError(t, migrate(t.Context(), server.URL(postgrestest.Superuser, name), ""))
	}
	server.Exec("p", `INSERT INTO payments (id, amount_minor, currency) VALUES ('I1', 1, 'EUR')`)
	t.Setenv("INVOICES_DATABASE_URL", server.URL(postgrestest.Superuser, "i"))
	t.Setenv("PAYMENTS_DATABASE_URL", server.URL(postgrestest.Superuser, "p"))
	t.Setenv("LISTEN_ADDR", "127.0.0.1:0")
	defer slog.SetDefault(slog.Default())

	run := func() (string, error) {
		command := newCommand()
		var out bytes.Buffer
		command.SetOut(&out)
		command.SetArgs([]string{"compare"})
		err := command.ExecuteContext(t.Context())
		return out.String(), err
	}
	out, err := run()
	require.ErrorContains(t, err, "the databases contradict each other")
	assert.Contains(t, out, `"PaymentsWithoutInvoice": 1`)
	assert.Contains(t, out, `payment \"I1\" has no invoice`)
	server.Exec("i", `INSERT INTO invoices (id, amount_minor, currency, paid_at) VALUES ('I1', 1, 'EUR', now())`)
	out, err = run()
	require.NoError(t, err, out)

	t.Setenv("PAYMENTS_DATABASE_URL", "")
	_, err = run()
	assert.ErrorContains(t, err, "PAYMENTS_DATABASE_URL is not set")
}

func TestUpdate(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	l := &latest{}
	s := settings{InvoicesURL: "postgres://127.0.0.1:1/i", PaymentsURL: "postgres://127.0.0.1:1/p", Timeout: time.Second,
		Interval: time.Millisecond, Log: slog.New(slog.DiscardHandler)}
	ended := make(chan struct{})
	go func() {
		l.update(ctx, s)
		close(ended)
	}()
	require.Eventually(t, func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.failed > 1
	}, time.Minute, time.Millisecond, "it goes on after a failure")
	cancel()
	<-ended
}
