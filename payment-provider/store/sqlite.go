package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"example.com/invoices/internal/database"
	"example.com/invoices/payment-provider/payment"
)

type sqlite struct{ db *sql.DB }

func openSQLite(ctx context.Context, url string) (Store, error) {
	db, err := Schema.OpenSQLite(ctx, url)
	if err != nil {
		return nil, err
	}
	return sqlite{db}, nil
}

func (s sqlite) Ping(ctx context.Context) error { return database.PingSQLite(ctx, s.db) }
func (s sqlite) Close()                         { s.db.Close() }

// Excess returns nothing: a file has no roles.
func (s sqlite) Excess(context.Context) ([]string, error) { return nil, nil }

func (s sqlite) Insert(ctx context.Context, p payment.Payment) (payment.Payment, bool, error) {
	result, err := s.db.ExecContext(ctx,
		`INSERT INTO payments (id, amount_minor, currency) VALUES (?, ?, ?) ON CONFLICT DO NOTHING`,
		p.ID, p.Amount.Minor, p.Amount.Currency)
	if err != nil {
		return payment.Payment{}, false, fmt.Errorf("insert payment: %w", database.SQLite(err))
	}
	inserted, err := result.RowsAffected()
	if err != nil {
		return payment.Payment{}, false, err
	}
	kept, err := s.Get(ctx, p.ID)
	return kept, inserted == 1, err
}

func (s sqlite) Get(ctx context.Context, id string) (payment.Payment, error) {
	p := payment.Payment{ID: id}
	var milliseconds int64
	err := s.db.QueryRowContext(ctx,
		`SELECT amount_minor, currency, created_at FROM payments WHERE id = ?`, id).
		Scan(&p.Amount.Minor, &p.Amount.Currency, &milliseconds)
	if errors.Is(err, sql.ErrNoRows) {
		return p, payment.ErrNotFound
	}
	if err != nil {
		return p, fmt.Errorf("get payment: %w", database.SQLite(err))
	}
	p.TakenAt = time.UnixMilli(milliseconds).UTC()
	return p, nil
}
