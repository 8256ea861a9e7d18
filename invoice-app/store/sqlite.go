package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"time"

	"example.com/invoices/internal/database"
	"example.com/invoices/invoice-app/invoice"
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

// now is the database's clock, as the tables keep time.
const now = `CAST(unixepoch('subsec') * 1000 AS INTEGER)`

func (s sqlite) exec(ctx context.Context, doing, statement string, args ...any) error {
	if _, err := s.db.ExecContext(ctx, statement, args...); err != nil {
		return fmt.Errorf("%s: %w", doing, database.SQLite(err))
	}
	return nil
}

// query collects the rows of statement, scanned by scan.
func query[T any](ctx context.Context, db *sql.DB, doing string, scan func(*sql.Rows) (T, error), statement string, args ...any) ([]T, error) {
	collect := func() (list []T, err error) {
		rows, err := db.QueryContext(ctx, statement, args...)
		if err != nil {
			return nil, err
		}
		defer rows.Close()
		for rows.Next() {
			item, err := scan(rows)
			if err != nil {
				return nil, err
			}
			list = append(list, item)
		}
		return list, rows.Err()
	}
	list, err := collect()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, database.SQLite(err))
	}
	return list, nil
}

func scanSQLite(rows *sql.Rows) (i invoice.Invoice, err error) {
	err = rows.Scan(&i.Seq, &i.ID, &i.Amount.Minor, &i.Amount.Currency, &i.Paid, &i.Rejected)
	return i, err
}

// Add takes the file's write lock first, so that invoices become visible in
// the order of their seq.
func (s sqlite) Add(ctx context.Context, invoices iter.Seq2[invoice.Invoice, error]) (added int, err error) {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return 0, fmt.Errorf("add invoices: %w", database.SQLite(err))
	}
	defer func() { _ = tx.Rollback() }() // after a commit it does nothing
	index := 0
	for i, err := range invoices {
		if err != nil {
			return 0, err
		}
		isNew, err := addRow(ctx, tx, index, i)
		if err != nil {
			return 0, err
		}
		if isNew {
			added++
		}
		index++
	}
	if err := tx.Commit(); err != nil {
		return 0, fmt.Errorf("add invoices: %w", database.SQLite(err))
	}
	return added, nil
}

func addRow(ctx context.Context, tx *sql.Tx, index int, i invoice.Invoice) (isNew bool, err error) {
	var same bool
	err = tx.QueryRowContext(ctx, `SELECT amount_minor = ? AND currency = ? FROM invoices WHERE id = ?`,
		i.Amount.Minor, i.Amount.Currency, i.ID).Scan(&same)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		_, err = tx.ExecContext(ctx, `INSERT INTO invoices (id, amount_minor, currency) VALUES (?, ?, ?)`,
			i.ID, i.Amount.Minor, i.Amount.Currency)
		isNew = true
	case err == nil && !same:
		return false, &invoice.ConflictError{Index: index, ID: i.ID}
	}
	if err != nil {
		return false, fmt.Errorf("add invoice: %w", database.SQLite(err))
	}
	return isNew, nil
}

func (s sqlite) Get(ctx context.Context, id string) (invoice.Invoice, error) {
	list, err := query(ctx, s.db, "get invoice", scanSQLite, `SELECT `+columns+` FROM invoices WHERE id = ?`, id)
	if err != nil {
		return invoice.Invoice{}, err
	}
	if len(list) == 0 {
		return invoice.Invoice{}, invoice.ErrNotFound
	}
	return list[0], nil
}

func (s sqlite) List(ctx context.Context, f invoice.Filter) ([]invoice.Invoice, error) {
	return query(ctx, s.db, "list invoices", scanSQLite, `
		SELECT `+columns+` FROM invoices
		WHERE seq > ?1 AND (?2 IS NULL OR (paid_at IS NOT NULL) = ?2)
		ORDER BY seq LIMIT ?3`, f.After, f.Paid, f.Limit)
}

func (s sqlite) Retry(ctx context.Context, id string) error {
	i, err := s.Get(ctx, id)
	switch {
	case err != nil:
		return err
	case i.Paid:
		return invoice.ErrPaid
	case i.Rejected == "": // somebody may be paying it: leave it alone
		return nil
	}
	return s.exec(ctx, "retry invoice", `
		UPDATE invoices SET rejected_reason = NULL, claimed_until = 0
		WHERE id = ? AND rejected_reason IS NOT NULL`, id)
}

func (s sqlite) LastSeq(ctx context.Context) (seq int64, err error) {
	if err := s.db.QueryRowContext(ctx, `SELECT coalesce(max(seq), 0) FROM invoices`).Scan(&seq); err != nil {
		return 0, fmt.Errorf("ask for the last invoice: %w", database.SQLite(err))
	}
	return seq, nil
}

func (s sqlite) Claim(ctx context.Context, after, through int64, limit int, lease time.Duration) ([]invoice.Claim, error) {
	scan := func(rows *sql.Rows) (c invoice.Claim, err error) {
		err = rows.Scan(&c.Attempt, &c.Seq, &c.ID, &c.Amount.Minor, &c.Amount.Currency, &c.Paid, &c.Rejected)
		return c, err
	}
	return query(ctx, s.db, "claim invoices", scan, `
		UPDATE invoices SET claimed_until = `+now+` + ?4, attempts = attempts + 1
		WHERE seq IN (
			SELECT seq FROM invoices
			WHERE paid_at IS NULL AND rejected_reason IS NULL
			  AND seq > ?1 AND seq <= ?2 AND claimed_until <= `+now+`
			ORDER BY seq LIMIT ?3)
		RETURNING attempts, `+columns, after, through, limit, lease.Milliseconds())
}

// MarkPaid is the line that marks an invoice paid.
func (s sqlite) MarkPaid(ctx context.Context, id string) error {
	return s.exec(ctx, "mark invoice paid", `
		UPDATE invoices SET paid_at = `+now+`, rejected_reason = NULL
		WHERE id = ? AND paid_at IS NULL`, id)
}

func (s sqlite) Reject(ctx context.Context, claim invoice.Claim, reason string) error {
	return s.exec(ctx, "reject invoice", `
		UPDATE invoices SET rejected_reason = ?
		WHERE id = ? AND attempts = ? AND paid_at IS NULL`, reason, claim.ID, claim.Attempt)
}

func (s sqlite) Release(ctx context.Context, claim invoice.Claim, wait time.Duration) error {
	return s.exec(ctx, "release invoice", `
		UPDATE invoices SET claimed_until = `+now+` + ?
		WHERE id = ? AND attempts = ? AND paid_at IS NULL`, wait.Milliseconds(), claim.ID, claim.Attempt)
}

func (s sqlite) Unsettled(ctx context.Context, through int64) (count int, wait time.Duration, err error) {
	var milliseconds int64
	err = s.db.QueryRowContext(ctx, `
		SELECT count(*), coalesce(min(claimed_until) - `+now+`, 0) FROM invoices
		WHERE paid_at IS NULL AND rejected_reason IS NULL AND seq <= ?`, through).Scan(&count, &milliseconds)
	if err != nil {
		return 0, 0, fmt.Errorf("count unsettled invoices: %w", database.SQLite(err))
	}
	return count, time.Duration(milliseconds) * time.Millisecond, nil
}
