package store

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"time"

	"example.com/invoices/internal/database"
	"example.com/invoices/invoice-app/invoice"
)

type sqlite struct{ database.File }

func openSQLite(ctx context.Context, url string) (Store, error) {
	file, err := Schema.OpenSQLite(ctx, url)
	if err != nil {
		return nil, err
	}
	s := sqlite{file}
	if err := s.discardLeftovers(ctx); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// visible is true for every invoice except those of an import in progress, which come after all
// others.
const visible = `seq < coalesce((SELECT first FROM importing), 9223372036854775807)`

// now is the database's clock, in the unit of the tables.
const now = `CAST(unixepoch('subsec') * 1000 AS INTEGER)`

// exec runs one statement that commits itself, once for each of args.
func (s sqlite) exec(ctx context.Context, doing, statement string, args ...[]any) error {
	err := s.Write(ctx, func(tx *sql.Tx) error {
		for _, a := range args {
			if _, err := tx.ExecContext(ctx, statement, a...); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return nil
}

// querying is the file, or a transaction.
type querying interface {
	QueryContext(ctx context.Context, statement string, args ...any) (*sql.Rows, error)
}

// query collects the rows of statement, scanned by scan.
func query[T any](
	ctx context.Context, db querying, doing string, scan func(*sql.Rows) (T, error), statement string, args ...any,
) ([]T, error) {
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
		return nil, fmt.Errorf("%s: %w", doing, database.ClassifySQLite(err))
	}
	return list, nil
}

func scanSQLite(rows *sql.Rows) (i invoice.Invoice, err error) {
	err = rows.Scan(&i.Seq, &i.ID, &i.Amount.Minor, &i.Amount.Currency, &i.Paid, &i.Rejected)
	return i, err
}

const getSQLite = `SELECT ` + columns + ` FROM invoices WHERE id = ?1 AND ` + visible

func (s sqlite) Get(ctx context.Context, id string) (invoice.Invoice, error) {
	list, err := query(ctx, s, "get invoice", scanSQLite, getSQLite, id)
	if err != nil {
		return invoice.Invoice{}, err
	}
	if len(list) == 0 {
		return invoice.Invoice{}, invoice.ErrNotFound
	}
	return list[0], nil
}

func listSQLite(f invoice.Filter) string {
	from := `invoices`
	if f.Paid != nil && f.Rejected != nil && !*f.Paid && !*f.Rejected { // as in claimSQLite
		from += ` INDEXED BY invoices_unsettled`
	}
	return `SELECT ` + columns + ` FROM ` + from + ` WHERE seq > ?1 AND ` + visible + condition(f) +
		` ORDER BY seq LIMIT ?2`
}

func (s sqlite) List(ctx context.Context, f invoice.Filter) ([]invoice.Invoice, error) {
	return query(ctx, s, "list invoices", scanSQLite, listSQLite(f), f.After, f.Limit)
}

func sumSQLite(f invoice.Filter) string {
	return sumsOf(`SELECT ` + sumColumns + ` FROM invoices WHERE seq > ?1 AND seq <= ?3 AND ` + visible + condition(f) +
		` ORDER BY seq LIMIT ?2`)
}

func (s sqlite) Sum(ctx context.Context, f invoice.Filter, through int64) ([]invoice.Sum, int64, error) {
	scan := func(rows *sql.Rows) (summed, error) { return scanSum(rows) }
	rows, err := query(ctx, s, "add up invoices", scan, sumSQLite(f), f.After, f.Limit, through)
	list, last := sums(rows)
	return list, last, err
}

func (s sqlite) Retry(ctx context.Context, id string) error {
	i, err := s.Get(ctx, id)
	switch {
	case err != nil:
		return err
	case i.Paid:
		return invoice.ErrPaid
	case i.Rejected == "": // it may be in the middle of a payment
		return nil
	}
	return s.exec(ctx, "retry invoice", `
		UPDATE invoices SET rejected_reason = NULL, claimed_until = 0
		WHERE id = ? AND rejected_reason IS NOT NULL`, []any{id})
}

const retryAllSQLite = `
	UPDATE invoices SET rejected_reason = NULL, claimed_until = 0
	WHERE seq IN (
		SELECT seq FROM invoices WHERE rejected_reason IS NOT NULL AND seq > ?1 AND ` + visible + ` ORDER BY seq LIMIT ?2)
	RETURNING seq`

func (s sqlite) RetryAll(ctx context.Context, after int64, limit int) (freed int, last int64, err error) {
	scan := func(rows *sql.Rows) (seq int64, err error) {
		err = rows.Scan(&seq)
		return seq, err
	}
	var seqs []int64
	err = s.Write(ctx, func(tx *sql.Tx) (err error) {
		seqs, err = query(ctx, tx, "retry invoices", scan, retryAllSQLite, after, limit)
		return err
	})
	return len(seqs), slices.Max(append(seqs, 0)), err
}

const maxSQLite = `SELECT coalesce(max(seq), 0) FROM invoices WHERE ` + visible

func (s sqlite) LastSeq(ctx context.Context) (seq int64, err error) {
	if err := s.QueryRowContext(ctx, maxSQLite).Scan(&seq); err != nil {
		return 0, fmt.Errorf("query the last invoice: %w", database.ClassifySQLite(err))
	}
	return seq, nil
}

// Without statistics SQLite would use invoices_unpaid, where all invoices that were ever rejected
// come first.
const claimSQLite = `
	UPDATE invoices SET claimed_until = ` + now + ` + ?4, attempts = attempts + 1
	WHERE seq IN (
		SELECT seq FROM invoices INDEXED BY invoices_unsettled
		WHERE paid_at IS NULL AND rejected_reason IS NULL
		  AND seq > ?1 AND seq <= ?2 AND ` + visible + `
		  AND (claimed_until <= ` + now + ` OR claimed_until > ` + now + ` + ?5)
		ORDER BY seq LIMIT ?3)
	RETURNING attempts, ` + columns

func (s sqlite) Claim(
	ctx context.Context, after, through int64, limit int, lease time.Duration,
) ([]invoice.Claim, error) {
	scan := func(rows *sql.Rows) (c invoice.Claim, err error) {
		err = rows.Scan(&c.Attempt, &c.Seq, &c.ID, &c.Amount.Minor, &c.Amount.Currency, &c.Paid, &c.Rejected)
		return c, err
	}
	var claims []invoice.Claim
	err := s.Write(ctx, func(tx *sql.Tx) (err error) {
		claims, err = query(ctx, tx, "claim invoices", scan, claimSQLite,
			after, through, limit, lease.Milliseconds(), invoice.MaxLease.Milliseconds())
		return err
	})
	return claims, err
}

// MarkPaid marks invoices paid.
func (s sqlite) MarkPaid(ctx context.Context, claims []invoice.Claim) error {
	args := make([][]any, len(claims))
	for n, c := range claims {
		args[n] = []any{c.Seq}
	}
	return s.exec(ctx, "mark invoices paid", `
		UPDATE invoices SET paid_at = `+now+`, rejected_reason = NULL
		WHERE seq = ? AND paid_at IS NULL`, args...)
}

func (s sqlite) Reject(ctx context.Context, rejected []invoice.Rejected) error {
	args := make([][]any, len(rejected))
	for n, r := range rejected {
		args[n] = []any{r.Reason, r.Seq, r.Attempt}
	}
	return s.exec(ctx, "reject invoices", `
		UPDATE invoices SET rejected_reason = ?
		WHERE seq = ? AND attempts = ? AND paid_at IS NULL`, args...)
}

func (s sqlite) Release(ctx context.Context, released []invoice.Released) error {
	args := make([][]any, len(released))
	for n, r := range released {
		args[n] = []any{r.Wait.Milliseconds(), r.Seq, r.Attempt}
	}
	return s.exec(ctx, "release invoices", `
		UPDATE invoices SET claimed_until = `+now+` + ?
		WHERE seq = ? AND attempts = ? AND paid_at IS NULL`, args...)
}

const unsettledSQLite = `
	SELECT count(*), coalesce(min(claimed_until) - ` + now + `, 0) FROM invoices INDEXED BY invoices_unsettled
	WHERE paid_at IS NULL AND rejected_reason IS NULL AND seq <= ?1 AND ` + visible

func (s sqlite) Unsettled(ctx context.Context, through int64) (count int, wait time.Duration, err error) {
	var milliseconds int64
	if err := s.QueryRowContext(ctx, unsettledSQLite, through).Scan(&count, &milliseconds); err != nil {
		return 0, 0, fmt.Errorf("count unsettled invoices: %w", database.ClassifySQLite(err))
	}
	return count, time.Duration(milliseconds) * time.Millisecond, nil
}

const backlogSQLite = `
	SELECT (SELECT count(*) FROM (SELECT 1 FROM invoices INDEXED BY invoices_unsettled
			WHERE paid_at IS NULL AND rejected_reason IS NULL AND ` + visible + ` LIMIT 500000)),
		coalesce(max(` + now + ` - (SELECT created_at FROM invoices INDEXED BY invoices_unsettled
			WHERE paid_at IS NULL AND rejected_reason IS NULL AND ` + visible + ` ORDER BY seq LIMIT 1), 0), 0)`

func (s sqlite) Backlog(ctx context.Context) (unpaid int64, oldest time.Duration, err error) {
	var milliseconds int64
	if err := s.QueryRowContext(ctx, backlogSQLite).Scan(&unpaid, &milliseconds); err != nil {
		return 0, 0, fmt.Errorf("count unpaid invoices: %w", database.ClassifySQLite(err))
	}
	return unpaid, time.Duration(milliseconds) * time.Millisecond, nil
}
