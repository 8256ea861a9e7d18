package database

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/internal/postgrestest"
)

// patience is longer than anything that a test waits for.
const patience = time.Minute

func schema(migrations ...string) Schema {
	files := fstest.MapFS{}
	for n, text := range migrations {
		for _, engine := range []string{"postgres", "sqlite"} {
			files["migrations/"+engine+"/0000"+string(rune('1'+n))+"_test.sql"] = &fstest.MapFile{
				Data: []byte("-- +goose Up\n" + text)}
		}
	}
	return Schema{Files: files, Grants: []Grant{
		{Privilege: "SELECT", On: "things"},
		{Privilege: "INSERT", On: "things", Columns: []string{"name"}},
		{Privilege: "UPDATE", On: "things", Columns: []string{"note"}},
	}}
}

const things = `CREATE TABLE things (name text PRIMARY KEY, note text);`

// TestPostgreSQL shares one server, since starting one takes seconds.
func TestPostgreSQL(t *testing.T) {
	server := postgrestest.Start(t)
	server.Exec("postgres", "CREATE ROLE app LOGIN")
	server.Exec("postgres", "CREATE ROLE other LOGIN")
	for name, test := range map[string]func(*testing.T, *postgrestest.Server, string){
		"refusals that last are said at once":              refusals,
		"a transaction that stands still is ended":         standsStill,
		"a vanished client's statement is ended":           vanishedClient,
		"a busy pool is not waited for, and answers pings": busyPool,
		"rights are taken back":                            rights,
		"an older release on a newer schema":               newerSchema,
		"a migration does not wait in front of others":     migrationBehindALock,
		"an interrupted commit":                            interruptedCommit,
		"a warning is noticed in every language":           warningInEveryLanguage,
		"through a pooler":                                 pooler,
		"settings of the URL":                              settingsOfTheURL,
	} {
		t.Run(name, func(t *testing.T) {
			database := "d" + strings.Map(func(r rune) rune {
				if r < 'a' || r > 'z' {
					return -1
				}
				return r
			}, name)
			server.CreateDatabase(database)
			test(t, server, database)
		})
	}
}

func open(t *testing.T, s Schema, url string, conns int) *Pool {
	t.Helper()
	pool, err := s.OpenPostgres(t.Context(), url, conns)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}

func exec(ctx context.Context, pool *Pool, statement string) error {
	return pool.Do(ctx, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, statement)
		return err
	})
}

func refusals(t *testing.T, server *postgrestest.Server, database string) {
	s := schema(things)
	server.Exec("postgres", "CREATE ROLE locked NOLOGIN")
	server.Exec("postgres", "CREATE ROLE password LOGIN PASSWORD 'right'")
	server.Exec("postgres", "CREATE DATABASE closed")
	server.Exec("postgres", "REVOKE CONNECT ON DATABASE closed FROM PUBLIC")
	server.RequirePassword("password")
	require.NoError(t, s.Migrate(t.Context(), server.URL(postgrestest.Superuser, database), ""))
	for code, url := range map[string]string{
		"28000": server.URL("locked", database),
		"3D000": server.URL("app", "nowhere"),
		"42501": server.URL("app", "closed"),
		"28P01": strings.Replace(server.URL("password", database), "password@", "password:wrong@", 1),
	} {
		for name, try := range map[string]func() error{
			"serve": func() error {
				_, err := s.OpenPostgres(t.Context(), url, 1)
				return err
			},
			"migrate": func() error { return s.Migrate(t.Context(), url, "") },
		} {
			err := try()
			require.ErrorContains(t, err, code, name)
			assert.NotErrorIs(t, err, ErrUnavailable, name) // it would have been retried
		}
	}
	_, err := s.OpenPostgres(t.Context(), server.URL("app", database), 1) // without a grant on goose's table
	require.ErrorContains(t, err, "42501")
	assert.NotErrorIs(t, err, ErrUnavailable)
	_, err = s.OpenPostgres(t.Context(), "postgres://host:port/x", 1)
	require.ErrorContains(t, err, "DATABASE_URL")
	assert.NotErrorIs(t, err, ErrUnavailable)
}

