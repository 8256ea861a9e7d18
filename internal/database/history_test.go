package database

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/internal/postgrestest"
)

// migrations are files of a program, by name. The SQL runs in both engines.
type migrations map[string]string

const up = "-- +goose Up\n"

var first = migrations{"00001_things.sql": up + things}

// and returns m with another file, or without it if text is "".
func (m migrations) and(file, text string) migrations {
	more := migrations{}
	for name, text := range m {
		more[name] = text
	}
	if more[file] = text; text == "" {
		delete(more, file)
	}
	return more
}

func (m migrations) schema() Schema {
	files := fstest.MapFS{}
	for name, text := range m {
		for _, engine := range []string{"postgres", "sqlite"} {
			files["migrations/"+engine+"/"+name] = &fstest.MapFile{Data: []byte(text)}
		}
	}
	return Schema{Files: files, Grants: []Grant{{Privilege: "SELECT", On: "things"}}}
}

// medium is a new database.
type medium struct {
	*testing.T
	url string
}

func (m medium) migrate(program migrations) error {
	return program.schema().Migrate(m.Context(), m.url, "")
}

// refuses requires that neither migrating nor serving changes the database, and that both say what is wrong.
func (m medium) refuses(program migrations, says string) {
	m.Helper()
	before := m.state()
	err := m.migrate(program)
	require.ErrorIs(m, err, ErrOtherMigrations)
	require.ErrorContains(m, err, "\n  "+says+"\n")
	assert.NotErrorIs(m, err, ErrUnavailable)
	assert.Equal(m, before, m.state())
	if !IsSQLite(m.url) { // there serving has migrated before
		_, err = program.schema().OpenPostgres(m.Context(), m.url, 1)
		require.ErrorIs(m, err, ErrOtherMigrations)
		require.ErrorContains(m, err, "\n  "+says+"\n")
	}
}

func (m medium) accepts(program migrations) {
	m.Helper()
	require.NoError(m, m.migrate(program))
	if !IsSQLite(m.url) {
		pool, err := program.schema().OpenPostgres(m.Context(), m.url, 1)
		require.NoError(m, err)
		pool.Close()
	}
}

// open opens the database without a look at its migrations.
func (m medium) open() (db *sql.DB, dialect goose.Dialect, folder string) {
	m.Helper()
	if path, ok := strings.CutPrefix(m.url, "sqlite:"); ok {
		db, err := sql.Open("sqlite", path)
		require.NoError(m, err)
		return db, goose.DialectSQLite3, "migrations/sqlite"
	}
	config, err := parseURL(m.url)
	require.NoError(m, err)
	return stdlib.OpenDB(*config.ConnConfig), goose.DialectPostgres, "migrations/postgres"
}

// state returns the columns of things and what is recorded of the migrations.
func (m medium) state() string {
	m.Helper()
	db, _, _ := m.open()
	defer db.Close()
	rows, err := db.QueryContext(m.Context(), `SELECT * FROM things LIMIT 0`)
	require.NoError(m, err)
	columns, err := rows.Columns()
	require.NoError(m, err)
	require.NoError(m, rows.Close())
	var recorded string
	require.NoError(m, db.QueryRowContext(m.Context(),
		`SELECT string_agg(version_id || ' ' || coalesce(checksum, '?'), ',') FROM goose_db_version`).Scan(&recorded))
	return strings.Join(columns, " ") + ": " + recorded
}

// migrateAsBefore migrates as a release did that recorded versions only.
func (m medium) migrateAsBefore(program migrations) {
	m.Helper()
	db, dialect, folder := m.open()
	defer db.Close()
	files, err := fs.Sub(program.schema().Files, folder)
	require.NoError(m, err)
	provider, err := goose.NewProvider(dialect, db, files)
	require.NoError(m, err)
	_, err = provider.Up(m.Context())
	require.NoError(m, err)
}

// logged returns what is logged from now on until the test ends.
func logged(t *testing.T) *bytes.Buffer {
	var log bytes.Buffer
	old := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	t.Cleanup(func() { slog.SetDefault(old) })
	return &log
}

func addColumn(name string) string { return up + "ALTER TABLE things ADD COLUMN " + name + " text;\n" }

