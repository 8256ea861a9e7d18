package database

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	_ "github.com/jackc/pgx/v5/stdlib" // goose speaks database/sql
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

// PostgreSQL's condition codes that the code below has to tell apart
// (https://www.postgresql.org/docs/current/errcodes-appendix.html).
const undefinedTable = "42P01"

// OpenPostgres returns a pool of at most maxConns connections to the database
// at url, whose schema must be as new as s: ErrNotMigrated if it is not,
// ErrUnavailable if the server cannot be asked.
func (s Schema) OpenPostgres(ctx context.Context, url string, maxConns int) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("DATABASE_URL: %w", err)
	}
	config.MaxConns = int32(maxConns)
	config.ConnConfig.ConnectTimeout = 3 * time.Second
	// No statement of ours takes long; one that does is stuck behind something.
	config.ConnConfig.RuntimeParams["statement_timeout"] = "10s"
	config.ConnConfig.OnNotice = noteUnreplicated
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("open PostgreSQL: %w", err)
	}
	if err := await(ctx, servePatience, func() error { return checkPostgres(ctx, pool, s.migrations("postgres")) }); err != nil {
		pool.Close()
		return nil, err
	}
	return pool, nil
}

func checkPostgres(ctx context.Context, pool *pgxpool.Pool, migrations fs.FS) error {
	want, err := newest(migrations)
	if err != nil {
		return err
	}
	var have int64
	err = pool.QueryRow(ctx, appliedVersion).Scan(&have)
	var refused *pgconn.PgError
	if errors.As(err, &refused) && refused.Code == undefinedTable {
		err = nil // an empty database
	}
	switch {
	case err != nil:
		return fmt.Errorf("ask for the schema's version: %w", Postgres(err))
	case have < want: // newer is fine: while a release rolls out, old programs meet the new schema
		return fmt.Errorf("%w: it is at version %d, and %d is needed", ErrNotMigrated, have, want)
	}
	return nil
}

// migratePostgres is safe to run several times at once: an advisory lock lets
// one work while others wait, and a grant can be repeated.
func (s Schema) migratePostgres(ctx context.Context, url, role string) error {
	db, err := sql.Open("pgx", url)
	if err != nil {
		return fmt.Errorf("open PostgreSQL: %w", err)
	}
	defer db.Close()
	locker, err := lock.NewPostgresSessionLocker(retries)
	if err != nil {
		return err
	}
	if err := await(ctx, migratePatience, func() error { return Postgres(db.PingContext(ctx)) }); err != nil {
		return err
	}
	if err := migrate(ctx, db, goose.DialectPostgres, s.migrations("postgres"), goose.WithSessionLocker(locker)); err != nil {
		return Postgres(err)
	}
	if role == "" {
		return nil
	}
	if err := grant(ctx, db, role, append(slices.Clip(s.Grants), `GRANT SELECT ON goose_db_version TO %s`)); err != nil {
		return fmt.Errorf("grant to %s: %w", role, Postgres(err))
	}
	return nil
}

// grantLock is an arbitrary key, ours in this database. PostgreSQL refuses two
// grants on one table at the same instant ("tuple concurrently updated").
const grantLock = 7_301_984

func grant(ctx context.Context, db *sql.DB, role string, grants []string) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // after a commit it does nothing
	if _, err := tx.ExecContext(ctx, `SELECT pg_advisory_xact_lock($1)`, grantLock); err != nil {
		return err
	}
	for _, statement := range grants {
		if _, err := tx.ExecContext(ctx, fmt.Sprintf(statement, pgx.Identifier{role}.Sanitize())); err != nil {
			return err
		}
	}
	return tx.Commit()
}

// Confirmed runs insert in a transaction and returns nil only if what its rows
// say is as durable as the server can make it: with synchronous replication, on
// the standby, too. insert says whether it inserted all its rows; the others
// are there already, by a transaction that may still wait for the standby.
func Confirmed(ctx context.Context, pool *pgxpool.Pool, insert func(pgx.Tx) (all bool, err error)) error {
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	notes := conn.Conn().PgConn().CustomData()
	delete(notes, unreplicated)
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		all, err := insert(tx)
		if err != nil || all {
			return err
		}
		// A commit that wrote nothing waits for nothing. This one writes, behind
		// those rows in the log, so it waits until they are replicated.
		_, err = tx.Exec(ctx, `SELECT pg_logical_emit_message(true, 'confirm', '')`)
		return err
	})
	if err == nil && notes[unreplicated] != nil {
		err = errUnreplicated
	}
	return err
}

// A wait for the standby that somebody cancels ends in a commit that succeeds,
// and a warning.
const unreplicated = "unreplicated"

var errUnreplicated = fmt.Errorf("%w: the commit may not have reached the standby", ErrUnavailable)

func noteUnreplicated(conn *pgconn.PgConn, notice *pgconn.Notice) {
	if strings.Contains(notice.Message, "synchronous replication") {
		conn.CustomData()[unreplicated] = true
	}
}

// Postgres marks an error of pgx as ErrUnavailable where it is one: no
// connection, or a server that is starting, stopping, full or too slow.
func Postgres(err error) error {
	if err == nil {
		return nil
	}
	var refused *pgconn.PgError
	if errors.As(err, &refused) {
		switch refused.Code[:2] {
		case "08", "53", "57", "58", "25": // connection, resources, operator, system, read-only after a failover
			return fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		return err
	}
	// What is not the server's answer is the lack of one: a refused, cut or
	// timed-out connection. A caller who went away is told apart by the caller.
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}