// waitFree waits until name can be inserted, so that nobody holds it any more.
func waitFree(t *testing.T, pool *Pool, name string) {
	t.Helper()
	require.Eventually(t, func() bool {
		err := exec(t.Context(), pool, `INSERT INTO things (name) VALUES ('`+name+`')`)
		if err != nil {
			assert.ErrorIs(t, ClassifyPostgres(err), ErrUnavailable)
		}
		return err == nil
	}, patience, 100*time.Millisecond)
}

func standsStill(t *testing.T, server *postgrestest.Server, database string) {
	s := schema(things)
	url := server.URL(postgrestest.Superuser, database)
	require.NoError(t, s.Migrate(t.Context(), url, ""))
	pool := open(t, s, url, 4)
	for name, begin := range map[string]func(conn *pgx.Conn, hold func() error) error{
		"by the session": func(conn *pgx.Conn, hold func() error) error {
			return pgx.BeginFunc(t.Context(), conn, func(pgx.Tx) error { return hold() })
		},
		"by the transaction": func(conn *pgx.Conn, hold func() error) error {
			_, err := conn.Exec(t.Context(), "SET idle_in_transaction_session_timeout = 0") // as through a pooler
			require.NoError(t, err)
			return Transaction(t.Context(), conn, time.Second, func(pgx.Tx) error { return hold() })
		},
	} {
		free := make(chan struct{})
		held := make(chan struct{})
		var holder sync.WaitGroup
		holder.Go(func() {
			err := pool.Do(t.Context(), func(conn *pgx.Conn) error {
				return begin(conn, func() error {
					_, err := conn.Exec(t.Context(), `INSERT INTO things (name) VALUES ('`+name+`')`)
					close(held)
					<-free
					return err
				})
			})
			assert.Error(t, err, name)
		})
		<-held
		waitFree(t, pool, name)
		close(free)
		holder.Wait()
	}
}