func TestHistory(t *testing.T) {
	server := postgrestest.Start(t)
	databases := 0
	engines := map[string]func(*testing.T) string{
		"SQLite": func(t *testing.T) string { return "sqlite:" + filepath.Join(t.TempDir(), "test.db") },
		"PostgreSQL": func(t *testing.T) string {
			databases++
			name := fmt.Sprint("history", databases)
			server.CreateDatabase(name)
			return server.URL(postgrestest.Superuser, name)
		},
	}
	second := first.and("00002_second.sql", addColumn("second"))
	for name, test := range map[string]func(medium){
		"an applied migration is edited": func(m medium) {
			m.accepts(second)
			edited := second.and("00002_second.sql", addColumn("other"))
			m.refuses(edited, "version 2: 00002_second.sql has changed since it was applied")
			m.refuses(edited.and("00003_third.sql", addColumn("third")),
				"version 2: 00002_second.sql has changed since it was applied")
			err := m.migrate(edited)
			require.ErrorContains(m, err, "the next number, 00003.")
			require.ErrorContains(m, err, `press "Rebuild schema" in Tilt, or run make reset`)
			m.accepts(second) // edited back
		},
		"another branch has used the number": func(m medium) {
			m.accepts(second)
			m.refuses(first.and("00002_mine.sql", addColumn("mine")),
				"version 2: 00002_second.sql was applied, and this program's 00002_mine.sql has other content")
		},
		"another branch was applied, and this one goes on": func(m medium) {
			m.accepts(second)
			m.refuses(first.and("00003_mine.sql", addColumn("mine")),
				"version 2: 00002_second.sql was applied, but this program does not have it")
		},
		"a migration gets a lower number": func(m medium) {
			m.accepts(first.and("00005_fifth.sql", addColumn("fifth")))
			low := first.and("00005_fifth.sql", addColumn("fifth")).and("00003_low.sql", addColumn("low"))
			m.refuses(low, "version 3: 00003_low.sql was not applied before 00005_fifth.sql")
			require.ErrorContains(m, m.migrate(low), "the next number, 00006.")
		},
		"an older program, or one whose last migration was deleted": func(m medium) {
			m.accepts(second)
			log := logged(m.T)
			m.accepts(first)
			assert.Contains(m, log.String(), "the schema is newer than this program")
			assert.Contains(m, log.String(), "schema=2 program=1")
			m.accepts(second)
		},
		"a migration is renamed": func(m medium) {
			m.accepts(second)
			m.accepts(first.and("00002_renamed.sql", addColumn("second")))
			m.accepts(first.and("2_renamed.sql", addColumn("second")))
		},
		"what does not run is edited": func(m medium) {
			m.accepts(second)
			for _, same := range []string{
				strings.ReplaceAll(addColumn("second"), "\n", "\r\n"),
				"-- A comment.\n\n" + addColumn("second") + "\n-- Another one.\n",
				addColumn("second") + "-- +goose Down\nALTER TABLE things DROP COLUMN second;\n",
				"-- +goose NO TRANSACTION\n" + addColumn("second"),
			} {
				m.accepts(first.and("00002_second.sql", same))
			}
		},
		"a migration is written bit by bit": func(m medium) {
			m.accepts(first)
			before := m.state()
			for _, text := range []string{"\n", up, up + "-- +goose Down\nDROP TABLE things;\n"} {
				m.accepts(first.and("00002_second.sql", text))
				assert.Equal(m, before, m.state())
			}
			m.accepts(second)
			m.refuses(second.and("00002_second.sql", up), "version 2: 00002_second.sql has changed since it was applied")
		},
		"a migration that fails can be edited": func(m medium) {
			m.accepts(first)
			for _, text := range []string{
				addColumn("second") + "ALTER TABLE nothing ADD COLUMN x text;\n",
				"-- +goose NO TRANSACTION\n" + up + "ALTER TABLE nothing ADD COLUMN x text;\n",
			} {
				err := m.migrate(first.and("00002_second.sql", text))
				require.ErrorContains(m, err, "nothing")
				require.NotErrorIs(m, err, ErrOtherMigrations)
			}
			m.accepts(second)
		},
		"a database of a release that recorded versions only": func(m medium) {
			m.migrateAsBefore(second)
			if !IsSQLite(m.url) {
				pool, err := second.schema().OpenPostgres(m.Context(), m.url, 1)
				require.NoError(m, err, "it can be served before the first migration")
				pool.Close()
			}
			log := logged(m.T)
			require.ErrorContains(m, m.migrate(first.and("00003_third.sql", addColumn("third"))),
				"\n  version 2: a migration was applied, but this program does not have it\n")
			require.Empty(m, log.String(), "what does not fit is not recorded")
			m.accepts(second)
			assert.Contains(m, log.String(), "before checksums were recorded")
			assert.Contains(m, log.String(), `files="[00001_things.sql 00002_second.sql]"`)
			log.Reset()
			m.accepts(second)
			assert.Empty(m, log.String(), "it happens once")
			m.refuses(second.and("00002_second.sql", addColumn("other")),
				"version 2: 00002_second.sql has changed since it was applied")
			// After a rollback, such a release migrates as before.
			m.migrateAsBefore(second)
			m.migrateAsBefore(second.and("00003_third.sql", addColumn("third")))
			m.accepts(second.and("00003_third.sql", addColumn("third")))
		},
		"two branches migrate at once": func(m medium) {
			m.accepts(first)
			var both sync.WaitGroup
			errs := make([]error, 6)
			for n := range errs {
				both.Go(func() {
					column := []string{"mine", "yours"}[n%2]
					errs[n] = first.and("00002_"+column+".sql", addColumn(column)).schema().
						Migrate(context.Background(), m.url, "")
				})
			}
			both.Wait()
			won := 0
			for n, err := range errs {
				if err == nil {
					won++
				} else {
					assert.ErrorIs(m, err, ErrOtherMigrations)
				}
				assert.Equal(m, errs[n%2] == nil, err == nil)
			}
			assert.Equal(m, len(errs)/2, won, "%v", errs)
		},
	} {
		for engine, url := range engines {
			t.Run(name+"/"+engine, func(t *testing.T) { test(medium{t, url(t)}) })
		}
	}
}

