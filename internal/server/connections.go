package server

import (
	"container/list"
	"context"
	"crypto/tls"
	"fmt"
	"math"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"example.com/invoices/internal/identity"
)

// connections is a listener that keeps at most max connections open. The next one waits in Accept
// until another ends, and those behind it wait in the kernel's queue, where they cost the pod
// nothing. Meanwhile the connection that has waited longest for its client, because it is idle or
// its client is slow to send a request, is closed once the listener's patience is over. So clients
// that only hold connections keep nobody out, and probes reach a busy server. A connection that
// waits for the server is never closed: on a starved machine that can take longer than any
// patience.
type connections struct {
	net.Listener
	max    int
	maxAge time.Duration      // of a connection that gets another request
	closed prometheus.Counter // early, to make room
	ended  chan struct{}      // receives when a connection or the listener is closed

	mu       sync.Mutex
	open     int
	waiting  list.List     // of *connection: those between a response and the next request
	patience time.Duration // with them, while another connection waits in Accept
	stopped  bool
}

func newConnections(l net.Listener, most int, closed prometheus.Counter) *connections {
	return &connections{Listener: l, max: most, maxAge: maxAge, closed: closed, ended: make(chan struct{}, 1),
		patience: clientPatience}
}

func (l *connections) Accept() (net.Conn, error) {
	accepted, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if tcp, ok := accepted.(*net.TCPConn); ok {
		// The kernel's buffers count towards the pod's memory. An error means that the connection is
		// gone, which the next read reports.
		_ = tcp.SetReadBuffer(socketBuffer)
		_ = tcp.SetWriteBuffer(socketBuffer)
	}
	c := &connection{Conn: accepted, of: l, opened: time.Now()}
	c.unproven.Store(maxHandshake)
	for {
		wait, slow := l.admit(c)
		switch {
		case slow != nil:
			l.closed.Inc()
			slow.Close()
		case wait > 0:
			select {
			case <-l.ended:
			case <-time.After(wait):
			}
		default:
			return c, nil
		}
	}
}

// admit lets c in, or returns what must happen first: a connection to close, or a time to wait
// unless another connection is closed earlier.
func (l *connections) admit(c *connection) (wait time.Duration, slow *connection) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open < l.max || l.stopped {
		if l.open < l.max/2 { // no longer crowded
			l.patience = clientPatience
		}
		l.open++
		c.wait()
		return 0, nil
	}
	for {
		oldest := l.waiting.Front()
		if oldest == nil {
			return l.patience, nil
		}
		slow = oldest.Value.(*connection)
		if left := l.patience - time.Since(slow.since); left > 0 {
			return left, nil
		}
		if slow.waitsForClient() {
			break
		}
		slow.leave()
		slow.wait()
	}
	if !slow.served {
		// Clients that do this on purpose come in large numbers: each one leaves less time to the
		// next.
		l.patience = max(l.patience-l.patience/16, CrowdedPatience)
	}
	return 0, slow
}

// quiet reports whether every connection has waited for its client for as long as notice.
func (l *connections) quiet(notice time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waiting.Len() < l.open {
		return false
	}
	newest := l.waiting.Back()
	return newest == nil || time.Since(newest.Value.(*connection).since) >= notice
}

// Close stops the listener. A connection that waits in Accept is still let in.
func (l *connections) Close() error {
	l.mu.Lock()
	l.stopped = true
	l.mu.Unlock()
	l.notify()
	return l.Listener.Close()
}

func (l *connections) notify() {
	select {
	case l.ended <- struct{}{}:
	default:
	}
}

// connection is a connection of the listener connections.
type connection struct {
	net.Conn
	of       *connections
	opened   time.Time
	reading  atomic.Bool  // the server is in Read
	unproven atomic.Int64 // bytes that can arrive before the end of the first header; proven: no limit

	place  *list.Element // in of.waiting, or nil; guarded by of.mu, like the rest
	since  time.Time     // when it got its place
	served bool          // at least one request
	closed bool
}

func (c *connection) Close() error {
	c.of.mu.Lock()
	if !c.closed {
		c.closed = true
		c.of.open--
		c.leave()
	}
	c.of.mu.Unlock()
	err := c.Conn.Close()
	c.of.notify()
	return err
}

func (c *connection) wait() {
	c.place, c.since = c.of.waiting.PushBack(c), time.Now()
}

func (c *connection) leave() {
	if c.place != nil {
		c.of.waiting.Remove(c.place)
		c.place = nil
	}
}

const proven = math.MaxInt64 / 2

var errTooMuch = fmt.Errorf("more than %d bytes before the end of the first header", maxHandshake)

// Read reads what the client sends.
func (c *connection) Read(buffer []byte) (int, error) {
	if c.unproven.Load() <= 0 {
		return 0, errTooMuch
	}
	c.reading.Store(true)
	defer c.reading.Store(false)
	n, err := c.Conn.Read(buffer)
	if c.unproven.Load() < proven {
		c.unproven.Add(int64(-n))
	}
	return n, err
}

// waitsForClient reports whether the server has read all that the client has
// sent, and waits for more.
func (c *connection) waitsForClient() bool {
	if !c.reading.Load() {
		return false
	}
	socket, ok := c.Conn.(syscall.Conn)
	if !ok { // as in a test
		return true
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return true
	}
	arrived := 0 // stays 0 when the client has closed the connection
	_ = raw.Control(func(fd uintptr) {
		arrived, _, _ = unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
	})
	return arrived <= 0
}

type connectionKey struct{}

// serve sets up server to tell the connections which requests they carry, and
// when a response has been sent in full. Unless certificates is nil, it serves TLS.
func (l *connections) serve(server *http.Server, certificates *identity.Certificates) error {
	server.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		return context.WithValue(ctx, connectionKey{}, bare(c))
	}
	server.ConnState = func(c net.Conn, state http.ConnState) {
		switch state {
		case http.StateActive:
			bare(c).unproven.Store(proven)
		case http.StateIdle:
			bare(c).release()
		}
	}
	if certificates == nil {
		return server.Serve(l)
	}
	return server.Serve(tls.NewListener(l, certificates.Server()))
}

// bare returns the connection that c is, or that is below c if that is one of TLS.
func bare(c net.Conn) *connection {
	if secure, ok := c.(*tls.Conn); ok {
		c = secure.NetConn()
	}
	return c.(*connection)
}

// crowded reports whether the server of the request that ctx belongs to has as
// many connections as it may have.
func crowded(ctx context.Context) bool {
	c, ok := ctx.Value(connectionKey{}).(*connection)
	if !ok { // as in a test
		return false
	}
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	return c.of.open >= c.of.max
}

// old reports whether the connection of the request that ctx belongs to should get no more
// requests.
func old(ctx context.Context) bool {
	c, ok := ctx.Value(connectionKey{}).(*connection)
	return ok && time.Since(c.opened) > c.of.maxAge
}

// occupy keeps the connection of the request that ctx belongs to from being
// closed for another until the response has been sent.
func occupy(ctx context.Context) {
	c, ok := ctx.Value(connectionKey{}).(*connection)
	if !ok { // as in a test
		return
	}
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	c.leave()
}

// release is called when the response has been sent: the connection waits for
// its client again.
func (c *connection) release() {
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	if !c.closed {
		c.served = true
		c.leave()
		c.wait()
	}
}
