// Package database opens and migrates the two database engines that a service can use: PostgreSQL,
// and an embedded SQLite file for a machine without a server. The SQL is in the store package of
// each service.
package database

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"time"

	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

// Schemes lists the URL schemes that DATABASE_URL accepts.
var Schemes = []string{"postgres", "postgresql", "sqlite"}

// IsSQLite reports whether a DATABASE_URL names an SQLite file.
func IsSQLite(url string) bool { return strings.HasPrefix(url, "sqlite:") }

// Schema describes a service's database, and the privileges that the service needs in PostgreSQL.
type Schema struct {
	Files  fs.FS // contains migrations/postgres/*.sql and migrations/sqlite/*.sql
	Grants []Grant
}

func (s Schema) migrations(engine string) fs.FS {
	sub, err := fs.Sub(s.Files, "migrations/"+engine)
	if err != nil {
		panic(err) // only for an invalid path
	}
	return sub
}

// Migrate brings the schema at url up to date. In PostgreSQL it also grants role, unless that is
// "", exactly what the service needs.
func (s Schema) Migrate(ctx context.Context, url, role string) error {
	if !IsSQLite(url) {
		return s.migratePostgres(ctx, url, role)
	}
	if role != "" {
		return errors.New("an SQLite file has no roles to grant to")
	}
	db, err := s.OpenSQLite(ctx, url)
	if err == nil {
		db.Close()
	}
	return err
}

// Connection is the part of a store that main uses.
type Connection interface {
	// Ping returns an error if the database does not respond.
	Ping(ctx context.Context) error
	// Excess returns the privileges of the current role that the service does not need.
	Excess(ctx context.Context) ([]string, error)
	Close()
}

// CheckRole logs a warning if the role has privileges that it does not need. If narrow is set, it
// returns an error instead.
func CheckRole(ctx context.Context, conn Connection, narrow bool, log *slog.Logger) error {
	excess, err := conn.Excess(ctx)
	if err != nil || len(excess) == 0 {
		return err
	}
	if narrow {
		return fmt.Errorf("the database role of DATABASE_URL has privileges that it does not need "+
			"(REQUIRE_NARROW_ROLE): %s; revoke them, or set up a role with: migrate --grant-to ROLE",
			strings.Join(excess, ", "))
	}
	log.Warn("the database role of DATABASE_URL has privileges that it does not need", "excess", excess)
	return nil
}

// ErrUnavailable is wrapped by every error that means that the database cannot be reached or
// cannot respond now. The same operation may succeed later.
var ErrUnavailable = errors.New("database is unavailable")

// ErrUnknownOutcome is an ErrUnavailable for an operation that may or may not have been carried
// out: the response to its commit was lost, or a standby may not have it.
var ErrUnknownOutcome = fmt.Errorf("%w: the commit is not confirmed, so it may or may not have happened",
	ErrUnavailable)

// ErrNotMigrated means that the schema is older than the program.
var ErrNotMigrated = errors.New("database schema is older than this program")

// ErrNoSQLite means that the program was built with the tag nosqlite, as programs for a cluster
// are: they link in half the time.
var ErrNoSQLite = errors.New("this program was built without SQLite: set DATABASE_URL to a postgres:// URL")

// migrate applies the missing migrations. One process at a time does so; the others wait for the
// lock.
func migrate(ctx context.Context, db *sql.DB, dialect goose.Dialect, migrations fs.FS,
	locking goose.ProviderOption,
) error {
	provider, err := goose.NewProvider(dialect, db, migrations, locking)
	if err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	if _, err := provider.Up(ctx); err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	return nil
}

// newest returns the version of the last migration.
func newest(migrations fs.FS) (int64, error) {
	names, err := fs.Glob(migrations, "*.sql")
	if err != nil || len(names) == 0 {
		return 0, errors.Join(err, errors.New("no migrations are embedded"))
	}
	return goose.NumericComponent(names[len(names)-1])
}

// appliedVersion selects the schema's version. goose's own query would try to create its table,
// which the narrow role of a service cannot do.
const appliedVersion = `SELECT coalesce(max(version_id), 0) FROM goose_db_version WHERE is_applied`

// retries is how long to wait for another process that is migrating: one attempt per second.
var retries = lock.WithLockTimeout(1, 300)

// How long a starting program waits for its database, which may also be starting. Everything else
// depends on the migration, so that waits longer.
const (
	servePatience   = 30 * time.Second
	migratePatience = 5 * time.Minute
)

// await calls ask until its error is no longer ErrUnavailable, or patience has passed.
func await(ctx context.Context, patience time.Duration, ask func() error) error {
	deadline := time.Now().Add(patience)
	for {
		err := ask()
		if !errors.Is(err, ErrUnavailable) || time.Now().After(deadline) || ctx.Err() != nil {
			return err
		}
		slog.Warn("waiting for the database", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}