// A client that has gone while its statement waits: the server checks whether the client still
// exists, and does not learn it from the network alone.
func vanishedClient(t *testing.T, server *postgrestest.Server, database string) {
	s := schema(things)
	url := server.URL(postgrestest.Superuser, database)
	require.NoError(t, s.Migrate(t.Context(), url, ""))
	pool := open(t, s, url, 4)
	var connection net.Conn
	config, err := parseURL(url)
	require.NoError(t, err)
	bound(config.ConnConfig, sessionSettings)
	config.ConnConfig.RuntimeParams["statement_timeout"] = "0"
	config.ConnConfig.AfterNetConnect = func(_ context.Context, _ *pgconn.Config, conn net.Conn) (net.Conn, error) {
		connection = conn
		return conn, nil
	}
	conn, err := pgx.ConnectConfig(t.Context(), config.ConnConfig)
	require.NoError(t, err)
	gone := make(chan error, 1)
	go func() {
		_, err := conn.Exec(context.Background(), `INSERT INTO things (name) SELECT 'gone' FROM pg_sleep(3600)`)
		gone <- err
	}()
	running := func() (n int) {
		require.NoError(t, pool.Do(t.Context(), func(conn *pgx.Conn) error {
			return conn.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity
				WHERE datname = current_database() AND wait_event = 'PgSleep'`).Scan(&n)
		}))
		return n
	}
	require.Eventually(t, func() bool { return running() == 1 }, patience, 10*time.Millisecond)
	require.NoError(t, connection.Close())
	require.Error(t, <-gone)
	require.Eventually(t, func() bool { return running() == 0 }, patience, 100*time.Millisecond)
}

func busyPool(t *testing.T, server *postgrestest.Server, database string) {
	s := schema(things)
	url := server.URL(postgrestest.Superuser, database)
	require.NoError(t, s.Migrate(t.Context(), url, ""))
	pool := open(t, s, url, 1)
	err := pool.Do(t.Context(), func(*pgx.Conn) error {
		assert.NoError(t, pool.Ping(t.Context()))
		return exec(context.Background(), pool, "SELECT 1") // only the pool limits the wait
	})
	require.ErrorIs(t, err, ErrUnavailable)
	require.ErrorContains(t, err, "none of its 1 connections was free")
	require.NoError(t, exec(t.Context(), pool, "SELECT 1"))
}

func rights(t *testing.T, server *postgrestest.Server, database string) {
	s := schema(things)
	owner := server.URL(postgrestest.Superuser, database)
	require.NoError(t, s.Migrate(t.Context(), owner, "app"))
	pool := open(t, s, server.URL("app", database), 2)
	excess := func() []string {
		excess, err := s.Excess(t.Context(), pool)
		require.NoError(t, err)
		return excess
	}
	require.Empty(t, excess())
	for _, statement := range []string{
		"GRANT DELETE, TRUNCATE ON things TO app", "GRANT UPDATE (name) ON things TO app",
		"GRANT INSERT ON goose_db_version TO app",
		"GRANT CREATE ON SCHEMA public TO app", "GRANT REFERENCES (note) ON things TO app", "CREATE SEQUENCE numbers",
		"GRANT USAGE ON numbers TO app", "CREATE VIEW seen AS SELECT * FROM things", "GRANT SELECT ON seen TO app",
	} {
		server.Exec(database, statement)
	}
	require.Equal(t, []string{"CREATE ON SCHEMA public", "DELETE ON things", "INSERT ON goose_db_version",
		"REFERENCES (note) ON things", "SELECT ON seen", "TRUNCATE ON things",
		"UPDATE (name) ON things", "USAGE ON numbers"}, excess())
	require.ErrorContains(t, CheckRole(t.Context(), connection{s, pool}, true, slog.Default()), "UPDATE (name) ON things")
	require.NoError(t, CheckRole(t.Context(), connection{s, pool}, false, slog.New(slog.NewTextHandler(io.Discard, nil))))

	require.NoError(t, s.Migrate(t.Context(), owner, "app"))
	require.Empty(t, excess(), "a migration takes back what was granted")
	require.NoError(t, CheckRole(t.Context(), connection{s, pool}, true, slog.Default()))
	require.NoError(t, exec(t.Context(), pool, "INSERT INTO things (name) VALUES ('x')"))
	require.Error(t, exec(t.Context(), pool, "DELETE FROM things"))

	// Privileges that do not come from a grant to the role can be seen, but not revoked.
	for statement, undo := range map[string]string{
		"GRANT UPDATE ON things TO PUBLIC": "REVOKE UPDATE ON things FROM PUBLIC",
		"GRANT pg_write_all_data TO app":   "REVOKE pg_write_all_data FROM app",
		"ALTER ROLE app CREATEROLE":        "ALTER ROLE app NOCREATEROLE",
		"ALTER TABLE things OWNER TO app":  "ALTER TABLE things OWNER TO postgres",
	} {
		server.Exec(database, statement)
		require.NotEmpty(t, excess(), statement)
		server.Exec(database, undo)
	}
	require.NotEmpty(t, func() []string {
		excess, err := s.Excess(t.Context(), open(t, s, owner, 1))
		require.NoError(t, err)
		return excess
	}(), "a superuser")
}

// While two releases run side by side, and after the newer one was rolled back, pods of the older
// one start: they must neither take away what the newer one needs, nor find fault with it.
func newerSchema(t *testing.T, server *postgrestest.Server, database string) {
	older, newer := schema(things), schema(things, "ALTER TABLE things ADD COLUMN size int; CREATE TABLE more ();")
	newer.Grants = append(newer.Grants, Grant{Privilege: "UPDATE", On: "things", Columns: []string{"size"}},
		Grant{Privilege: "SELECT", On: "more"})
	owner := server.URL(postgrestest.Superuser, database)
	for _, s := range []Schema{older, newer, older} {
		require.NoError(t, s.Migrate(t.Context(), owner, "app"))
	}
	pool := open(t, older, server.URL("app", database), 1)
	for _, s := range []Schema{older, newer} {
		require.NoError(t, CheckRole(t.Context(), connection{s, pool}, true, slog.Default()))
	}
	require.NoError(t, exec(t.Context(), pool, "UPDATE things SET size = 1"))

	for _, statement := range []string{"GRANT DELETE ON things TO app", "GRANT UPDATE (name) ON things TO app"} {
		server.Exec(database, statement)
	}
	excess, err := older.Excess(t.Context(), pool)
	require.NoError(t, err)
	require.Equal(t, []string{"DELETE ON things", "UPDATE (name) ON things"}, excess)
}

type connection struct {
	Schema
	*Pool
}

func (c connection) Excess(ctx context.Context) ([]string, error) {
	return c.Schema.Excess(ctx, c.Pool)
}

// A long SELECT holds a lock that a migration needs. The migration must not wait in the queue,
// where everybody else would wait behind it.
func migrationBehindALock(t *testing.T, server *postgrestest.Server, database string) {
	url := server.URL(postgrestest.Superuser, database)
	require.NoError(t, schema(things).Migrate(t.Context(), url, ""))
	reader, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	defer reader.Close(context.Background())
	for _, statement := range []string{"BEGIN", "SELECT * FROM things"} {
		_, err := reader.Exec(t.Context(), statement)
		require.NoError(t, err)
	}
	next := schema(things, "ALTER TABLE things ADD COLUMN more text;")
	migrated := make(chan error, 1)
	go func() { migrated <- next.Migrate(context.Background(), url, "app") }()
	pool := open(t, schema(things), url, 2)
	tries := 0
	for waiting := false; tries < 2; { // it has waited, given up and retried
		before := waiting
		require.NoError(t, pool.Do(t.Context(), func(conn *pgx.Conn) error {
			return conn.QueryRow(t.Context(),
				`SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock')`).Scan(&waiting)
		}))
		if waiting && !before {
			tries++
		}
		select {
		case err := <-migrated:
			require.Fail(t, "it has not waited", "%v", err)
		default:
		}
	}
	require.Eventually(t, func() bool { return exec(t.Context(), pool, "SELECT * FROM things") == nil },
		patience, time.Millisecond)
	_, err = reader.Exec(t.Context(), "COMMIT")
	require.NoError(t, err)
	require.NoError(t, <-migrated)
}

