package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"example.com/invoices/internal/database"
	"example.com/invoices/invoice-app/invoice"
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

func scan(row pgx.CollectableRow) (invoice.Invoice, error) {
	var i invoice.Invoice
	err := row.Scan(&i.Seq, &i.ID, &i.Amount.Minor, &i.Amount.Currency, &i.Paid, &i.Rejected)
	return i, err
}

// exec runs one statement that commits itself, and that does no harm when it is repeated.
func (s postgres) exec(ctx context.Context, doing, statement string, args ...any) error {
	return wrap(doing, s.Do(ctx, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, statement, args...)
		return err
	}))
}

const getSQL = `SELECT ` + columns + ` FROM invoices WHERE id = $1`

func (s postgres) Get(ctx context.Context, id string) (i invoice.Invoice, err error) {
	err = s.Do(ctx, func(conn *pgx.Conn) error {
		rows, _ := conn.Query(ctx, getSQL, id)
		i, err = pgx.CollectExactlyOneRow(rows, scan)
		return err
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return i, invoice.ErrNotFound
	}
	return i, wrap("get invoice", err)
}

func listSQL(f invoice.Filter) string {
	return `SELECT ` + columns + ` FROM invoices WHERE seq > $1` + condition(f) + ` ORDER BY seq LIMIT $2`
}

// listPatience is how long List waits for the commit or rollback of invoices that are being added.
const listPatience = time.Second

// List leaves no gap that could be filled later: it ends before the first Seq that a transaction
// in progress may still make visible (see enterSQL). Commits take milliseconds, so it waits for
// those that were in progress when it was called: everybody finds the invoices that were accepted
// from them before. If one of them takes longer than listPatience, the list ends before it.
func (s postgres) List(ctx context.Context, f invoice.Filter) ([]invoice.Invoice, error) {
	const longestPause = 100 * time.Millisecond
	target := int64(-1)
	end := time.Now().Add(listPatience)
	for pause := time.Millisecond; ; pause = min(2*pause, longestPause) {
		list, last, horizon, err := s.listBelow(ctx, f)
		if err != nil {
			return nil, wrap("list invoices", err)
		}
		if target < 0 {
			target = last
		}
		if len(list) == f.Limit || horizon >= target || time.Now().After(end) {
			return list, nil
		}
		select {
		case <-ctx.Done():
			return nil, wrap("list invoices", ctx.Err())
		case <-time.After(pause):
		}
	}
}

// listBelow lists the invoices up to horizon: those with a higher Seq may not all be visible yet.
// last is the last Seq that was assigned.
func (s postgres) listBelow(
	ctx context.Context, f invoice.Filter,
) (list []invoice.Invoice, last, horizon int64, err error) {
	err = s.Do(ctx, func(conn *pgx.Conn) error {
		// In this order, and each with a snapshot that is newer than the one before.
		batch := &pgx.Batch{}
		batch.Queue(lastSQL).QueryRow(func(row pgx.Row) error { return row.Scan(&last) })
		batch.Queue(horizonSQL).QueryRow(func(row pgx.Row) error { return row.Scan(&horizon) })
		batch.Queue(listSQL(f), f.After, f.Limit).Query(func(rows pgx.Rows) error {
			list, err = pgx.CollectRows(rows, scan)
			return err
		})
		return conn.SendBatch(ctx, batch).Close()
	})
	horizon = min(horizon, last)
	over := slices.IndexFunc(list, func(i invoice.Invoice) bool { return i.Seq > horizon })
	if over >= 0 {
		list = list[:over]
	}
	return list, last, horizon, err
}

func sumSQL(f invoice.Filter) string {
	return sumsOf(`SELECT ` + sumColumns + ` FROM invoices WHERE seq > $1 AND seq <= $3` + condition(f) +
		` ORDER BY seq LIMIT $2`)
}

// Sum leaves no gap, like List, but does not wait.
func (s postgres) Sum(ctx context.Context, f invoice.Filter, through int64) ([]invoice.Sum, int64, error) {
	var rows []summed
	err := s.Do(ctx, func(conn *pgx.Conn) (err error) {
		var handedOut, horizon int64
		batch := &pgx.Batch{} // in this order, see listBelow
		batch.Queue(lastSQL).QueryRow(func(row pgx.Row) error { return row.Scan(&handedOut) })
		batch.Queue(horizonSQL).QueryRow(func(row pgx.Row) error { return row.Scan(&horizon) })
		if err := conn.SendBatch(ctx, batch).Close(); err != nil {
			return err
		}
		found, _ := conn.Query(ctx, sumSQL(f), f.After, f.Limit, min(through, handedOut, horizon))
		rows, err = pgx.CollectRows(found, func(row pgx.CollectableRow) (summed, error) { return scanSum(row) })
		return err
	})
	list, last := sums(rows)
	return list, last, wrap("add up invoices", err)
}

const retrySQL = `
	UPDATE invoices SET rejected_reason = NULL, claimed_until = '-infinity'
	WHERE id = $1 AND rejected_reason IS NOT NULL`

func (s postgres) Retry(ctx context.Context, id string) error {
	i, err := s.Get(ctx, id)
	switch {
	case err != nil:
		return err
	case i.Paid:
		return invoice.ErrPaid
	case i.Rejected == "": // it may be in the middle of a payment
		return nil
	}
	return s.exec(ctx, "retry invoice", retrySQL, id)
}

const retryAllSQL = `
	UPDATE invoices SET rejected_reason = NULL, claimed_until = '-infinity'
	WHERE seq = ANY (ARRAY(
		SELECT seq FROM invoices WHERE rejected_reason IS NOT NULL AND seq > $1 ORDER BY seq LIMIT $2 FOR UPDATE))
	RETURNING seq`

func (s postgres) RetryAll(ctx context.Context, after int64, limit int) (freed int, last int64, err error) {
	var seqs []int64
	err = s.Do(ctx, func(conn *pgx.Conn) error {
		rows, _ := conn.Query(ctx, retryAllSQL, after, limit)
		seqs, err = pgx.CollectRows(rows, pgx.RowTo[int64])
		return err
	})
	return len(seqs), slices.Max(append(seqs, 0)), wrap("retry invoices", err)
}

const maxSQL = `SELECT coalesce(max(seq), 0) FROM invoices`

// LastSeq returns the Seq of the last visible invoice. Others with a lower Seq may become visible
// later; all invoices that were accepted before are visible now.
func (s postgres) LastSeq(ctx context.Context) (seq int64, err error) {
	err = s.Do(ctx, func(conn *pgx.Conn) error { return conn.QueryRow(ctx, maxSQL).Scan(&seq) })
	return seq, wrap("query the last invoice", err)
}

const claimSQL = `
	UPDATE invoices SET claimed_until = clock_timestamp() + $4, attempts = attempts + 1
	WHERE seq = ANY (ARRAY(
		SELECT seq FROM invoices
		WHERE paid_at IS NULL AND rejected_reason IS NULL
		  AND seq > $1 AND seq <= $2
		  AND (claimed_until <= clock_timestamp() OR claimed_until > clock_timestamp() + $5)
		ORDER BY seq LIMIT $3 FOR UPDATE SKIP LOCKED))
	RETURNING attempts, ` + columns

func (s postgres) Claim(
	ctx context.Context, after, through int64, limit int, lease time.Duration,
) (claims []invoice.Claim, err error) {
	err = s.Do(ctx, func(conn *pgx.Conn) error {
		rows, _ := conn.Query(ctx, claimSQL, after, through, limit, lease, invoice.MaxLease)
		claims, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (c invoice.Claim, err error) {
			err = row.Scan(&c.Attempt, &c.Seq, &c.ID, &c.Amount.Minor, &c.Amount.Currency, &c.Paid, &c.Rejected)
			return c, err
		})
		return err
	})
	slices.SortFunc(claims, func(a, b invoice.Claim) int { return cmp.Compare(a.Seq, b.Seq) })
	return claims, wrap("claim invoices", err)
}

