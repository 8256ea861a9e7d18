// Package invoice is what invoice-app is about: invoices, and paying each of
// them exactly once.
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
	ID       string // whoever sent the invoice made it up
	Amount   money.Amount
	Paid     bool
	Rejected string // why the provider will not take it, or ""; never set together with Paid
}

// Settled says that there is nothing left to do: it is paid, or it is parked
// until somebody looks at it.
func (i Invoice) Settled() bool { return i.Paid || i.Rejected != "" }

// ErrNotFound says that there is no invoice of that id.
var ErrNotFound = errors.New("no such invoice")

// ErrPaid says that what was asked for makes no sense for a paid invoice.
var ErrPaid = errors.New("is paid already")

// ConflictError says that an invoice's id is taken by one with another amount
// or currency.
type ConflictError struct {
	Index int // which of the invoices that were to be added, from 0
	ID    string
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("invoice %q exists with another amount or currency", e.ID)
}

// All is the sequence of a list, as Store.Add takes it.
func All(list []Invoice) iter.Seq2[Invoice, error] {
	return func(yield func(Invoice, error) bool) {
		for _, i := range list {
			if !yield(i, nil) {
				return
			}
		}
	}
}

// Filter chooses what List returns.
type Filter struct {
	Paid     *bool // only the paid, only the unpaid (rejected ones included), or nil for all
	Rejected *bool // only the rejected, only those that are not, or nil for all
	After    int64 // only those with a higher Seq
	Limit    int   // at most so many
}

// Sum is what the invoices of a currency and a state come to.
type Sum struct {
	Currency       string
	Paid, Rejected bool
	Count          int64
	Minor          *big.Int // together they may be more than any Amount
}

// Store keeps invoices. Every method returns a wrapped
// database.ErrUnavailable when the database cannot be asked.
type Store interface {
	// Add keeps the invoices that are new, in their order and all or none, and
	// returns how many were. One that is there already with the same data
	// counts as done; with other data it is a *ConflictError. The sequence's
	// first error ends it, and is returned.
	Add(ctx context.Context, invoices iter.Seq2[Invoice, error]) (added int, err error)
	// Get returns one invoice, or ErrNotFound.
	Get(ctx context.Context, id string) (Invoice, error)
	// List returns invoices in order of arrival.
	List(ctx context.Context, filter Filter) ([]Invoice, error)
	// Sum adds up what List would return of the invoices with a Seq of at most
	// through. last is the Seq of the last one, or 0 if there were none.
	Sum(ctx context.Context, filter Filter, through int64) (sums []Sum, last int64, err error)
	// Retry frees a rejected invoice, so that it is tried again, and does
	// nothing to an unpaid one. ErrNotFound, or ErrPaid.
	Retry(ctx context.Context, id string) error
	// RetryAll is Retry for up to limit rejected invoices with a Seq over after. It
	// returns how many it freed, and the Seq of the last one, or 0 if there were none.
	RetryAll(ctx context.Context, after int64, limit int) (freed int, last int64, err error)

	Ledger
}

// Ledger is what paying needs of a Store. Every change is durable when the
// method returns.
type Ledger interface {
	// LastSeq returns the highest Seq there is, or 0.
	LastSeq(ctx context.Context) (int64, error)
	// Claim reserves up to limit unsettled, unclaimed invoices with a Seq over
	// after and of at most through, the first ones first, for the time of lease
	// on the database's clock. Nobody else is given them before that time is over.
	Claim(ctx context.Context, after, through int64, limit int, lease time.Duration) ([]Claim, error)
	// MarkPaid records that the provider has taken the payments of these invoices.
	// That is true whoever says it and however late, so it does not matter whether
	// the claims are the latest ones, and a rejection is overruled.
	MarkPaid(ctx context.Context, claims []Claim) error
	// Reject parks claimed invoices. Where the claim is not the latest one, it
	// does nothing: somebody else is on it.
	Reject(ctx context.Context, rejected []Rejected) error
	// Release lets claimed invoices be claimed again, each once its wait is over.
	// Where the claim is not the latest one, it does nothing.
	Release(ctx context.Context, released []Released) error
	// Unsettled counts the unsettled invoices with a Seq of at most through,
	// claimed ones included, and says how long until the first of them can be
	// claimed (zero or less: now).
	Unsettled(ctx context.Context, through int64) (count int, wait time.Duration, err error)
}

// Claim is an invoice that somebody has reserved to pay.
type Claim struct {
	Invoice
	Attempt int // counts the invoice's claims, from 1: the fencing token
}

// Rejected is a claimed invoice that the provider will not take.
type Rejected struct {
	Claim
	Reason string // not empty
}

// Released is a claimed invoice that could not be settled, and how long it rests.
type Released struct {
	Claim
	Wait time.Duration
}