// A commit that waits for a standby is done, but its client does not know. Whatever ends the wait,
// the caller learns that the outcome is unknown.
func interruptedCommit(t *testing.T, server *postgrestest.Server, database string) {
	s := schema(things)
	url := server.URL(postgrestest.Superuser, database)
	require.NoError(t, s.Migrate(t.Context(), url, ""))
	pool := open(t, s, url, 4)
	server.Exec("postgres", "ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
	server.Exec("postgres", "SELECT pg_reload_conf()")
	defer func() {
		server.Exec("postgres", "ALTER SYSTEM RESET synchronous_standby_names")
		server.Exec("postgres", "SELECT pg_reload_conf()")
	}()
	const waiting = " FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND datname = current_database()"
	waits := func() (n int) {
		require.NoError(t, pool.Do(t.Context(), func(conn *pgx.Conn) error {
			return conn.QueryRow(t.Context(), "SELECT count(*)"+waiting).Scan(&n)
		}))
		return n
	}
	// Commits wait once the checkpointer has read the setting, too.
	require.Eventually(t, func() bool {
		committed := make(chan error, 1)
		go func() { committed <- exec(t.Context(), pool, "SELECT pg_logical_emit_message(true, 'test', '')") }()
		for waits() == 0 {
			select {
			case <-committed:
				return false
			case <-time.After(10 * time.Millisecond):
			}
		}
		assert.NoError(t, exec(t.Context(), pool, "SELECT pg_terminate_backend(pid)"+waiting))
		<-committed
		return true
	}, patience, 10*time.Millisecond)
	require.Eventually(t, func() bool { return waits() == 0 }, patience, 10*time.Millisecond)
	insert := func(ctx context.Context, name string) error {
		return pool.Confirmed(ctx, func(conn *pgx.Conn) error {
			_, err := conn.Exec(ctx, `INSERT INTO things (name) VALUES ($1)`, name)
			return Unanswered(err)
		})
	}
	commit := func(ctx context.Context, name string) error {
		return pool.Confirmed(ctx, func(conn *pgx.Conn) error {
			return Transaction(ctx, conn, patience, func(tx pgx.Tx) error {
				_, err := tx.Exec(ctx, `INSERT INTO things (name) VALUES ($1)`, name)
				return err
			})
		})
	}
	for way, write := range map[string]func(context.Context, string) error{"statement": insert, "transaction": commit} {
		for end, interrupt := range map[string]func(cancel func()){
			"the caller gives up": func(cancel func()) { cancel() },
			"an operator cancels it": func(func()) {
				_ = exec(context.Background(), pool, "SELECT pg_cancel_backend(pid)"+waiting)
			},
			"an operator terminates it": func(func()) {
				_ = exec(context.Background(), pool, "SELECT pg_terminate_backend(pid)"+waiting)
			},
		} {
			name := way + end
			ctx, cancel := context.WithCancel(t.Context())
			written := make(chan error, 1)
			go func() { written <- write(ctx, name) }()
			require.Eventually(t, func() bool { return waits() > 0 }, patience, 10*time.Millisecond, name)
			interrupt(cancel)
			err := <-written
			cancel()
			require.ErrorIs(t, err, ErrUnknownOutcome, name)
			require.ErrorIs(t, err, ErrUnavailable, name)
			require.Eventually(t, func() bool {
				var n int
				require.NoError(t, pool.Do(t.Context(), func(conn *pgx.Conn) error {
					return conn.QueryRow(t.Context(), "SELECT count(*) FROM things WHERE name = $1", name).Scan(&n)
				}))
				return n == 1
			}, patience, 10*time.Millisecond, "it is there: %s", name)
		}
	}
	err := exec(t.Context(), pool, "INSERT INTO things SELECT 'x' FROM nothing")
	require.NotErrorIs(t, Unanswered(err), ErrUnknownOutcome, "a refused statement has done nothing")
}

// Whatever the language of the server's messages.
func warningInEveryLanguage(t *testing.T, server *postgrestest.Server, database string) {
	config, err := pgx.ParseConfig(server.URL(postgrestest.Superuser, database))
	require.NoError(t, err)
	config.OnNotice = noteWarning
	conn, err := pgx.ConnectConfig(t.Context(), config)
	require.NoError(t, err)
	defer conn.Close(context.Background())
	for severity, message := range map[string]string{
		"WARNUNG": "storniere Warten auf synchrone Replikation", "警告": "…",
	} {
		notes := conn.PgConn().CustomData()
		delete(notes, warned)
		noteWarning(conn.PgConn(), &pgconn.Notice{Severity: "HINWEIS", SeverityUnlocalized: "NOTICE", Code: "00000"})
		assert.Empty(t, notes)
		noteWarning(conn.PgConn(),
			&pgconn.Notice{Severity: severity, SeverityUnlocalized: "WARNING", Code: "01000", Message: message})
		assert.NotEmpty(t, notes)
	}
}

func pooler(t *testing.T, server *postgrestest.Server, database string) {
	s := schema(things)
	require.NoError(t, s.Migrate(t.Context(), server.URL(postgrestest.Superuser, database), "app"))
	url := server.Pooler("app")
	require.ErrorContains(t, s.Migrate(t.Context(), url(postgrestest.Superuser, database), ""), "direct connection")

	var log strings.Builder
	old := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	defer slog.SetDefault(old)
	pool := open(t, s, url("app", database), 4)
	require.Contains(t, log.String(), `ALTER ROLE app SET statement_timeout = '10s'`)
	var readers sync.WaitGroup
	for range 8 { // the pooler may use another server process for each
		readers.Go(func() {
			for range 20 {
				err := pool.Do(t.Context(), func(conn *pgx.Conn) error {
					var n int
					return conn.QueryRow(t.Context(), "SELECT $1::int", 7).Scan(&n)
				})
				assert.NoError(t, err)
			}
		})
	}
	readers.Wait()

	for _, statement := range []string{
		"statement_timeout = '10s'", "lock_timeout = '2s'", "idle_in_transaction_session_timeout = '5s'",
	} {
		server.Exec(database, "ALTER ROLE other SET "+statement)
	}
	log.Reset()
	require.NoError(t, s.Migrate(t.Context(), server.URL(postgrestest.Superuser, database), "other"))
	open(t, s, server.Pooler("other")("other", database), 4)
	require.NotContains(t, log.String(), "ALTER ROLE")
}

func settingsOfTheURL(t *testing.T, server *postgrestest.Server, database string) {
	s := schema(things)
	url := server.URL(postgrestest.Superuser, database)
	require.NoError(t, s.Migrate(t.Context(), url, ""))
	for url, want := range map[string]string{url: "10s", url + "&statement_timeout=33s": "33s"} {
		var got string
		require.NoError(t, open(t, s, url, 1).Do(t.Context(), func(conn *pgx.Conn) error {
			return conn.QueryRow(t.Context(), "SHOW statement_timeout").Scan(&got)
		}))
		assert.Equal(t, want, got)
	}
}

// The client's own limits detect a server that is frozen, or behind a network that drops packets.
func TestServerThatDoesNotRespond(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	failed := make(chan error, 1)
	go func() { // nobody accepts, but the kernel completes the connection
		_, err := openPool(ctx, "postgres://x@"+listener.Addr().String()+"/x?sslmode=disable", 1)
		failed <- err
	}()
	select {
	case err := <-failed:
		require.ErrorIs(t, ClassifyPostgres(err), ErrUnavailable)
	case <-time.After(patience):
		require.Fail(t, "it waits without end")
	}
}

func TestAddressesOfSQLite(t *testing.T) {
	folder := t.TempDir()
	for address, says := range map[string]string{
		"sqlite:":                                     "names no file",
		"sqlite:" + folder + "/":                      "names no file",
		"sqlite::memory:":                             "in memory",
		"sqlite:file:x.db":                            "two schemes",
		"sqlite:" + folder + "/x.db?mode=ro":          "options",
		"sqlite:" + folder + "/x.db#x":                "options",
		"sqlite:" + folder + "/x.db?cache=shared&a=b": "options",
		"sqlite://host/x.db":                          "must be sqlite:PATH",
	} {
		_, err := schema(things).OpenSQLite(t.Context(), address)
		require.ErrorContains(t, err, says, address)
		require.ErrorContains(t, err, address)
	}
	left, err := filepath.Glob(filepath.Join(folder, "*"))
	require.NoError(t, err)
	assert.Empty(t, left)
	db, err := schema(things).OpenSQLite(t.Context(), "sqlite:"+folder+"/mein böser name.db")
	require.NoError(t, err)
	db.Close()
}

func TestErrors(t *testing.T) {
	for code, unavailable := range map[string]bool{
		"08006": true, "53300": true, "57014": true, "57P03": true,
		"58030": true, "25006": true, "55P03": true, "40P01": true,
		"28P01": false, "28000": false, "3D000": false, "42501": false, "42P01": false, "23505": false, "22001": false,
	} {
		err := ClassifyPostgres(&pgconn.PgError{Code: code, SeverityUnlocalized: "ERROR"})
		assert.Equal(t, unavailable, errors.Is(err, ErrUnavailable), code)
	}
	assert.ErrorIs(t, ClassifyPostgres(io.ErrUnexpectedEOF), ErrUnavailable)
	assert.NoError(t, ClassifyPostgres(nil))
	assert.ErrorIs(t, Unanswered(io.ErrUnexpectedEOF), ErrUnknownOutcome)
	assert.ErrorIs(t, Unanswered(&pgconn.PgError{Code: "57P01", SeverityUnlocalized: "FATAL"}), ErrUnknownOutcome)
	assert.NotErrorIs(t, Unanswered(&pgconn.PgError{Code: "57014", SeverityUnlocalized: "ERROR"}), ErrUnknownOutcome)
	assert.NotErrorIs(t, Unanswered(pgx.ErrTxCommitRollback), ErrUnknownOutcome)
	assert.NoError(t, Unanswered(nil))
}
