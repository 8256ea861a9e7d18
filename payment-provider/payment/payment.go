// Package payment is the domain of payment-provider: it takes each payment exactly once, no matter
// how often it is requested.
package payment

import (
	"context"
	"errors"
	"time"

	"example.com/invoices/internal/money"
)

// Payment is a payment that was taken. ID is the client's, and the key: there is never more than
// one payment with an ID.
type Payment struct {
	ID      string
	Amount  money.Amount
	TakenAt time.Time // UTC, by the database's clock; set by the Store
}

// ErrNotFound means that there is no payment with that ID.
var ErrNotFound = errors.New("no such payment")

// Store keeps payments permanently.
type Store interface {
	// Insert adds each of payments, which have different IDs, unless there already is one with its
	// ID, and returns the amounts of those that existed. If it returns no error, all of them are
	// durable; otherwise any of them may be.
	Insert(ctx context.Context, payments []Payment) (before map[string]money.Amount, err error)
	// Get returns one payment, or ErrNotFound.
	Get(ctx context.Context, id string) (Payment, error)
}

// Outcome is what became of a requested payment.
type Outcome string

const (
	Taken    Outcome = "taken"
	Repeated Outcome = "repeated" // it was taken before; nothing has changed
	Mismatch Outcome = "mismatch" // another amount was taken under its id before
)

// Take takes payments, which have different IDs, and returns the outcome of each.
func Take(ctx context.Context, store Store, payments []Payment) ([]Outcome, error) {
	before, err := store.Insert(ctx, payments)
	if err != nil {
		return nil, err
	}
	outcomes := make([]Outcome, len(payments))
	for n, p := range payments {
		amount, existed := before[p.ID]
		switch {
		case !existed:
			outcomes[n] = Taken
		case amount == p.Amount:
			outcomes[n] = Repeated
		default:
			outcomes[n] = Mismatch
		}
	}
	return outcomes, nil
}
