package database

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// The PostgreSQL error codes that the code below distinguishes
// (https://www.postgresql.org/docs/current/errcodes-appendix.html).
const (
	undefinedTable   = "42P01"
	lockNotAvailable = "55P03"
	readOnly         = "25006"
	tooManyClients   = "53300"
)

// How long one side waits for the other. The server settings below end an idle or stuck session
// whatever has happened to the client: nothing here relies on a client that still works.
const (
	connectTimeout = 3 * time.Second
	// acquireTimeout limits the wait for a free connection of the pool, and pingTimeout the check of one that has been
	// idle.
	acquireTimeout = 3 * time.Second
	pingTimeout    = time.Second
	// peerSilence is how long a peer may leave packets unacknowledged before it counts as gone.
	// keepAlive amounts to the same.
	peerSilence = 5 * time.Second
	// outage is how long Do waits for a database that is away: a failover takes up to 20 s.
	outage = 25 * time.Second
	// attempt is how long Do waits for a server that does not respond, before it tries another connection: more than
	// statement_timeout.
	attempt = 12 * time.Second
	// How long Do waits before it tries again: firstWait, doubled each time, and at most maxWait.
	firstWait = 50 * time.Millisecond
	maxWait   = 500 * time.Millisecond
)

var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 2 * time.Second, Interval: time.Second, Count: 3}

// sessionSettings limit what a session can hold, and for how long. A DATABASE_URL may override
// each of them (…?statement_timeout=60s).
var sessionSettings = map[string]string{
	// Our statements are short; one that takes long is blocked by something.
	"statement_timeout":                   "10s",
	"lock_timeout":                        "2s",
	"idle_in_transaction_session_timeout": "5s",
	"tcp_keepalives_idle":                 "10s",
	"tcp_keepalives_interval":             "5s",
	"tcp_keepalives_count":                "3",
	"tcp_user_timeout":                    "15s",
	"client_connection_check_interval":    "2s",
	"client_min_messages":                 "warning", // Confirmed needs the warnings
	"default_transaction_isolation":       "read committed",
}

// parseURL parses a DATABASE_URL and adds the client's settings.
func parseURL(url string) (*pgxpool.Config, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("DATABASE_URL: %w", err)
	}
	config.ConnConfig.ConnectTimeout = connectTimeout
	config.ConnConfig.DialFunc = dialer().DialContext
	config.BeforeConnect = (&credentials{url: url}).refresh
	if config.ConnConfig.ValidateConnect == nil {
		// A Service may lead to the last primary for a while, which is a standby now, and behind.
		config.ConnConfig.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	}
	return config, nil
}

// bound adds the settings that a session starts with, unless the URL sets them.
func bound(config *pgx.ConnConfig, settings map[string]string) {
	for name, value := range settings {
		if _, set := config.RuntimeParams[name]; !set {
			config.RuntimeParams[name] = value
		}
	}
}

// Pool is a pool of connections to PostgreSQL, with one more connection for Ping: a busy pool says
// nothing about the health of the database.
type Pool struct {
	pool, probe *pgxpool.Pool
	outage      time.Duration
	worked      atomic.Int64 // when a connection last did, in Unix milliseconds
	reset       atomic.Int64 // when all connections were last given up, in Unix milliseconds
}

// OpenPostgres returns a pool of at most maxConns connections to the database at url. The error is
// ErrNotMigrated if its schema is older than s, and ErrUnavailable if the server does not respond.
func (s Schema) OpenPostgres(ctx context.Context, url string, maxConns int) (*Pool, error) {
	var pool *Pool
	err := await(ctx, servePatience, func() (err error) {
		if pool == nil {
			if pool, err = openPool(ctx, url, maxConns); err != nil {
				return ClassifyPostgres(err)
			}
		}
		return pool.checkVersion(ctx, s.migrations("postgres"))
	})
	if err != nil {
		if pool != nil {
			pool.Close()
		}
		return nil, err
	}
	return pool, nil
}

