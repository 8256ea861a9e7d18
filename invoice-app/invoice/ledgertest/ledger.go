// Package ledgertest provides an in-memory model of an invoice.Ledger that works in fake time, and
// the tests that the model and every real ledger must pass.
package ledgertest

import (
	"context"
	"slices"
	"sync"
	"time"

	"example.com/invoices/invoice-app/invoice"
)

// Ledger is an invoice.Ledger in memory. It uses the clock of package time.
type Ledger struct {
	mu   sync.Mutex
	rows []row // by Seq, from 1
}

type row struct {
	invoice.Claim
	claimedUntil time.Time
}

// New returns a ledger with these invoices.
func New(invoices ...invoice.Invoice) *Ledger {
	l := &Ledger{}
	for _, i := range invoices {
		l.Add(i)
	}
	return l
}

// Add adds an invoice with a new ID.
func (l *Ledger) Add(i invoice.Invoice) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i.Seq = int64(len(l.rows) + 1)
	l.rows = append(l.rows, row{Claim: invoice.Claim{Invoice: i}})
}

// Row returns the invoice with this Seq and its latest claim.
func (l *Ledger) Row(seq int64) invoice.Claim {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.rows[seq-1].Claim
}

// Rows returns all of them, by Seq.
func (l *Ledger) Rows() []invoice.Claim {
	l.mu.Lock()
	defer l.mu.Unlock()
	rows := make([]invoice.Claim, len(l.rows))
	for n, r := range l.rows {
		rows[n] = r.Claim
	}
	return rows
}

// Get implements invoice.Store.
func (l *Ledger) Get(_ context.Context, id string) (invoice.Invoice, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r := l.find(id); r != nil {
		return r.Invoice, nil
	}
	return invoice.Invoice{}, invoice.ErrNotFound
}

// Retry implements invoice.Store.
func (l *Ledger) Retry(_ context.Context, id string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.find(id)
	switch {
	case r == nil:
		return invoice.ErrNotFound
	case r.Paid:
		return invoice.ErrPaid
	case r.Rejected != "":
		r.Rejected, r.claimedUntil = "", time.Time{}
	}
	return nil
}

// RetryAll implements invoice.Store.
func (l *Ledger) RetryAll(_ context.Context, after int64, limit int) (freed int, last int64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	rows := l.upTo(after, int64(len(l.rows)))
	for n := range rows {
		if r := &rows[n]; r.Rejected != "" && freed < limit {
			r.Rejected, r.claimedUntil = "", time.Time{}
			freed, last = freed+1, r.Seq
		}
	}
	return freed, last, nil
}

func (l *Ledger) find(id string) *row {
	n := slices.IndexFunc(l.rows, func(r row) bool { return r.ID == id })
	if n < 0 {
		return nil
	}
	return &l.rows[n]
}

// upTo returns the rows with a Seq above after and up to through.
func (l *Ledger) upTo(after, through int64) []row {
	through = min(through, int64(len(l.rows)))
	return l.rows[min(after, through):through]
}

// LastSeq implements invoice.Ledger, like the methods below.
func (l *Ledger) LastSeq(context.Context) (int64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return int64(len(l.rows)), nil
}

func (l *Ledger) Claim(
	_ context.Context, after, through int64, limit int, lease time.Duration,
) (claims []invoice.Claim, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	rows := l.upTo(after, through)
	for n := range rows {
		r := &rows[n]
		claimed := r.claimedUntil.After(now) && !r.claimedUntil.After(now.Add(invoice.MaxLease))
		if len(claims) < limit && !r.Settled() && !claimed {
			r.claimedUntil = now.Add(lease)
			r.Attempt++
			claims = append(claims, r.Claim)
		}
	}
	return claims, nil
}

func (l *Ledger) MarkPaid(_ context.Context, claims []invoice.Claim) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range claims {
		r := &l.rows[c.Seq-1]
		r.Paid, r.Rejected = true, ""
	}
	return nil
}

func (l *Ledger) Reject(_ context.Context, rejected []invoice.Rejected) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range rejected {
		if r := &l.rows[c.Seq-1]; r.Attempt == c.Attempt && !r.Paid {
			r.Rejected = c.Reason
		}
	}
	return nil
}

func (l *Ledger) Release(_ context.Context, released []invoice.Released) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range released {
		if r := &l.rows[c.Seq-1]; r.Attempt == c.Attempt {
			r.claimedUntil = time.Now().Add(c.Wait)
		}
	}
	return nil
}

func (l *Ledger) Unsettled(_ context.Context, through int64) (count int, wait time.Duration, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	for _, r := range l.upTo(0, through) {
		if r.Settled() {
			continue
		}
		left := max(r.claimedUntil.Sub(now), 0)
		if count == 0 || left < wait {
			wait = left
		}
		count++
	}
	return count, wait, nil
}
