//go:build !nosqlite

package database

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/gofrs/flock"
	goosedb "github.com/pressly/goose/v3/database"
	"golang.org/x/sync/semaphore"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// File is an SQLite database file.
type File struct {
	*sql.DB
	// writing queues the writers of this process in order. SQLite itself lets them retry until an
	// unlucky one gives up.
	writing *semaphore.Weighted
}

// OpenSQLite opens the database file that address ("sqlite:" and a path) names, and creates and
// migrates it if necessary. A file that is damaged, or not a database, is rejected and left
// unchanged.
func (s Schema) OpenSQLite(ctx context.Context, address string) (File, error) {
	path := strings.TrimPrefix(address, "sqlite:")
	if wrong := checkPath(path); wrong != "" {
		return File{}, fmt.Errorf("DATABASE_URL=%q %s: must be sqlite: and the path of a file, as in sqlite:data/my.db",
			address, wrong)
	}
	if u, err := url.Parse(address); err == nil && u.Opaque == "" { // an absolute path, which a URL escapes
		if u.Host != "" {
			return File{}, fmt.Errorf("DATABASE_URL=%q has // after sqlite: must be sqlite:PATH", address)
		}
		path = u.Path
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return File{}, fmt.Errorf("create the folder of the SQLite file: %w", err)
	}
	db, err := sql.Open("sqlite", dsn(path))
	if err != nil {
		return File{}, fmt.Errorf("open SQLite file %s: %w", path, err)
	}
	if err := prepareSQLite(ctx, db, path, s.migrations("sqlite")); err != nil {
		db.Close()
		return File{}, fmt.Errorf("SQLite file %s: %w", path, err)
	}
	return File{db, semaphore.NewWeighted(1)}, nil
}

// Write runs write in a transaction that holds the file's write lock from the start, and
// classifies its error.
func (f File) Write(ctx context.Context, write func(*sql.Tx) error) error {
	if err := f.writing.Acquire(ctx, 1); err != nil {
		return fmt.Errorf("%w: wait for other writers: %w", ErrUnavailable, err)
	}
	defer f.writing.Release(1)
	tx, err := f.BeginTx(ctx, nil)
	if err != nil {
		return ClassifySQLite(err)
	}
	defer func() { _ = tx.Rollback() }() // after a commit it does nothing
	if err := write(tx); err != nil {
		return ClassifySQLite(err)
	}
	return ClassifySQLite(tx.Commit())
}

// Ping returns an error if the file cannot be read. (The driver's own Ping does not read it.)
func (f File) Ping(ctx context.Context) error {
	var version int
	return ClassifySQLite(f.QueryRowContext(ctx, `PRAGMA schema_version`).Scan(&version))
}

// Excess returns nothing: a file has no roles.
func (f File) Excess(context.Context) ([]string, error) { return nil, nil }

// Close closes the file.
func (f File) Close() { f.DB.Close() }

// checkPath returns what is wrong with the path of an address, or "". Text that other programs
// take for an option would be part of the file name here.
func checkPath(path string) string {
	switch {
	case path == "" || strings.HasSuffix(path, "/"):
		return "names no file"
	case strings.ContainsAny(path, "?#"):
		return "has options after the path"
	case strings.HasPrefix(path, ":"):
		return "is not a file: data in memory would be lost at the end"
	case strings.HasPrefix(path, "file:"):
		return "has two schemes"
	}
	return ""
}

// dsn requests commits that survive a power failure (synchronous=FULL), readers that do not wait
// for the writer (WAL), and transactions that take the write lock at once, so that none fails
// half-way after a read.
func dsn(path string) string {
	pragmas := url.Values{
		"_pragma": {"busy_timeout(5000)", "journal_mode(WAL)", "synchronous(FULL)"},
		"_txlock": {"immediate"},
	}
	return (&url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: pragmas.Encode()}).String()
}

func prepareSQLite(ctx context.Context, db *sql.DB, path string, migrations fs.FS) error {
	var verdict string
	if err := db.QueryRowContext(ctx, `PRAGMA quick_check(1)`).Scan(&verdict); err != nil {
		return ClassifySQLite(err)
	}
	if verdict != "ok" {
		return fmt.Errorf("is damaged: %s", verdict)
	}
	one := flock.New(path + ".lock") // process at a time migrates a file
	if err := one.Lock(); err != nil {
		return fmt.Errorf("lock: %w", err)
	}
	defer func() { _ = one.Unlock() }()
	return ClassifySQLite(migrate(ctx, db, goosedb.DialectSQLite3, migrations))
}

// ClassifySQLite marks an error of the driver as ErrUnavailable if it is one: the file is locked,
// missing, full or unreadable.
func ClassifySQLite(err error) error {
	if errors.Is(err, ErrUnavailable) {
		return err
	}
	var refused *sqlite.Error
	if errors.As(err, &refused) {
		switch refused.Code() & 0xff {
		case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL,
			sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_INTERRUPT:
			return fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return err
}