func openPool(ctx context.Context, url string, maxConns int) (*Pool, error) {
	config, err := parseURL(url)
	if err != nil {
		return nil, err
	}
	pooled, err := throughPooler(ctx, config)
	if err != nil {
		return nil, err
	}
	if pooled {
		// A pooler such as PgBouncer rejects settings at the start of a session, and may run each
		// transaction in another server process, which does not know the statements prepared in the
		// last one.
		config.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec
	} else {
		bound(config.ConnConfig, sessionSettings)
	}
	config.MaxConns = int32(maxConns)
	config.PingTimeout = pingTimeout
	config.AfterConnect = func(_ context.Context, conn *pgx.Conn) error {
		conn.PgConn().CustomData()[opened] = time.Now().UnixMilli()
		return nil
	}
	config.ConnConfig.OnNotice = noteWarning
	probe := config.Copy()
	probe.MaxConns = 1
	p := &Pool{outage: outage}
	if p.pool, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		return nil, fmt.Errorf("open PostgreSQL: %w", err)
	}
	if p.probe, err = pgxpool.NewWithConfig(ctx, probe); err != nil {
		p.pool.Close()
		return nil, fmt.Errorf("open PostgreSQL: %w", err)
	}
	if pooled {
		if err := p.warnOfUnbounded(ctx); err != nil {
			p.Close()
			return nil, err
		}
	}
	return p, nil
}

// throughPooler reports whether a pooler stands in front of the server: then the process that runs
// a query is not the one that accepted the connection.
func throughPooler(ctx context.Context, config *pgxpool.Config) (bool, error) {
	config = config.Copy()
	config.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec
	conn, err := connect(ctx, config)
	if err != nil {
		return false, err
	}
	defer conn.Close(ctx)
	var pid uint32
	err = conn.QueryRow(ctx, `SELECT pg_backend_pid()`).Scan(&pid)
	return pid != conn.PgConn().PID(), err
}

// warnOfUnbounded logs the settings that a session through a pooler lacks; there only the role can
// set them. (Transactions set theirs in any case.)
func (p *Pool) warnOfUnbounded(ctx context.Context) error {
	wanted, err := json.Marshal(sessionSettings)
	if err != nil {
		return err
	}
	return p.Do(ctx, func(conn *pgx.Conn) error {
		rows, _ := conn.Query(ctx, `
			SELECT format('ALTER ROLE %I SET %s = %s', current_user, name, quote_literal(wanted.value))
			FROM jsonb_each_text($1::text::jsonb) AS wanted (name, value) JOIN pg_settings USING (name)
			WHERE CASE name
			      WHEN 'client_min_messages' THEN setting = 'error'
			      WHEN 'default_transaction_isolation' THEN setting <> wanted.value
			      ELSE setting = '0' END
			  AND name NOT LIKE 'tcp%' AND name NOT LIKE 'client_connection%' -- the pooler's own matter
			ORDER BY name`, string(wanted))
		statements, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err == nil && len(statements) > 0 {
			slog.Warn("DATABASE_URL points to a connection pooler, and the server does not limit the sessions that come "+
				"that way: run these statements as a superuser", "statements", strings.Join(statements, "; "))
		}
		return err
	})
}

// Do runs f with a connection of the pool, and returns f's error unchanged. If the database is away, it waits for it
// and runs f again, for up to 25 s: a server that starts, stops or has gone, the next one after a failover, and the
// last one, which is read-only then. So f must do no harm when it is repeated, even if it had been carried out
// without a response. It waits up to acquireTimeout for a free connection while others work.
func (p *Pool) Do(ctx context.Context, f func(*pgx.Conn) error) error { return p.run(ctx, f, true) }

// Once is Do for an f that must not be repeated: it waits for the database in the same way, but runs f once.
func (p *Pool) Once(ctx context.Context, f func(*pgx.Conn) error) error { return p.run(ctx, f, false) }

