package store

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"example.com/invoices/internal/database"
	"example.com/invoices/invoice-app/invoice"
)

// Transactions that add invoices do not wait for each other. So invoices do not become visible in
// the order of their Seq, and a client that reads page by page must know from where on that
// matters. The advisory locks below tell. They are shared, so nobody waits for them; a lock only
// says that its holder may still make visible invoices with a Seq above ^key, and none below. Each
// holder takes its lock before its first Seq, and releases it after its commit is visible.
//
// A reader selects the last Seq that was assigned, then the locks, then the invoices. A
// transaction that holds no lock either had committed before the reader's snapshot, or had no Seq
// yet when the reader selected the last one. So up to the lowest of these numbers, the horizon,
// the reader sees all invoices there will ever be.
//
// The keys are negative, unlike those of all other advisory locks in this database.
const (
	lastSQL = `SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM invoices_seq_seq`

	enterSQL = `
		SELECT pg_advisory_xact_lock_shared(~(CASE WHEN is_called THEN last_value ELSE 0 END)) FROM invoices_seq_seq`

	horizonSQL = `
		SELECT coalesce(min(~((classid::bigint << 32) | objid::bigint)), 9223372036854775807) FROM pg_locks
		WHERE locktype = 'advisory' AND objsubid = 1 AND mode = 'ShareLock' AND classid::bigint >= 2147483648
		  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`
)

const (
	// importLock is an arbitrary key. Its holder numbers a long list and makes it visible.
	importLock = 1_890_413
	// importTimeout limits each statement that moves a long list into place.
	importTimeout = 10 * time.Minute
	// staleAfter is when the list of a dead sender is deleted.
	staleAfter = time.Hour
	// addTimeout limits each statement that adds a short list.
	addTimeout = 10 * time.Second
)

func (s postgres) Add(ctx context.Context, invoices iter.Seq2[invoice.Invoice, error]) (added int, err error) {
	var batch int64 // of the staged list, or 0
	err = chunks(invoices, func(index int, chunk []invoice.Invoice, last bool) error {
		if index == 0 && last {
			added, err = s.addShort(ctx, chunk)
			return err
		}
		if index == 0 {
			batch = 1 + rand.Int64N(1<<62)
			if err := s.exec(ctx, "delete old lists",
				`DELETE FROM staged_invoices WHERE staged_at < now() - $1::interval`, staleAfter); err != nil {
				return err
			}
		}
		ids, amounts, currencies := arrays(chunk)
		err := wrap("stage invoices", s.Once(ctx, func(conn *pgx.Conn) error { // repeated, there would be too many
			_, err := conn.Exec(ctx, `
				INSERT INTO staged_invoices (batch, place, id, amount_minor, currency)
				SELECT $4, $5::bigint + place - 1, id, amount_minor, currency FROM `+sent,
				ids, amounts, currencies, batch, index)
			return err
		}))
		if err == nil && last {
			added, err = s.publish(ctx, batch, index+len(chunk))
		}
		return err
	})
	if err == nil {
		return added, nil
	}
	if batch != 0 {
		// Only to be tidy: it would be deleted as a stale list.
		tidying, cancel := context.WithTimeout(context.WithoutCancel(ctx), addTimeout)
		defer cancel()
		_ = s.exec(tidying, "delete staged invoices", `DELETE FROM staged_invoices WHERE batch = $1`, batch)
	}
	return 0, err
}

// sent is a list as three arrays.
const sent = `unnest($1::text[], $2::bigint[], $3::text[]) WITH ORDINALITY AS sent (id, amount_minor, currency, place)`

func arrays(list []invoice.Invoice) (ids []string, amounts []int64, currencies []string) {
	for _, i := range list {
		ids = append(ids, i.ID)
		amounts = append(amounts, i.Amount.Minor)
		currencies = append(currencies, i.Amount.Currency)
	}
	return ids, amounts, currencies
}

// querier is a connection, whose statements commit themselves, or a transaction.
type querier interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// addShort adds a complete list. A single invoice takes one statement.
func (s postgres) addShort(ctx context.Context, list []invoice.Invoice) (added int, err error) {
	var conflict *invoice.ConflictError
	// Repeated, it finds its own invoices.
	err = s.Do(ctx, database.Confirmed(func(conn *pgx.Conn) (err error) {
		if len(list) == 1 {
			added, conflict, err = addRows(ctx, conn, list)
			return database.Unanswered(err)
		}
		return database.Transaction(ctx, conn, addTimeout, func(tx pgx.Tx) (err error) {
			added, conflict, err = addRows(ctx, tx, list)
			return rollback(conflict, err)
		})
	}))
	if conflict != nil {
		return 0, conflict
	}
	return added, wrap("add invoices", err)
}

// rollback returns what a transaction must end with: an error, or the conflict.
func rollback(conflict *invoice.ConflictError, err error) error {
	if err == nil && conflict != nil {
		return conflict
	}
	return err
}

const addSQL = `
	INSERT INTO invoices (seq, id, amount_minor, currency) OVERRIDING SYSTEM VALUE
	SELECT seq, id, amount_minor, currency FROM (
		SELECT nextval('invoices_seq_seq') AS seq, * FROM (
			SELECT sent.* FROM ` + sent + `, (` + enterSQL + `) AS entered ORDER BY place
		) AS in_order
	) AS numbered
	-- In a fixed order, so that two lists with common invoices do not deadlock.
	ORDER BY id COLLATE "C", seq
	ON CONFLICT (id) DO NOTHING`

