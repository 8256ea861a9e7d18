package store

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"example.com/invoices/internal/database"
	"example.com/invoices/invoice-app/invoice"
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

// wrap says what was being done, and whether the database is to blame.
func wrap(doing string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", doing, database.Postgres(err))
}

// columns are what scan reads.
const columns = `seq, id, amount_minor, currency, paid_at IS NOT NULL, coalesce(rejected_reason, '')`

func scan(row pgx.CollectableRow) (invoice.Invoice, error) {
	var i invoice.Invoice
	err := row.Scan(&i.Seq, &i.ID, &i.Amount.Minor, &i.Amount.Currency, &i.Paid, &i.Rejected)
	return i, err
}

const (
	// addLock is an arbitrary key, ours in this database. Whoever adds holds it
	// to the end of the transaction, so that invoices become visible in the
	// order of their seq, and a reader who pages through them misses none.
	addLock = 1_890_412
	// addChunk is how many invoices go in one statement.
	addChunk = 1000
)

func (s postgres) Add(ctx context.Context, invoices iter.Seq2[invoice.Invoice, error]) (added int, err error) {
	err = database.Confirmed(ctx, s.pool, func(tx pgx.Tx) (all bool, err error) {
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, addLock); err != nil {
			return false, err
		}
		index := 0
		var chunk []invoice.Invoice
		flush := func() error {
			n, err := addRows(ctx, tx, index, chunk)
			added += n
			index += len(chunk)
			chunk = chunk[:0]
			return err
		}
		for i, err := range invoices {
			if err != nil {
				return false, err
			}
			if chunk = append(chunk, i); len(chunk) == addChunk {
				if err := flush(); err != nil {
					return false, err
				}
			}
		}
		err = flush()
		return added == index, err
	})
	var conflict *invoice.ConflictError
	if errors.As(err, &conflict) {
		return 0, conflict
	}
	if err != nil {
		return 0, wrap("add invoices", err)
	}
	return added, nil
}

// addRows adds chunk, whose first invoice is the index-th of all.
func addRows(ctx context.Context, tx pgx.Tx, index int, chunk []invoice.Invoice) (added int, err error) {
	var ids, currencies []string
	var amounts []int64
	for _, i := range chunk {
		ids = append(ids, i.ID)
		amounts = append(amounts, i.Amount.Minor)
		currencies = append(currencies, i.Amount.Currency)
	}
	const sent = `unnest($1::text[], $2::bigint[], $3::text[]) WITH ORDINALITY AS sent (id, amount_minor, currency, place)`
	tag, err := tx.Exec(ctx, `
		INSERT INTO invoices (id, amount_minor, currency)
		SELECT id, amount_minor, currency FROM `+sent+` ORDER BY place
		ON CONFLICT (id) DO NOTHING`, ids, amounts, currencies)
	if err != nil {
		return 0, err
	}
	// What was there before, or twice in the chunk, must be the same.
	var place int
	err = tx.QueryRow(ctx, `
		SELECT place FROM `+sent+` JOIN invoices USING (id)
		WHERE (invoices.amount_minor, invoices.currency) <> (sent.amount_minor, sent.currency)
		ORDER BY place LIMIT 1`, ids, amounts, currencies).Scan(&place)
	if errors.Is(err, pgx.ErrNoRows) {
		return int(tag.RowsAffected()), nil
	}
	if err != nil {
		return 0, err
	}
	return 0, &invoice.ConflictError{Index: index + place - 1, ID: ids[place-1]}
}

func (s postgres) Get(ctx context.Context, id string) (invoice.Invoice, error) {
	rows, _ := s.pool.Query(ctx, `SELECT `+columns+` FROM invoices WHERE id = $1`, id)
	i, err := pgx.CollectExactlyOneRow(rows, scan)
	if errors.Is(err, pgx.ErrNoRows) {
		return i, invoice.ErrNotFound
	}
	return i, wrap("get invoice", err)
}

