package server

import (
	"container/list"
	"context"
	"net"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// connections is a listener that keeps at most max connections open. For one
// more it closes the one that has been waiting longest: idle, or slow with its
// request. So clients that only hold connections keep nobody out, and probes
// get through to a server that is busy.
type connections struct {
	net.Listener
	max    int
	closed prometheus.Counter // before their time

	mu      sync.Mutex
	open    int
	waiting list.List // of *connection: those whose request no handler works on
}

func (l *connections) Accept() (net.Conn, error) {
	for {
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
		surplus := l.add(c)
		if surplus != nil {
			l.closed.Inc()
			surplus.Close()
		}
		if surplus != c {
			return c, nil
		}
	}
}

// add returns the connection to close instead, if there is one too many.
func (l *connections) add(c *connection) (surplus *connection) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open++
	if l.open > l.max {
		surplus = c // if handlers work on all the others
		if oldest := l.waiting.Front(); oldest != nil {
			surplus = oldest.Value.(*connection)
		}
	}
	c.place = l.waiting.PushBack(c)
	return surplus
}

// connection is one of connections'.
type connection struct {
	net.Conn
	of     *connections
	place  *list.Element // in of.waiting, or nil
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
	return c.Conn.Close()
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
			c.place = c.of.waiting.PushBack(c)
		}
	}
}
