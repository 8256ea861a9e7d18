package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"example.com/invoices/internal/database"
	"example.com/invoices/payment-provider/payment"
)

type postgres struct{ pool *pgxpool.Pool }

func openPostgres(ctx context.Context, url string, maxConns int) (Store, error) {
	pool, err := Schema.OpenPostgres(ctx, url, maxConns)
	if err != nil {
		return nil, err
	}
	return postgres{pool}, nil
}

func (s postgres) Ping(ctx context.Context) error { return database.Postgres(s.pool.Ping(ctx)) }
func (s postgres) Close()                         { s.pool.Close() }

// Insert asks for what is kept in a second statement: a row that another
// transaction inserted meanwhile is not visible to the first.
func (s postgres) Insert(ctx context.Context, p payment.Payment) (kept payment.Payment, isNew bool, err error) {
	err = database.Confirmed(ctx, s.pool, func(tx pgx.Tx) (bool, error) {
		tag, err := tx.Exec(ctx,
			`INSERT INTO payments (id, amount_minor, currency) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`,
			p.ID, p.Amount.Minor, p.Amount.Currency)
		isNew = tag.RowsAffected() == 1
		return isNew, err
	})
	if err != nil {
		return payment.Payment{}, false, fmt.Errorf("insert payment: %w", database.Postgres(err))
	}
	kept, err = s.Get(ctx, p.ID)
	return kept, isNew, err
}

func (s postgres) Get(ctx context.Context, id string) (payment.Payment, error) {
	p := payment.Payment{ID: id}
	err := s.pool.QueryRow(ctx,
		`SELECT amount_minor, currency, created_at FROM payments WHERE id = $1`, id).
		Scan(&p.Amount.Minor, &p.Amount.Currency, &p.TakenAt)
	if errors.Is(err, pgx.ErrNoRows) {
		return p, payment.ErrNotFound
	}
	if err != nil {
		return p, fmt.Errorf("get payment: %w", database.Postgres(err))
	}
	p.TakenAt = p.TakenAt.UTC()
	return p, nil
}
