package store

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/internal/money"
	"example.com/invoices/invoice-app/invoice"
)

func TestMetrics(t *testing.T) {
	registry := prometheus.NewRegistry()
	s := Observe(registry, openURL(t, "sqlite:"+filepath.Join(t.TempDir(), "invoices.db")))
	value := func(name string) float64 {
		families, err := registry.Gather()
		require.NoError(t, err)
		for _, family := range families {
			if family.GetName() == name {
				m := family.GetMetric()[0]
				return m.GetGauge().GetValue() + m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleSum())
			}
		}
		require.Fail(t, "no metric", name)
		return 0
	}
	for _, id := range []string{"A", "B", "C"} {
		add(t, s, invoice.Invoice{ID: id, Amount: money.Amount{Minor: 1, Currency: "EUR"}})
	}
	time.Sleep(10 * time.Millisecond)
	assert.Equal(t, 3.0, value("invoices_unpaid"))
	assert.Positive(t, value("invoices_oldest_unpaid_seconds"))

	claims, err := s.Claim(t.Context(), 0, 3, 10, time.Minute)
	require.NoError(t, err)
	require.NoError(t, s.Release(t.Context(), []invoice.Released{{Claim: claims[0]}}))
	again, err := s.Claim(t.Context(), 0, 3, 10, time.Minute)
	require.NoError(t, err)
	require.Len(t, again, 1)
	require.NoError(t, s.MarkPaid(t.Context(), append(again, claims[1])))
	require.NoError(t, s.Reject(t.Context(), []invoice.Rejected{{Claim: claims[2], Reason: "no"}}))
	assert.Equal(t, 4.0, value("invoice_claims_total"))
	assert.Equal(t, 1.0, value("invoice_claims_repeated_total"))
	assert.Equal(t, 1.0, value("invoice_claims_released_total"))
	assert.Equal(t, 4.0, value("invoice_attempts"), "2 + 1 + 1")
	assert.Equal(t, 3.0, value("invoices_unpaid"), "a scrape does not ask again within seconds")

	unpaid, oldest, err := s.Backlog(t.Context())
	require.NoError(t, err)
	assert.Zero(t, unpaid)
	assert.Zero(t, oldest)
	s.Close()
	fresh := prometheus.NewRegistry()
	fresh.MustRegister(&backlog{store: s})
	families, err := fresh.Gather()
	require.NoError(t, err)
	assert.Empty(t, families, "nothing is known without the database")
}