// A program that cannot be right is refused before it looks at a database.
func TestImpossibleMigrations(t *testing.T) {
	m := medium{t, "sqlite:" + filepath.Join(t.TempDir(), "test.db")}
	for says, program := range map[string]migrations{
		"migrations 00002_mine.sql and 00002_yours.sql have the same number: " +
			"give the one that was written later the next number, 00006": first.
			and("00002_mine.sql", addColumn("mine")).and("00002_yours.sql", addColumn("yours")).
			and("00005_fifth.sql", addColumn("fifth")),
		"migration 00002-second.sql must be named NUMBER_NAME.sql": first.and("00002-second.sql", addColumn("second")),
		"migration second.sql must be named NUMBER_NAME.sql":       first.and("second.sql", addColumn("second")),
		"no migrations are embedded":                               {},
	} {
		require.ErrorContains(t, m.migrate(program), says)
	}
}

func TestStatements(t *testing.T) {
	const create = "CREATE TABLE a (\n\n-- about b\n  b text -- of a\n);\n"
	for file, want := range map[string]string{
		"":                          "",
		"-- +goose Up":              "",
		up + create:                 create,
		"-- x\n" + up + create:      create,
		up + create + "\n-- x":      create,
		up + "-- x\n\n" + create:    create,
		up + create + create:        create + create,
		up + "SELECT 1; -- x\n-- y": "SELECT 1; -- x\n",
		"-- +goose Up\r\nSELECT 1\r\n;\r\n-- +goose  down\r\nSELECT 2;":      "SELECT 1\n;\n",
		up + "-- +goose StatementBegin\nSELECT 1;\n-- +goose StatementEnd\n": "SELECT 1;\n",
		// What looks like a comment may be data: it counts.
		up + "SELECT 'a\n-- b\n';\n": "SELECT 'a\n-- b\n';\n",
		up + "SELECT '--a;';\n-- b":  "SELECT '--a;';\n-- b\n",
	} {
		assert.Equal(t, want, statements(file), file)
	}
}

// A program that was delivered together with a migration waits until another process has migrated, and says nothing
// that would alarm anybody.
func TestServingWaitsForTheMigration(t *testing.T) {
	server := postgrestest.Start(t)
	url := server.URL(postgrestest.Superuser, "postgres")
	for _, program := range []migrations{first, first.and("00002_second.sql", addColumn("second"))} {
		old := slog.Default()
		ctx, cancel := context.WithCancel(t.Context())
		said := make(chan string, 100)
		slog.SetDefault(slog.New(slog.NewTextHandler(lines(func(line string) {
			said <- line
			cancel()
		}), nil)))
		_, err := program.schema().OpenPostgres(ctx, url, 1)
		require.ErrorIs(t, err, ErrNotMigrated, "it is the reason for the wait that counts")

		opened := make(chan error, 1)
		go func() {
			pool, err := program.schema().OpenPostgres(t.Context(), url, 1)
			if err == nil {
				pool.Close()
			}
			opened <- err
		}()
		for range 2 {
			line := <-said
			require.Contains(t, line, "level=INFO")
			require.Contains(t, line, "waiting until the schema is migrated")
		}
		slog.SetDefault(slog.New(slog.DiscardHandler))
		require.NoError(t, program.schema().Migrate(t.Context(), url, ""))
		require.NoError(t, <-opened)
		require.Empty(t, said, "it is said once")
		slog.SetDefault(old)
	}
}

// lines is a writer that gets a line at a time.
type lines func(string)

func (l lines) Write(line []byte) (int, error) {
	l(string(line))
	return len(line), nil
}

// Nothing is logged of the moment that a new pod's network takes.
func TestAwaitIsQuick(t *testing.T) {
	log := logged(t)
	asked := 0
	require.NoError(t, await(t.Context(), servePatience, func() error {
		if asked++; asked < 5 {
			return ErrUnavailable
		}
		return nil
	}))
	assert.Empty(t, log.String())
	assert.Equal(t, 5, asked)
	broken := errors.New("broken")
	assert.Equal(t, broken, await(t.Context(), servePatience, func() error { return broken }))
}