func (p *Pool) run(ctx context.Context, f func(*pgx.Conn) error, repeatable bool) error {
	end := time.Now().Add(p.outage)
	for wait := firstWait; ; wait = min(2*wait, maxWait) {
		err, again := p.try(ctx, f, repeatable)
		if !again || time.Now().Add(wait).After(end) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(wait/2 + rand.N(wait/2)):
		}
	}
}

// try runs f once, unless there is no connection. again reports whether the error may go away, and f can be run
// again.
func (p *Pool) try(ctx context.Context, f func(*pgx.Conn) error, repeatable bool) (err error, again bool) {
	start := time.Now()
	acquiring, cancel := context.WithTimeout(ctx, acquireTimeout)
	conn, err := p.pool.Acquire(acquiring)
	cancel()
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return ClassifyPostgres(err), false
	case errors.Is(err, context.DeadlineExceeded):
		now := p.pool.Stat()
		if now.IdleConns() > 0 { // these do not respond
			p.giveUp(start)
		}
		// While connections are being opened, it is not the work of others that it waits for.
		opening := now.ConstructingConns() > 0
		return fmt.Errorf("%w: none of its %d connections was free within %s",
			ErrUnavailable, p.pool.Config().MaxConns, acquireTimeout), opening || p.worked.Load() < start.UnixMilli()
	default:
		err = ClassifyPostgres(err)
		// A password that was just tried may have been changed since.
		return err, errors.Is(err, ErrUnavailable) || wrongPassword(err)
	}
	defer conn.Release()
	if repeatable {
		socket := conn.Conn().PgConn().Conn()
		silence := time.AfterFunc(attempt, func() { _ = socket.Close() })
		defer silence.Stop()
	}
	err = f(conn.Conn())
	var refused *pgconn.PgError
	isRefused := errors.As(err, &refused)
	switch {
	case isRefused && refused.Code == readOnly: // this server is no longer the primary
		_ = conn.Conn().Close(ctx)
	case conn.Conn().IsClosed(), errors.Is(err, ErrUnknownOutcome):
	default:
		p.worked.Store(time.Now().UnixMilli())
		return err, false
	}
	if ctx.Err() != nil {
		return err, false
	}
	if since, ok := conn.Conn().PgConn().CustomData()[opened].(int64); ok && conn.Conn().IsClosed() {
		p.giveUp(time.UnixMilli(since))
	}
	return err, repeatable
}

// opened is the key of the time at which a connection was opened.
const opened = "opened"

// giveUp closes all connections, unless it has done so since: when one connection has lost its server, so have the
// others, and each would find out on its own, one after the other.
func (p *Pool) giveUp(since time.Time) {
	last := p.reset.Load()
	if since.UnixMilli() >= last && p.reset.CompareAndSwap(last, time.Now().UnixMilli()) {
		p.pool.Reset()
	}
}

// Ping returns an error if the database does not respond.
func (p *Pool) Ping(ctx context.Context) error { return ClassifyPostgres(p.probe.Ping(ctx)) }

// Close closes all connections.
func (p *Pool) Close() {
	p.pool.Close()
	p.probe.Close()
}

func (p *Pool) checkVersion(ctx context.Context, migrations fs.FS) error {
	own, err := readMigrations(migrations)
	if err != nil {
		return err
	}
	applied := map[int64]record{}
	err = p.Do(ctx, func(conn *pgx.Conn) error {
		rows, _ := conn.Query(ctx, appliedVersions)
		var version int64
		var checksum string
		_, err := pgx.ForEachRow(rows, []any{&version, &checksum}, func() error {
			applied[version] = parseRecord(checksum)
			return nil
		})
		return err
	})
	var refused *pgconn.PgError
	if errors.As(err, &refused) && refused.Code == undefinedTable {
		err = nil // an empty database
	}
	if err != nil {
		return fmt.Errorf("query the schema's version: %w", ClassifyPostgres(err))
	}
	if err := compare(own, applied); err != nil {
		return err
	}
	have, want := int64(0), newest(own)
	for version := range applied {
		have = max(have, version)
	}
	if have < want {
		return fmt.Errorf("%w: it is at version %d, and %d is needed", ErrNotMigrated, have, want)
	}
	return nil
}