const markPaidSQL = `
	UPDATE invoices SET paid_at = clock_timestamp(), rejected_reason = NULL
	WHERE seq = ANY ($1::bigint[]) AND paid_at IS NULL`

// MarkPaid marks invoices paid.
func (s postgres) MarkPaid(ctx context.Context, claims []invoice.Claim) error {
	seqs := make([]int64, len(claims))
	for n, c := range claims {
		seqs[n] = c.Seq
	}
	return s.exec(ctx, "mark invoices paid", markPaidSQL, seqs)
}

const rejectSQL = `
	UPDATE invoices SET rejected_reason = reason
	FROM unnest($1::bigint[], $2::integer[], $3::text[]) AS rejected (seq, attempt, reason)
	WHERE invoices.seq = rejected.seq AND attempts = attempt AND paid_at IS NULL`

func (s postgres) Reject(ctx context.Context, rejected []invoice.Rejected) error {
	seqs, attempts, reasons := make([]int64, len(rejected)), make([]int, len(rejected)), make([]string, len(rejected))
	for n, r := range rejected {
		seqs[n], attempts[n], reasons[n] = r.Seq, r.Attempt, r.Reason
	}
	return s.exec(ctx, "reject invoices", rejectSQL, seqs, attempts, reasons)
}

const releaseSQL = `
	UPDATE invoices SET claimed_until = clock_timestamp() + wait
	FROM unnest($1::bigint[], $2::integer[], $3::interval[]) AS released (seq, attempt, wait)
	WHERE invoices.seq = released.seq AND attempts = attempt AND paid_at IS NULL`

