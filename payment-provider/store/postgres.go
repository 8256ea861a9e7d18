package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"example.com/invoices/internal/database"
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

// wrap says what was being done, and whether the database is to blame.
func wrap(doing string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", doing, database.Postgres(err))
}

// Insert is one statement that commits itself: no session that stands still
// can leave a payment that is neither taken nor free.
func (s postgres) Insert(ctx context.Context, p payment.Payment) (kept payment.Payment, isNew bool, err error) {
	kept.ID = p.ID
	err = s.Confirmed(ctx, func(conn *pgx.Conn) error {
		err := conn.QueryRow(ctx, `
			INSERT INTO payments (id, amount_minor, currency) VALUES ($1, $2, $3)
			ON CONFLICT DO NOTHING RETURNING amount_minor, currency, created_at`,
			p.ID, p.Amount.Minor, p.Amount.Currency).Scan(&kept.Amount.Minor, &kept.Amount.Currency, &kept.TakenAt)
		if !errors.Is(err, pgx.ErrNoRows) {
			isNew = err == nil
			return database.Unanswered(err)
		}
		// A second statement, which sees the row of a transaction that has only now
		// committed, and waits until that one is replicated, too.
		return conn.QueryRow(ctx, `
			SELECT amount_minor, currency, created_at FROM payments, `+database.Confirm+` WHERE id = $1`,
			p.ID).Scan(&kept.Amount.Minor, &kept.Amount.Currency, &kept.TakenAt)
	})
	if err != nil {
		return payment.Payment{}, false, wrap("insert payment", err)
	}
	kept.TakenAt = kept.TakenAt.UTC()
	return kept, isNew, nil
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