// appliedVersions selects the schema's history. goose's own query would try to create its table, which the narrow role
// of a service cannot do. The table may not have the column checksum yet.
const appliedVersions = `
	SELECT version_id, coalesce(to_jsonb(history) ->> 'checksum', '')
	FROM goose_db_version AS history WHERE is_applied AND version_id > 0`

// Transaction runs f in a transaction. The server ends it when one of its statements takes longer
// than longest, or when the client stays idle in it.
func Transaction(ctx context.Context, conn *pgx.Conn, longest time.Duration, f func(pgx.Tx) error) error {
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{BeginQuery: fmt.Sprintf(`BEGIN;
		SET LOCAL statement_timeout = %d; SET LOCAL lock_timeout = '%s';
		SET LOCAL idle_in_transaction_session_timeout = '%s'`,
		longest.Milliseconds(), sessionSettings["lock_timeout"], sessionSettings["idle_in_transaction_session_timeout"])})
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }() // after a commit it does nothing
	if err := f(tx); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err // nothing has been sent
	}
	return Unanswered(tx.Commit(ctx))
}

// Confirmed returns write, which may commit, for Do or Once. What it returns fails unless everything that write has
// committed is as durable as the server can make it: with synchronous replication, also on the standby.
//
// A commit that changes nothing waits for nothing. So if write finds a row that another
// transaction has written and that may not be replicated yet, it must run Confirm before it relies
// on the row.
func Confirmed(write func(*pgx.Conn) error) func(*pgx.Conn) error {
	return func(conn *pgx.Conn) error {
		notes := conn.PgConn().CustomData()
		delete(notes, warned)
		err := write(conn)
		if err == nil && notes[warned] != nil {
			return fmt.Errorf("%w (%s)", ErrUnknownOutcome, notes[warned])
		}
		return err
	}
}

// Confirm is an SQL expression that makes the commit of its transaction wait until everything
// visible before is replicated: it writes a later record to the log.
const Confirm = `pg_logical_emit_message(true, 'confirm', '')`

// If the wait for the standby is canceled, the commit succeeds with a warning. None of our
// statements causes any other warning, so each one counts: its text may be translated, and its
// code is the general one.
const warned = "warned"

func noteWarning(conn *pgconn.PgConn, notice *pgconn.Notice) {
	if notice.SeverityUnlocalized == "WARNING" {
		conn.CustomData()[warned] = notice.Message
	}
}

// Unanswered marks the error of a committing statement as ErrUnknownOutcome, unless the server has
// rejected the statement. (pgconn.SafeToRetry does not help: it is true for some commits whose
// connection was cut.)
func Unanswered(err error) error {
	var refused *pgconn.PgError
	switch {
	case err == nil, errors.Is(err, pgx.ErrNoRows), errors.Is(err, pgx.ErrTxCommitRollback):
		return err
	case errors.As(err, &refused) && refused.SeverityUnlocalized == "ERROR": // FATAL may follow a commit
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
}

// ClassifyPostgres marks a pgx error as ErrUnavailable if it is one: no connection, or a server
// that is starting, stopping, overloaded or too slow.
func ClassifyPostgres(err error) error {
	if err == nil || errors.Is(err, ErrUnavailable) {
		return err
	}
	var refused *pgconn.PgError
	if errors.As(err, &refused) {
		switch refused.Code[:2] {
		// Connection, resources, operator, system, read-only after a failover, and conflicts with
		// another transaction.
		case "08", "53", "57", "58", "25", "40":
			return fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		if refused.Code == lockNotAvailable {
			return fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		return err
	}
	var unusable *pgconn.ParseConfigError
	var untrusted *tls.CertificateVerificationError
	if errors.As(err, &unusable) || errors.As(err, &untrusted) || errors.Is(err, ErrNotMigrated) {
		return err // waiting does not help
	}
	// Any other error means that the server did not respond: the connection was refused, cut or
	// timed out. The caller checks whether its own client has gone.
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}
