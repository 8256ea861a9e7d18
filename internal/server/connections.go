package server

import (
	"container/list"
	"context"
	"net"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// connections is a listener that keeps at most max connections open. One more
// waits at the door until another ends, and those behind it in the kernel's
// queue, where they cost the pod nothing. Meanwhile the connection that has been
// waiting longest for its client, idle or slow with its request, is closed once
// its patience is over. So clients that only hold connections keep nobody out,
// and probes get through to a server that is busy.
type connections struct {
	net.Listener
	max    int
	closed prometheus.Counter // before their time
	ended  chan struct{}      // has an element when a connection, or the listener, was closed

	mu       sync.Mutex
	open     int
	waiting  list.List     // of *connection: those whose request no handler works on
	patience time.Duration // with them, while another is at the door
	stopped  bool
}

func newConnections(l net.Listener, most int, closed prometheus.Counter) *connections {
	return &connections{Listener: l, max: most, closed: closed, ended: make(chan struct{}, 1), patience: slotPatience}
}

func (l *connections) Accept() (net.Conn, error) {
	accepted, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if tcp, ok := accepted.(*net.TCPConn); ok {
		// What the kernel keeps counts for the pod, too. An error would be that the
		// connection is gone, which the next read says.
		_ = tcp.SetReadBuffer(socketBuffer)
		_ = tcp.SetWriteBuffer(socketBuffer)
	}
	c := &connection{Conn: accepted, of: l}
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

// admit takes c in, or returns what has to come first: a connection to close, or
// a time to wait, unless another is closed earlier.
func (l *connections) admit(c *connection) (wait time.Duration, slow *connection) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open < l.max || l.stopped {
		if l.open < l.max/2 { // no crowd any more
			l.patience = slotPatience
		}
		l.open++
		c.wait()
		return 0, nil
	}
	oldest := l.waiting.Front()
	if oldest == nil {
		return l.patience, nil
	}
	slow = oldest.Value.(*connection)
	if left := l.patience - time.Since(slow.since); left > 0 {
		return left, nil
	}
	if !slow.served {
		// Whoever does this on purpose comes with many: each leaves the next ones less time.
		l.patience = max(l.patience-l.patience/16, crowdedPatience)
	}
	return 0, slow
}

// Close stops the listener. Who is at the door still comes in.
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

// connection is one of connections'.
type connection struct {
	net.Conn
	of     *connections
	place  *list.Element // in of.waiting, or nil
	since  time.Time     // when it got that
	served bool          // a request of it was
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

type connectionKey struct{}

// withConnection lets a request's context know its connection.
func withConnection(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connectionKey{}, c)
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

// occupy keeps the connection of the request that ctx belongs to from being
// closed for another, until release.
func occupy(ctx context.Context) (release func()) {
	c, ok := ctx.Value(connectionKey{}).(*connection)
	if !ok { // as in a test
		return func() {}
	}
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	c.leave()
	return func() {
		c.of.mu.Lock()
		defer c.of.mu.Unlock()
		if !c.closed {
			c.served = true
			c.wait()
		}
	}
}
