// Package payment is what the payment provider is about: it takes each payment
// once, whoever asks however often.
package payment

import (
	"context"
	"errors"
	"time"

	"example.com/invoices/internal/money"
)

// Payment is money taken. ID is the client's own, and the key: there is at
// most one payment of an id, ever.
type Payment struct {
	ID      string
	Amount  money.Amount
	TakenAt time.Time // UTC, by the database's clock; set by the Store
}

// ErrNotFound says that there is no payment of that id.
var ErrNotFound = errors.New("no such payment")

// Store keeps payments for good.
type Store interface {
	// Insert keeps each of payments, whose ids differ, unless there is one of its
	// id already, and returns the amounts of those that were there before. When it
	// returns without an error, all of them are durable; with one, any may be.
	Insert(ctx context.Context, payments []Payment) (before map[string]money.Amount, err error)
	// Get returns one payment, or ErrNotFound.
	Get(ctx context.Context, id string) (Payment, error)
}

// Outcome is what became of a payment that somebody has asked for.
type Outcome string

const (
	Taken    Outcome = "taken"
	Repeated Outcome = "repeated" // it was taken before, and nothing was changed
	Mismatch Outcome = "mismatch" // another amount was taken under its id before
)

// Take takes payments, whose ids differ, and returns the outcome of each.
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
