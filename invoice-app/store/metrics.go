package store

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"example.com/invoices/internal/database"
	"example.com/invoices/invoice-app/invoice"
)

// Observe registers metrics about the invoices of s, and returns s so that its claims are counted.
func Observe(registry prometheus.Registerer, s Store) Store {
	database.Observe(registry, s)
	registry.MustRegister(&backlog{store: s})
	make := promauto.With(registry)
	return observed{
		Store: s,
		claims: make.NewCounter(prometheus.CounterOpts{
			Name: "invoice_claims_total",
			Help: "Invoices reserved for paying.",
		}),
		repeated: make.NewCounter(prometheus.CounterOpts{
			Name: "invoice_claims_repeated_total",
			Help: "Of these, invoices that had been reserved before.",
		}),
		released: make.NewCounter(prometheus.CounterOpts{
			Name: "invoice_claims_released_total",
			Help: "Invoices given back for a later attempt. What was repeated beyond that, over all replicas, had lapsed.",
		}),
		attempts: make.NewHistogram(prometheus.HistogramOpts{
			Name:    "invoice_attempts",
			Help:    "Attempts that an invoice has taken until it was settled.",
			Buckets: []float64{1, 2, 3, 5, 10, 20, 50, 100},
		}),
	}
}

// observed counts the claims of a Store and what becomes of them.
type observed struct {
	Store
	claims, repeated, released prometheus.Counter
	attempts                   prometheus.Histogram
}

func (o observed) Claim(
	ctx context.Context, after, through int64, limit int, lease time.Duration,
) ([]invoice.Claim, error) {
	claims, err := o.Store.Claim(ctx, after, through, limit, lease)
	o.claims.Add(float64(len(claims)))
	for _, c := range claims {
		if c.Attempt > 1 {
			o.repeated.Inc()
		}
	}
	return claims, err
}

func (o observed) MarkPaid(ctx context.Context, claims []invoice.Claim) error {
	err := o.Store.MarkPaid(ctx, claims)
	for _, c := range claims {
		o.settled(c, err)
	}
	return err
}

func (o observed) Reject(ctx context.Context, rejected []invoice.Rejected) error {
	err := o.Store.Reject(ctx, rejected)
	for _, r := range rejected {
		o.settled(r.Claim, err)
	}
	return err
}

func (o observed) settled(c invoice.Claim, err error) {
	if err == nil {
		o.attempts.Observe(float64(c.Attempt))
	}
}

func (o observed) Release(ctx context.Context, released []invoice.Released) error {
	err := o.Store.Release(ctx, released)
	if err == nil {
		o.released.Add(float64(len(released)))
	}
	return err
}

const (
	// backlogAge is how old what a scrape shows may be, and backlogRest the shortest pause after a query as a multiple
	// of its duration, so that scrapes take at most a tenth of one connection's time, however many invoices there are.
	backlogAge     = 5 * time.Second
	backlogRest    = 9
	backlogTimeout = 2 * time.Second
)

// backlog collects metrics about the unpaid invoices. It has none while the database does not respond.
type backlog struct {
	store Store

	mu       sync.Mutex
	notUntil time.Time // when it asks again
	unpaid   int64
	oldest   time.Duration
	err      error
}

var (
	unpaidInvoices = prometheus.NewDesc("invoices_unpaid",
		"Invoices that are neither paid nor rejected, counted up to 500,000.", nil, nil)
	oldestUnpaid = prometheus.NewDesc("invoices_oldest_unpaid_seconds",
		"Age of the oldest of them, or 0.", nil, nil)
)

func (b *backlog) Describe(to chan<- *prometheus.Desc) {
	to <- unpaidInvoices
	to <- oldestUnpaid
}

func (b *backlog) Collect(to chan<- prometheus.Metric) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if start := time.Now(); !start.Before(b.notUntil) {
		ctx, cancel := context.WithTimeout(context.Background(), backlogTimeout)
		b.unpaid, b.oldest, b.err = b.store.Backlog(ctx)
		cancel()
		b.notUntil = time.Now().Add(max(backlogAge, backlogRest*time.Since(start)))
	}
	if b.err == nil {
		to <- prometheus.MustNewConstMetric(unpaidInvoices, prometheus.GaugeValue, float64(b.unpaid))
		to <- prometheus.MustNewConstMetric(oldestUnpaid, prometheus.GaugeValue, b.oldest.Seconds())
	}
}