func (s postgres) Release(ctx context.Context, released []invoice.Released) error {
	seqs, attempts, waits := make([]int64, len(released)), make([]int, len(released)), make([]time.Duration, len(released))
	for n, r := range released {
		seqs[n], attempts[n], waits[n] = r.Seq, r.Attempt, r.Wait
	}
	return s.exec(ctx, "release invoices", releaseSQL, seqs, attempts, waits)
}

// '-infinity' has no distance from now, so a free invoice counts as zero.
const unsettledSQL = `
	SELECT count(*),
		coalesce(extract(epoch FROM min(greatest(claimed_until, clock_timestamp())) - clock_timestamp()), 0)::float8
	FROM invoices
	WHERE paid_at IS NULL AND rejected_reason IS NULL AND seq <= $1`

func (s postgres) Unsettled(ctx context.Context, through int64) (count int, wait time.Duration, err error) {
	var seconds float64
	err = s.Do(ctx, func(conn *pgx.Conn) error { return conn.QueryRow(ctx, unsettledSQL, through).Scan(&count, &seconds) })
	return count, time.Duration(seconds * float64(time.Second)), wrap("count unsettled invoices", err)
}

// Both parts use the indexes of the unpaid. Counting stops where it takes about a second
// (docs/bounds.md).
const backlogSQL = `
	SELECT (SELECT count(*) FROM (
			SELECT FROM invoices WHERE paid_at IS NULL AND rejected_reason IS NULL LIMIT 500000) AS unpaid),
		coalesce(greatest(extract(epoch FROM clock_timestamp() - (
			SELECT created_at FROM invoices WHERE paid_at IS NULL AND rejected_reason IS NULL ORDER BY seq LIMIT 1
		)), 0), 0)::float8`

func (s postgres) Backlog(ctx context.Context) (unpaid int64, oldest time.Duration, err error) {
	var seconds float64
	err = s.Do(ctx, func(conn *pgx.Conn) error { return conn.QueryRow(ctx, backlogSQL).Scan(&unpaid, &seconds) })
	return unpaid, time.Duration(seconds * float64(time.Second)), wrap("count unpaid invoices", err)
}
