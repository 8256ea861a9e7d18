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

var (
	// ErrMismatch says that the id was paid before with another amount or currency.
	ErrMismatch = errors.New("was paid before with another amount or currency")
	// ErrNotFound says that there is no payment of that id.
	ErrNotFound = errors.New("no such payment")
)

// Store keeps payments for good.
type Store interface {
	// Insert keeps p, unless a payment of its id is there already, and returns
	// the one that is kept, and whether it is new. When it returns without an
	// error, the payment is durable.
	Insert(ctx context.Context, p Payment) (kept Payment, isNew bool, err error)
	// Get returns one payment, or ErrNotFound.
	Get(ctx context.Context, id string) (Payment, error)
}

// Take takes a payment of amount under id. Asked again with the same payload
// it changes nothing and succeeds, with isNew false; with another payload it
// returns ErrMismatch.
func Take(ctx context.Context, store Store, id string, amount money.Amount) (isNew bool, err error) {
	kept, isNew, err := store.Insert(ctx, Payment{ID: id, Amount: amount})
	if err != nil {
		return false, err
	}
	if kept.Amount != amount {
		return false, ErrMismatch
	}
	return isNew, nil
}
