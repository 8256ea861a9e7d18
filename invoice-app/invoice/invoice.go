// Package invoice is the domain of invoice-app: invoices, and paying each of them exactly once.
package invoice

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/big"
	"time"

	"example.com/invoices/internal/money"
)

// Invoice is an amount that is owed. ID and Amount never change.
type Invoice struct {
	Seq      int64  // order of arrival, from 1; set by the Store
	ID       string // chosen by the sender
	Amount   money.Amount
	Paid     bool
	Rejected string // why the provider refuses it, or ""; never set together with Paid
}

// Settled reports whether nothing is left to do: the invoice is paid, or it is parked until
// somebody looks at it.
func (i Invoice) Settled() bool { return i.Paid || i.Rejected != "" }

// ErrNotFound means that there is no invoice with that ID.
var ErrNotFound = errors.New("no such invoice")

// ErrPaid means that the operation makes no sense for a paid invoice.
var ErrPaid = errors.New("is paid already")

// ConflictError means that an invoice with the same ID but another amount or currency exists.
type ConflictError struct {
	Index int // of the invoice to be added, from 0
	ID    string
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("invoice %q exists with another amount or currency", e.ID)
}

// All returns a list as the sequence that Store.Add takes.
func All(list []Invoice) iter.Seq2[Invoice, error] {
	return func(yield func(Invoice, error) bool) {
		for _, i := range list {
			if !yield(i, nil) {
				return
			}
		}
	}
}

// Filter selects what List returns.
type Filter struct {
	Paid     *bool // only paid ones, only unpaid ones (including rejected ones), or nil for all
	Rejected *bool // only rejected ones, only others, or nil for all
	After    int64 // only those with a higher Seq
	Limit    int   // maximum number
}

// Sum is the total of the invoices with one currency and one state.
type Sum struct {
	Currency       string
	Paid, Rejected bool
	Count          int64
	Minor          *big.Int // the total can exceed the largest Amount
}

// Store keeps invoices. Every method returns a wrapped database.ErrUnavailable if the database
// does not respond.
type Store interface {
	// Add adds the invoices that are new, in their order and all or none, and returns their number.
	// An existing invoice with the same data counts as done; with other data it is a
	// *ConflictError. The first error of the sequence ends it, and is returned.
	Add(ctx context.Context, invoices iter.Seq2[Invoice, error]) (added int, err error)
	// Get returns one invoice, or ErrNotFound.
	Get(ctx context.Context, id string) (Invoice, error)
	// List returns invoices in order of arrival.
	List(ctx context.Context, filter Filter) ([]Invoice, error)
	// Sum returns the totals of what List would return, for invoices with a Seq up to through. last
	// is the Seq of the last one, or 0 if there are none.
	Sum(ctx context.Context, filter Filter, through int64) (sums []Sum, last int64, err error)
	// Retry unparks a rejected invoice, so that it is tried again, and does nothing to an unpaid
	// one. The error may be ErrNotFound or ErrPaid.
	Retry(ctx context.Context, id string) error
	// RetryAll is Retry for up to limit rejected invoices with a Seq above after. It returns the
	// number of unparked invoices, and the Seq of the last one, or 0 if there were none.
	RetryAll(ctx context.Context, after int64, limit int) (freed int, last int64, err error)

	Ledger
}

// Ledger is the part of a Store that paying needs. Every change is durable when the method
// returns.
type Ledger interface {
	// LastSeq returns the highest Seq, or 0 if there are no invoices.
	LastSeq(ctx context.Context) (int64, error)
	// Claim reserves up to limit unsettled, unclaimed invoices with a Seq above after and up to
	// through, in order, for the duration of lease on the database's clock, MaxLease at most.
	// Nobody else gets them during that time. A claim that ends later than any could was made
	// before the clock was set back, and does not count.
	Claim(ctx context.Context, after, through int64, limit int, lease time.Duration) ([]Claim, error)
	// MarkPaid records that the provider has taken the payments of these invoices. That stays true
	// no matter who reports it and when, so the claims need not be the latest ones, and a rejection
	// is overruled.
	MarkPaid(ctx context.Context, claims []Claim) error
	// Reject parks claimed invoices. It skips a claim that is not the latest one: another replica
	// has the invoice.
	Reject(ctx context.Context, rejected []Rejected) error
	// Release lets claimed invoices be claimed again, each after its wait. It skips a claim that is
	// not the latest one.
	Release(ctx context.Context, released []Released) error
	// Unsettled counts the unsettled invoices with a Seq up to through, including claimed ones, and
	// returns how long until the first of them can be claimed (zero or less: now).
	Unsettled(ctx context.Context, through int64) (count int, wait time.Duration, err error)
}

// MaxLease is the longest duration of a claim.
const MaxLease = 10 * time.Minute

// Claim is an invoice that is reserved for paying.
type Claim struct {
	Invoice
	Attempt int // the number of claims of the invoice so far: the fencing token
}

// Rejected is a claimed invoice that the provider refuses.
type Rejected struct {
	Claim
	Reason string // not empty
}

// Released is a claimed invoice that could not be settled, and how long it must rest.
type Released struct {
	Claim
	Wait time.Duration
}