func (s postgres) List(ctx context.Context, f invoice.Filter) ([]invoice.Invoice, error) {
	rows, _ := s.pool.Query(ctx, `
		SELECT `+columns+` FROM invoices
		WHERE seq > $1 AND ($2::boolean IS NULL OR (paid_at IS NOT NULL) = $2)
		ORDER BY seq LIMIT $3`, f.After, f.Paid, f.Limit)
	list, err := pgx.CollectRows(rows, scan)
	return list, wrap("list invoices", err)
}

func (s postgres) Retry(ctx context.Context, id string) error {
	i, err := s.Get(ctx, id)
	switch {
	case err != nil:
		return err
	case i.Paid:
		return invoice.ErrPaid
	case i.Rejected == "": // somebody may be paying it: leave it alone
		return nil
	}
	_, err = s.pool.Exec(ctx, `
		UPDATE invoices SET rejected_reason = NULL, claimed_until = '-infinity'
		WHERE id = $1 AND rejected_reason IS NOT NULL`, id)
	return wrap("retry invoice", err)
}

func (s postgres) LastSeq(ctx context.Context) (seq int64, err error) {
	err = s.pool.QueryRow(ctx, `SELECT coalesce(max(seq), 0) FROM invoices`).Scan(&seq)
	return seq, wrap("ask for the last invoice", err)
}

func (s postgres) Claim(ctx context.Context, after, through int64, limit int, lease time.Duration) ([]invoice.Claim, error) {
	rows, _ := s.pool.Query(ctx, `
		UPDATE invoices SET claimed_until = clock_timestamp() + $4, attempts = attempts + 1
		WHERE seq = ANY (ARRAY(
			SELECT seq FROM invoices
			WHERE paid_at IS NULL AND rejected_reason IS NULL
			  AND seq > $1 AND seq <= $2 AND claimed_until <= clock_timestamp()
			ORDER BY seq LIMIT $3 FOR UPDATE SKIP LOCKED))
		RETURNING attempts, `+columns, after, through, limit, lease)
	claims, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (c invoice.Claim, err error) {
		err = row.Scan(&c.Attempt, &c.Seq, &c.ID, &c.Amount.Minor, &c.Amount.Currency, &c.Paid, &c.Rejected)
		return c, err
	})
	return claims, wrap("claim invoices", err)
}

// MarkPaid is the line that marks an invoice paid.
func (s postgres) MarkPaid(ctx context.Context, id string) error {
	_, err := s.pool.Exec(ctx, `
		UPDATE invoices SET paid_at = clock_timestamp(), rejected_reason = NULL
		WHERE id = $1 AND paid_at IS NULL`, id)
	return wrap("mark invoice paid", err)
}

func (s postgres) Reject(ctx context.Context, claim invoice.Claim, reason string) error {
	_, err := s.pool.Exec(ctx, `
		UPDATE invoices SET rejected_reason = $3
		WHERE id = $1 AND attempts = $2 AND paid_at IS NULL`, claim.ID, claim.Attempt, reason)
	return wrap("reject invoice", err)
}

func (s postgres) Release(ctx context.Context, claim invoice.Claim, wait time.Duration) error {
	_, err := s.pool.Exec(ctx, `
		UPDATE invoices SET claimed_until = clock_timestamp() + $3
		WHERE id = $1 AND attempts = $2 AND paid_at IS NULL`, claim.ID, claim.Attempt, wait)
	return wrap("release invoice", err)
}

func (s postgres) Unsettled(ctx context.Context, through int64) (count int, wait time.Duration, err error) {
	// '-infinity' has no distance from now, so a free invoice counts as zero.
	var seconds float64
	err = s.pool.QueryRow(ctx, `
		SELECT count(*), coalesce(extract(epoch FROM min(greatest(claimed_until, clock_timestamp())) - clock_timestamp()), 0)::float8
		FROM invoices
		WHERE paid_at IS NULL AND rejected_reason IS NULL AND seq <= $1`, through).Scan(&count, &seconds)
	return count, time.Duration(seconds * float64(time.Second)), wrap("count unsettled invoices", err)
}
