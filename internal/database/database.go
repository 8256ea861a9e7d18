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
	goosedb "github.com/pressly/goose/v3/database"
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
func migrate(ctx context.Context, db *sql.DB, dialect goosedb.Dialect, migrations fs.FS,
	options ...goose.ProviderOption,
) error {
	own, err := readMigrations(migrations)
	if err != nil {
		return err
	}
	store, err := goosedb.NewStore(dialect, goose.DefaultTablename)
	if err != nil {
		return err
	}
	options = append(options, goose.WithStore(history{store, dialect, own}))
	for _, m := range own {
		if m.sum == "" {
			slog.Info("this migration has no statements yet, so it is not applied", "file", m.file)
			options = append(options, goose.WithExcludeVersions([]int64{m.version}))
		}
	}
	provider, err := goose.NewProvider(goose.DialectCustom, db, migrations, options...)
	if err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	applied, err := provider.Up(ctx)
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	for _, migration := range applied {
		slog.Info("applied a migration", "file", migration.Source.Path, "took", migration.Duration.Round(time.Millisecond))
	}
	version, _, err := provider.GetVersions(ctx)
	if err == nil && version > newest(own) {
		slog.Info("the schema is newer than this program: a newer release or another branch has migrated it",
			"schema", version, "program", newest(own))
	}
	return err
}

// retries is how long to wait for another process that is migrating: one attempt per second.
var retries = lock.WithLockTimeout(1, 300)

// How long a starting program waits for its database, which may also be starting. Everything else
// depends on the migration, so that waits longer.
const (
	servePatience   = 55 * time.Second
	migratePatience = 5 * time.Minute
	// normalStart is how long nobody needs to know: the network lets a new pod connect a moment after its start.
	normalStart = 5 * time.Second
)

// await calls ask until its error is neither ErrUnavailable nor ErrNotMigrated, or patience has passed.
func await(ctx context.Context, patience time.Duration, ask func() error) error {
	begin := time.Now()
	unmigrated := false
	for {
		err := ask()
		waited := time.Since(begin)
		notMigrated := errors.Is(err, ErrNotMigrated)
		if !notMigrated && !errors.Is(err, ErrUnavailable) || waited > patience || ctx.Err() != nil {
			return err
		}
		switch {
		case notMigrated && !unmigrated:
			slog.Info("waiting until the schema is migrated")
			unmigrated = true
		case !notMigrated && waited > normalStart:
			slog.Warn("waiting for the database", "error", err)
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(min(max(waited/4, 20*time.Millisecond), time.Second)):
		}
	}
}
