package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"example.com/invoices/internal/database"
	"example.com/invoices/internal/money"
	"example.com/invoices/payment-provider/payment"
)

type sqlite struct{ database.File }

func openSQLite(ctx context.Context, url string) (Store, error) {
	file, err := Schema.OpenSQLite(ctx, url)
	if err != nil {
		return nil, err
	}
	return sqlite{file}, nil
}

func (s sqlite) Insert(ctx context.Context, payments []payment.Payment) (map[string]money.Amount, error) {
	before := map[string]money.Amount{}
	err := s.Write(ctx, func(tx *sql.Tx) error {
		for _, p := range payments {
			result, err := tx.ExecContext(ctx,
				`INSERT INTO payments (id, amount_minor, currency) VALUES (?, ?, ?) ON CONFLICT DO NOTHING`,
				p.ID, p.Amount.Minor, p.Amount.Currency)
			if err != nil {
				return err
			}
			inserted, err := result.RowsAffected()
			if err != nil {
				return err
			}
			if inserted == 1 {
				continue
			}
			var kept money.Amount
			if err := tx.QueryRowContext(ctx, `SELECT amount_minor, currency FROM payments WHERE id = ?`, p.ID).
				Scan(&kept.Minor, &kept.Currency); err != nil {
				return err
			}
			before[p.ID] = kept
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("insert payments: %w", err)
	}
	return before, nil
}

func (s sqlite) Get(ctx context.Context, id string) (payment.Payment, error) {
	p := payment.Payment{ID: id}
	var milliseconds int64
	err := s.QueryRowContext(ctx,
		`SELECT amount_minor, currency, created_at FROM payments WHERE id = ?`, id).
		Scan(&p.Amount.Minor, &p.Amount.Currency, &milliseconds)
	if errors.Is(err, sql.ErrNoRows) {
		return p, payment.ErrNotFound
	}
	if err != nil {
		return p, fmt.Errorf("get payment: %w", database.ClassifySQLite(err))
	}
	p.TakenAt = time.UnixMilli(milliseconds).UTC()
	return p, nil
}
