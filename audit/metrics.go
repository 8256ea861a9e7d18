package main

import (
	"math/big"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"example.com/invoices/audit/comparison"
)

// latest exposes the latest comparison that succeeded. Before the first one there are no figures, rather than zeros.
type latest struct {
	mu      sync.Mutex
	figures *comparison.Figures
	took    time.Duration
	when    time.Time
	failed  int
}

// set records a comparison, or that it failed.
func (l *latest) set(figures *comparison.Figures, took time.Duration, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.failed++
		return
	}
	l.figures, l.took, l.when = figures, took, time.Now()
}

func newDesc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("audit_"+name, help, labels, nil)
}

var (
	failures = newDesc("comparisons_failed_total", "Comparisons that failed, since the start.")
	last     = newDesc("last_comparison_timestamp_seconds", "When the databases were last compared.")
	duration = newDesc("comparison_duration_seconds", "How long the last comparison took.")

	invoices = newDesc("invoices", "All invoices.")
	paid     = newDesc("invoices_paid", "Invoices that are marked paid.")
	payments = newDesc("payments", "All payments.")

	paidWithoutPayment = newDesc("paid_without_payment", "Invoices that are marked paid but have no payment. Must be 0.")
	paidTwice          = newDesc("paid_twice", "Payments with the ID of another one. Must be 0.")
	withoutInvoice     = newDesc("payments_without_invoice", "Payments without an invoice. Must be 0.")
	amountsDiffer      = newDesc("amounts_differ", "Payments of another amount than their invoice. Must be 0.")
	notMarked          = newDesc("payments_not_marked", "Payments whose invoice is not marked paid.")
	oldestNotMarked    = newDesc("oldest_not_marked_seconds", "Age of the oldest of these payments.")

	paidMinor  = newDesc("paid_minor", "Sum of the paid invoices, in the currency's smallest unit.", "currency")
	takenMinor = newDesc("taken_minor", "Sum of the payments, in the currency's smallest unit.", "currency")
	difference = newDesc("difference_minor", "How much more was taken than the invoices account for. Must be 0.",
		"currency")
)

// Describe implements prometheus.Collector.
func (l *latest) Describe(descriptions chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{failures, last, duration, invoices, paid, payments, paidWithoutPayment,
		paidTwice, withoutInvoice, amountsDiffer, notMarked, oldestNotMarked, paidMinor, takenMinor, difference} {
		descriptions <- d
	}
}

// Collect implements prometheus.Collector.
func (l *latest) Collect(metrics chan<- prometheus.Metric) {
	l.mu.Lock()
	defer l.mu.Unlock()
	metrics <- prometheus.MustNewConstMetric(failures, prometheus.CounterValue, float64(l.failed))
	if l.figures == nil {
		return
	}
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		metrics <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	f := l.figures
	gauge(last, float64(l.when.UnixMilli())/1000)
	gauge(duration, l.took.Seconds())
	gauge(invoices, float64(f.Invoices))
	gauge(paid, float64(f.Paid))
	gauge(payments, float64(f.Payments))
	gauge(paidWithoutPayment, float64(f.PaidWithoutPayment))
	gauge(paidTwice, float64(f.PaidTwice))
	gauge(withoutInvoice, float64(f.PaymentsWithoutInvoice))
	gauge(amountsDiffer, float64(f.AmountsDiffer))
	gauge(notMarked, float64(f.NotMarked))
	gauge(oldestNotMarked, f.OldestNotMarked.Seconds())
	for currency, sums := range f.Currencies {
		gauge(paidMinor, float(&sums.Paid), currency)
		gauge(takenMinor, float(&sums.Taken), currency)
		gauge(difference, float(sums.Difference()), currency)
	}
}

func float(n *big.Int) float64 {
	f, _ := new(big.Float).SetInt(n).Float64()
	return f
}
