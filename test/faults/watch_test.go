package faults

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// How a kubelet checks readiness, as in the Deployments in k8s: a replica is out of service after
// this many failures in a row.
const (
	probePeriod   = 2 * time.Second
	probeTimeout  = 3 * time.Second
	probeFailures = 2
)

// watchReadiness checks that r stays in service once it is, unless it is killed, frozen or cut off
// from its database.
func watchReadiness(ctx context.Context, r *replica) {
	inService, failures, away, cutOff := false, 0, 0, 0
	for ; ctx.Err() == nil; sleep(ctx, probePeriod) {
		if !inService {
			failures, away, cutOff = 0, r.away.mark(), r.cutOff.mark()
		}
		probe, cancel := context.WithTimeout(ctx, probeTimeout)
		status, text := call(probe, http.MethodGet, r.url()+"/readyz", "")
		cancel()
		switch {
		case ctx.Err() != nil:
		case r.away.since(away), r.cutOff.since(cutOff):
			inService = false
		case status == http.StatusOK:
			inService, failures = true, 0
		case inService:
			if failures++; failures >= probeFailures {
				r.violate(staysReady, "%d %s", status, text)
				inService = false
			}
		}
	}
}

// How long a session of a service may do what others may have to wait for. internal/database sets
// these limits; see docs/bounds.md.
const (
	longestIdle      = 5 * time.Second // in a transaction
	longestLockWait  = 2 * time.Second
	longestStatement = 10 * time.Second
	// stubborn is how much longer it may take, since the machine may be busy.
	stubborn = 5 * time.Second
)

// stuck is a session that has been in one state for longer than allowed.
type stuck struct {
	PID   int32
	Since time.Time // the beginning of that state
	What  string
}

// watchLocks checks that no session of the services holds or waits for locks for too long.
func (s *storm) watchLocks(ctx context.Context) {
	seen, mark := map[stuck]time.Time{}, s.stopped.mark()
	for ; ctx.Err() == nil; sleep(ctx, 250*time.Millisecond) {
		list, err := query(ctx, s.server.URL(superuser, "postgres"), pgx.RowToStructByPos[stuck], `
			SELECT pid, state_change, 'idle in a transaction' FROM pg_stat_activity
			WHERE datname = ANY ($1) AND usename = 'application' AND state LIKE 'idle in transaction%'
			  AND state_change < clock_timestamp() - $2::interval
			UNION ALL
			SELECT pid, waitstart, 'waiting for a lock' FROM pg_locks JOIN pg_stat_activity USING (pid)
			WHERE datname = ANY ($1) AND usename = 'application'
			  AND NOT granted AND waitstart < clock_timestamp() - $3::interval
			UNION ALL
			SELECT pid, query_start, 'at ' || query FROM pg_stat_activity
			WHERE datname = ANY ($1) AND usename = 'application'
			  AND state = 'active' AND query_start < clock_timestamp() - $4::interval`,
			[]string{s.invoicing, s.paying}, longestIdle, longestLockWait, longestStatement)
		if s.stopped.since(mark) {
			seen, mark = map[stuck]time.Time{}, s.stopped.mark() // while its clock continued unobserved
			continue
		}
		if err != nil {
			if ctx.Err() == nil {
				s.Violate(locksFree, "%v", err)
			}
			continue
		}
		still := map[stuck]time.Time{}
		for _, session := range list {
			first, known := seen[session]
			if !known {
				first = time.Now()
			}
			if time.Since(first) > stubborn {
				s.Violate(locksFree, "process %d of the server is %s since %s", session.PID, session.What, session.Since)
			}
			still[session] = first
		}
		seen = still
	}
}

// holdSnapshot keeps a snapshot of a database open, like somebody who leaves psql open. When the
// server has been restarted, it opens another one.
func (s *storm) holdSnapshot(ctx context.Context, database string) {
	for ; ctx.Err() == nil; sleep(ctx, 100*time.Millisecond) {
		conn, err := pgx.Connect(ctx, s.server.URL(superuser, database))
		if err != nil {
			continue
		}
		if _, err = conn.Exec(ctx, `BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT txid_current_snapshot()`); err == nil {
			s.count(snapshotHeld)
			_, _ = conn.WaitForNotification(ctx) // never arrives, but the connection ends
		}
		_ = conn.Close(context.WithoutCancel(ctx))
	}
}

// clients are misbehaving clients. Each gets a connection to r with a small kernel buffer for the
// response.
var clients = map[string]func(ctx context.Context, r *replica, conn net.Conn){
	"client that does not read": func(ctx context.Context, _ *replica, conn net.Conn) {
		_, _ = io.WriteString(conn, strings.Repeat("GET /invoices HTTP/1.1\r\nHost: localhost\r\n\r\n", 20))
		sleep(ctx, 5*time.Second)
	},
	"client that does not finish sending": func(ctx context.Context, r *replica, conn net.Conn) {
		mark := r.away.mark()
		_, _ = io.WriteString(conn, unfinished)
		_ = conn.SetReadDeadline(time.Now().Add(bodyTimeout + late))
		stop := context.AfterFunc(ctx, func() { conn.Close() })
		defer stop()
		n, err := conn.Read(make([]byte, 1))
		if n == 0 && errors.Is(err, os.ErrDeadlineExceeded) && !r.away.since(mark) {
			r.violate(inTime, "a body that does not arrive is still waited for after %s", bodyTimeout+late)
		}
	},
	"client that leaves, sending": func(_ context.Context, _ *replica, conn net.Conn) {
		_, _ = io.WriteString(conn, unfinished)
	},
	"client that leaves, receiving": func(_ context.Context, _ *replica, conn net.Conn) {
		_, _ = io.WriteString(conn, "GET /invoices HTTP/1.1\r\nHost: localhost\r\n\r\n")
		_, _ = conn.Read(make([]byte, 1))
	},
}

const (
	unfinished = "POST /invoices HTTP/1.1\r\nHost: localhost\r\n" +
		"Content-Type: application/json\r\nContent-Length: 8000\r\n\r\n["
	// bodyTimeout is the time within which a body must arrive; see docs/bounds.md.
	bodyTimeout = 10 * time.Second
)

// misbehave sends requests to random invoice-apps as client does, until ctx is done.
func (s *storm) misbehave(ctx context.Context, kind string, draw *rand.Rand) {
	dialer := net.Dialer{Control: func(_, _ string, socket syscall.RawConn) error {
		return socket.Control(func(fd uintptr) {
			_ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4<<10)
		})
	}}
	for ; ctx.Err() == nil; sleep(ctx, between(draw, 0, 2*time.Second)) {
		app := s.apps[draw.IntN(len(s.apps))]
		conn, err := dialer.DialContext(ctx, "tcp", strings.TrimPrefix(app.url(), "http://"))
		if err != nil {
			continue // it is not running
		}
		clients[kind](ctx, app, conn)
		conn.Close()
		s.count(kind)
	}
}