// addRows adds the new invoices of a list. Existing ones, or repeated ones, must be the same, or
// the result is a conflict.
func addRows(
	ctx context.Context, db querier, list []invoice.Invoice,
) (added int, conflict *invoice.ConflictError, err error) {
	ids, amounts, currencies := arrays(list)
	tag, err := db.Exec(ctx, addSQL, ids, amounts, currencies)
	added = int(tag.RowsAffected())
	if err != nil || added == len(list) {
		return added, nil, err
	}
	conflict, err = findConflict(ctx, db, sent, ids, amounts, currencies)
	if err == nil && conflict == nil {
		_, err = db.Exec(ctx, `SELECT `+database.Confirm)
	}
	return added, conflict, err
}

func conflictSQL(list string) string {
	return `
		SELECT place - 1, id FROM ` + list + ` JOIN invoices USING (id)
		WHERE (invoices.amount_minor, invoices.currency) <> (sent.amount_minor, sent.currency)
		ORDER BY place LIMIT 1`
}

// findConflict returns the first row of list, a part of a FROM, that is stored with other data.
func findConflict(ctx context.Context, db querier, list string, args ...any) (*invoice.ConflictError, error) {
	var conflict invoice.ConflictError
	err := db.QueryRow(ctx, conflictSQL(list), args...).Scan(&conflict.Index, &conflict.ID)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	return &conflict, err
}

var (
	errLost = fmt.Errorf("%w: part of the list was lost: the server has crashed, "+
		"or the list took longer than %s to arrive; send it again", database.ErrUnavailable, staleAfter)
	errBusy = errors.New("another long list is being added")
)

// publish makes a staged list with this many invoices visible at once. Lists take turns; the
// others wait without a connection.
func (s postgres) publish(ctx context.Context, batch int64, total int) (added int, err error) {
	for {
		var conflict *invoice.ConflictError
		// Repeated, it would not find the staged list.
		err := s.Once(ctx, database.Confirmed(func(conn *pgx.Conn) error {
			return database.Transaction(ctx, conn, importTimeout, func(tx pgx.Tx) (err error) {
				added, conflict, err = move(ctx, tx, batch, total)
				return rollback(conflict, err)
			})
		}))
		switch {
		case conflict != nil:
			return 0, conflict
		case !errors.Is(err, errBusy) && !inTheWay(err):
			return added, wrap("add invoices", err)
		}
		select {
		case <-ctx.Done():
			return 0, wrap("add invoices", ctx.Err())
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// inTheWay reports whether the server has aborted the transaction because of a deadlock with a
// short list that has the same invoices.
func inTheWay(err error) bool {
	var refused *pgconn.PgError
	return errors.As(err, &refused) && (refused.Code == "40P01" || refused.Code == "55P03")
}

// move moves a staged list into place: far behind the last invoice, so that others that add
// invoices in the meantime neither wait nor get a higher Seq before the list is visible.
func move(
	ctx context.Context, tx pgx.Tx, batch int64, total int,
) (added int, conflict *invoice.ConflictError, err error) {
	var mine bool
	err = tx.QueryRow(ctx, `SELECT pg_try_advisory_xact_lock($1)`, importLock).Scan(&mine)
	if err == nil && !mine {
		err = errBusy
	}
	if err != nil {
		return 0, nil, err
	}
	var staged int
	if err := tx.QueryRow(ctx, `SELECT count(*) FROM staged_invoices WHERE batch = $1`, batch).Scan(&staged); err != nil {
		return 0, nil, err
	}
	if staged != total {
		return 0, nil, errLost
	}
	var base int64
	if err := tx.QueryRow(ctx, lastSQL).Scan(&base); err != nil {
		return 0, nil, err
	}
	base += importGap
	const moveSQL = `
		INSERT INTO invoices (seq, id, amount_minor, currency) OVERRIDING SYSTEM VALUE
		SELECT $2::bigint + place, id, amount_minor, currency FROM staged_invoices WHERE batch = $1
		ORDER BY place`
	// Looking for existing invoices first takes a quarter of the time, and usually there are none.
	var tag pgconn.CommandTag
	err = pgx.BeginFunc(ctx, tx, func(all pgx.Tx) (err error) {
		tag, err = all.Exec(ctx, moveSQL, batch, base+1)
		return err
	})
	var refused *pgconn.PgError
	if errors.As(err, &refused) && refused.Code == "23505" {
		tag, err = tx.Exec(ctx, moveSQL+` ON CONFLICT (id) DO NOTHING`, batch, base+1)
	}
	if err != nil {
		return 0, nil, err
	}
	added = int(tag.RowsAffected())
	if added < total {
		conflict, err = findConflict(ctx, tx, `(SELECT id, amount_minor, currency, place + 1 AS place
			FROM staged_invoices WHERE batch = $1) AS sent`, batch)
		if err != nil || conflict != nil {
			return 0, conflict, err
		}
	}
	for _, statement := range []struct {
		sql  string
		args []any
	}{
		{`DELETE FROM staged_invoices WHERE batch = $1`, []any{batch}},
		{`SELECT ` + database.Confirm, nil},
		// From here on others get a higher Seq than this list. Readers see that only after this
		// transaction has ended, in a moment.
		{`SELECT pg_advisory_xact_lock_shared(~$1::bigint)`, []any{base}},
		{`SELECT setval('invoices_seq_seq', $1)`, []any{base + int64(total)}},
	} {
		if _, err := tx.Exec(ctx, statement.sql, statement.args...); err != nil {
			return 0, nil, err
		}
	}
	return added, nil, nil
}
