package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"example.com/invoices/internal/database"
	"example.com/invoices/internal/money"
	"example.com/invoices/payment-provider/payment"
)

type postgres struct{ *database.Pool }

func openPostgres(ctx context.Context, url string, maxConns int) (Store, error) {
	pool, err := Schema.OpenPostgres(ctx, url, maxConns)
	if err != nil {
		return nil, err
	}
	return postgres{pool}, nil
}

func (s postgres) Excess(ctx context.Context) ([]string, error) { return Schema.Excess(ctx, s.Pool) }

// wrap adds what failed to an error, and classifies it.
func wrap(doing string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", doing, database.ClassifyPostgres(err))
}

// Insert is one statement that commits itself, so an idle session cannot leave a payment that is
// neither taken nor free.
func (s postgres) Insert(ctx context.Context, payments []payment.Payment) (map[string]money.Amount, error) {
	// In a fixed order, so that two lists with the same IDs wait for each other without a deadlock.
	payments = slices.SortedFunc(slices.Values(payments), func(a, b payment.Payment) int {
		return cmp.Compare(a.ID, b.ID)
	})
	ids, amounts, currencies := make([]string, len(payments)), make([]int64, len(payments)), make([]string, len(payments))
	for n, p := range payments {
		ids[n], amounts[n], currencies[n] = p.ID, p.Amount.Minor, p.Amount.Currency
	}
	var before map[string]money.Amount
	err := s.Do(ctx, database.Confirmed(func(conn *pgx.Conn) error { // repeated, it finds its own payments
		rows, _ := conn.Query(ctx, `
			INSERT INTO payments (id, amount_minor, currency)
			SELECT * FROM unnest($1::text[], $2::bigint[], $3::text[])
			ON CONFLICT DO NOTHING RETURNING id`, ids, amounts, currencies)
		before = nil
		inserted, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil || len(inserted) == len(ids) {
			return database.Unanswered(err)
		}
		isNew := make(map[string]bool, len(inserted))
		for _, id := range inserted {
			isNew[id] = true
		}
		before, err = confirmed(ctx, conn, slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return isNew[id] }))
		return err
	}))
	if err != nil {
		return nil, wrap("insert payments", err)
	}
	return before, nil
}

// confirmed returns the amounts of the existing payments with these IDs. It sees the row of a
// transaction that has just committed, and waits until that one is replicated, too.
func confirmed(ctx context.Context, conn *pgx.Conn, ids []string) (map[string]money.Amount, error) {
	rows, _ := conn.Query(ctx, `
		SELECT id, amount_minor, currency FROM payments, `+database.Confirm+` WHERE id = ANY($1)`, ids)
	kept, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (p payment.Payment, err error) {
		err = row.Scan(&p.ID, &p.Amount.Minor, &p.Amount.Currency)
		return p, err
	})
	if err == nil && len(kept) != len(ids) {
		err = fmt.Errorf("%d of %d payments are neither new nor present", len(ids)-len(kept), len(ids))
	}
	if err != nil {
		return nil, err
	}
	amounts := make(map[string]money.Amount, len(kept))
	for _, p := range kept {
		amounts[p.ID] = p.Amount
	}
	return amounts, nil
}

func (s postgres) Get(ctx context.Context, id string) (payment.Payment, error) {
	p := payment.Payment{ID: id}
	err := s.Do(ctx, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `SELECT amount_minor, currency, created_at FROM payments WHERE id = $1`, id).
			Scan(&p.Amount.Minor, &p.Amount.Currency, &p.TakenAt)
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return p, payment.ErrNotFound
	}
	p.TakenAt = p.TakenAt.UTC()
	return p, wrap("get payment", err)
}
