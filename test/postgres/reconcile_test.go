package postgres

import (
	"fmt"
	"log/slog"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/internal/money"
	"example.com/invoices/internal/postgrestest"
	"example.com/invoices/invoice-app/invoice"
	"example.com/invoices/invoice-app/provider"
	invoicestore "example.com/invoices/invoice-app/store"
	paymentapi "example.com/invoices/payment-provider/api"
	"example.com/invoices/payment-provider/payment"
	paymentstore "example.com/invoices/payment-provider/store"
)

// After payment-provider's database was restored to an earlier moment, every paid invoice has its payment again, and
// what cannot be reconciled is reported.
func TestReconcile(t *testing.T) {
	server := postgrestest.Start(t)
	for engine, address := range map[string]func(name string) string{
		"sqlite":   func(name string) string { return "sqlite:" + t.TempDir() + "/" + name + ".db" },
		"postgres": func(name string) string { return server.URL(postgrestest.Superuser, name) },
	} {
		t.Run(engine, func(t *testing.T) {
			if engine == "postgres" {
				for _, name := range []string{"paid", "taken"} {
					server.CreateDatabase(name)
				}
				require.NoError(t, invoicestore.Schema.Migrate(t.Context(), address("paid"), ""))
				require.NoError(t, paymentstore.Schema.Migrate(t.Context(), address("taken"), ""))
			}
			invoices, err := invoicestore.Open(t.Context(), address("paid"), 4)
			require.NoError(t, err)
			defer invoices.Close()
			payments, err := paymentstore.Open(t.Context(), address("taken"), 4)
			require.NoError(t, err)
			defer payments.Close()

			const count, kept = 1000, 700 // the others' payments are lost
			euros := func(minor int64) money.Amount { return money.Amount{Minor: minor, Currency: "EUR"} }
			list := make([]invoice.Invoice, count)
			taken := make([]payment.Payment, kept)
			for n := range list {
				list[n] = invoice.Invoice{ID: fmt.Sprint("R-", n), Amount: euros(int64(n) + 1)}
				if n < kept {
					taken[n] = payment.Payment{ID: list[n].ID, Amount: list[n].Amount}
				}
			}
			taken[5].Amount = euros(1_000_000)
			taken[6].Amount.Currency = "GBP"
			_, err = invoices.Add(t.Context(), invoice.All(list))
			require.NoError(t, err)
			claims, err := invoices.Claim(t.Context(), 0, count, count, time.Minute)
			require.NoError(t, err)
			require.Len(t, claims, count)
			require.NoError(t, invoices.MarkPaid(t.Context(), claims))
			_, err = invoices.Add(t.Context(), invoice.All([]invoice.Invoice{{ID: "unpaid", Amount: euros(1)}}))
			require.NoError(t, err)
			_, err = payments.Insert(t.Context(), taken)
			require.NoError(t, err)

			api := paymentapi.New(slog.New(slog.DiscardHandler), prometheus.NewRegistry(), payments.Ping, payments, nil)
			site := httptest.NewServer(api)
			defer site.Close()
			base, err := url.Parse(site.URL)
			require.NoError(t, err)
			client := provider.New(base, nil, "", 4, prometheus.NewRegistry())
			config := invoice.PayerConfig{Batch: 256, Timeout: 30 * time.Second, Patience: time.Second}
			reconcile := func(after int64) (invoice.Reconciliation, []string, error) {
				var open []string
				r, err := invoice.Reconcile(t.Context(), invoices, client, config, after,
					func(i invoice.Invoice, _ error) { open = append(open, i.ID) })
				return r, open, err
			}
			for range 2 { // it can be repeated
				r, open, err := reconcile(0)
				require.NoError(t, err)
				assert.Equal(t, invoice.Reconciliation{Confirmed: count - 2, Refused: 2, Through: claims[count-1].Seq}, r)
				assert.Equal(t, []string{"R-5", "R-6"}, open)
			}
			for n, i := range list {
				p, err := payments.Get(t.Context(), i.ID)
				require.NoError(t, err)
				assert.Equal(t, n != 5 && n != 6, p.Amount == i.Amount, i.ID)
			}
			_, err = payments.Get(t.Context(), "unpaid")
			require.ErrorIs(t, err, payment.ErrNotFound)

			r, open, err := reconcile(claims[899].Seq)
			require.NoError(t, err)
			assert.Equal(t, 100, r.Confirmed, "only those after")
			assert.Empty(t, open)

			site.Close()
			r, _, err = reconcile(claims[9].Seq)
			require.ErrorIs(t, err, invoice.ErrDown)
			assert.Equal(t, claims[9].Seq, r.Through, "continue from there")
		})
	}
}
