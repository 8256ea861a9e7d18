// Package database opens and migrates the two engines that a service can keep
// its data in: PostgreSQL, and an embedded SQLite file for a machine that has
// no server. A service's store package has the SQL of each.
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

// Schemes are the beginnings of a DATABASE_URL that the Open functions take.
var Schemes = []string{"postgres", "postgresql", "sqlite"}

// IsSQLite says which engine a DATABASE_URL means.
func IsSQLite(url string) bool { return strings.HasPrefix(url, "sqlite:") }

// Schema is what a service's database looks like, and what the service's role
// in PostgreSQL needs.
type Schema struct {
	Files  fs.FS // has the folders migrations/postgres and migrations/sqlite, of SQL files
	Grants []Grant
}

func (s Schema) migrations(engine string) fs.FS {
	sub, err := fs.Sub(s.Files, "migrations/"+engine)
	if err != nil {
		panic(err) // only for a path that is no path
	}
	return sub
}

// Migrate brings the schema at url up to date and, in PostgreSQL, grants role
// (unless it is "") what the service needs and no more.
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

// Connection is a store's side towards the program that uses it.
type Connection interface {
	// Ping returns an error unless the database can be asked.
	Ping(ctx context.Context) error
	// Excess returns what the program's role can do beyond what its service needs.
	Excess(ctx context.Context) ([]string, error)
	Close()
}

// CheckRole logs a warning where the program's role can do more than it needs,
// or returns an error where narrow requires a role that cannot.
func CheckRole(ctx context.Context, conn Connection, narrow bool, log *slog.Logger) error {
	excess, err := conn.Excess(ctx)
	if err != nil || len(excess) == 0 {
		return err
	}
	if narrow {
		return fmt.Errorf("the database role of DATABASE_URL can do more than it needs (REQUIRE_NARROW_ROLE): %s; "+
			"take that away, or give a role what it needs with: migrate --grant-to ROLE", strings.Join(excess, ", "))
	}
	log.Warn("the database role of DATABASE_URL can do more than it needs", "excess", excess)
	return nil
}

// ErrUnavailable is wrapped by every error that means: the database cannot be
// reached or cannot work now, and the same call may succeed later.
var ErrUnavailable = errors.New("database is unavailable")

// ErrUnknownOutcome is an ErrUnavailable of a call that may have been carried
// out or not: the answer to its commit was lost, or a standby may lack it.
var ErrUnknownOutcome = fmt.Errorf("%w: the commit is not confirmed, so it may or may not have happened", ErrUnavailable)

// ErrNotMigrated says that the schema is older than the program.
var ErrNotMigrated = errors.New("database schema is older than this program")

// ErrNoSQLite says that the program was built with the tag nosqlite, as those
// for a cluster are: they link in half the time.
var ErrNoSQLite = errors.New("this program was built without SQLite: give it the postgres:// URL of a database")

// migrate applies the migrations that are missing. One process at a time does
// it; others wait for lock.
func migrate(ctx context.Context, db *sql.DB, dialect goose.Dialect, migrations fs.FS, locking goose.ProviderOption) error {
	provider, err := goose.NewProvider(dialect, db, migrations, locking)
	if err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	if _, err := provider.Up(ctx); err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	return nil
}

// newest is the version of the last migration.
func newest(migrations fs.FS) (int64, error) {
	names, err := fs.Glob(migrations, "*.sql")
	if err != nil || len(names) == 0 {
		return 0, errors.Join(err, errors.New("no migrations are embedded"))
	}
	return goose.NumericComponent(names[len(names)-1])
}

// appliedVersion asks for the schema's version. goose's own question would try
// to create its table, which a program's narrow role may not.
const appliedVersion = `SELECT coalesce(max(version_id), 0) FROM goose_db_version WHERE is_applied`

// retries is the wait for another process that migrates: a try each second.
var retries = lock.WithLockTimeout(1, 300)

// How long a starting program waits for its database, which may be starting
// too. Migrating is what everything else waits for, so it does not give up soon.
const (
	servePatience   = 30 * time.Second
	migratePatience = 5 * time.Minute
)

// await calls ask until it returns something else than ErrUnavailable, or
// patience is over.
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
