package faults

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// link is a network between two programs: a TCP relay to target. It can stop relaying without
// closing anything, like a network that drops packets. Data from that time arrives when it relays
// again, as with TCP's retransmission.
type link struct {
	listener net.Listener
	target   string
	closed   chan struct{}

	mu      sync.Mutex
	passing [2]chan struct{} // by direction; closed while packets pass
	sign    []byte           // see at
	seen    func() fate
}

// direction is a direction of a link.
type direction int

const (
	there direction = iota // to the target
	back
)

// fate is what happens to a connection.
type fate int

const (
	passes     fate = iota
	lost            // starting with the current data, forever, and without being closed
	lostBehind      // the current data arrives, and nothing after it
)

// newLink returns a link to target until the test ends.
func newLink(t *testing.T, target string) *link {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	l := &link{listener: listener, target: target, closed: make(chan struct{})}
	for d := range l.passing {
		l.passing[d] = make(chan struct{})
		close(l.passing[d])
	}
	var relays sync.WaitGroup
	relays.Go(func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			relays.Go(func() { l.relay(near) })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		close(l.closed)
		relays.Wait()
	})
	return l
}

// address returns the address of the link.
func (l *link) address() string { return l.listener.Addr().String() }

// drop lets no packets through in these directions, until restore.
func (l *link) drop(directions ...direction) (restore func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, d := range directions {
		l.passing[d] = make(chan struct{})
	}
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, d := range directions {
			close(l.passing[d])
		}
	}
}

// at calls seen when sign is next sent to the target, before it is passed on, and treats the
// connection accordingly.
func (l *link) at(sign string, seen func() fate) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sign, l.seen = []byte(sign), seen
}

// fate returns the fate of a connection on which sent is sent to the target.
func (l *link) fate(sent []byte) fate {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sign == nil || !bytes.Contains(sent, l.sign) {
		return passes
	}
	l.sign = nil
	return l.seen()
}

// relay relays a connection to the target, in both directions.
func (l *link) relay(near net.Conn) {
	defer near.Close()
	far, err := net.Dial("tcp", l.target)
	if err != nil {
		return
	}
	defer far.Close()
	gone := make(chan struct{})
	ended := make(chan error, 2)
	pump := func(to, from net.Conn, d direction) error {
		buffer := make([]byte, 32<<10)
		for {
			n, err := from.Read(buffer)
			if !l.pass(d, gone) {
				return net.ErrClosed
			}
			fate := passes
			if d == there {
				fate = l.fate(buffer[:n])
			}
			if fate != passes {
				close(gone)
			}
			if fate != lost {
				if _, err := to.Write(buffer[:n]); err != nil {
					return err
				}
			}
			if errors.Is(err, io.EOF) {
				return to.(*net.TCPConn).CloseWrite()
			}
			if err != nil {
				return err
			}
		}
	}
	go func() { ended <- pump(far, near, there) }()
	go func() { ended <- pump(near, far, back) }()
	for range 2 {
		select {
		case err := <-ended:
			if err != nil {
				return
			}
		case <-l.closed:
			return
		}
	}
}

// pass waits until packets pass in direction d. It returns false if none ever will on this
// connection.
func (l *link) pass(d direction, gone chan struct{}) bool {
	l.mu.Lock()
	passing := l.passing[d]
	l.mu.Unlock()
	select {
	case <-passing:
	case <-gone:
	case <-l.closed:
	}
	select {
	case <-gone:
		<-l.closed // until then the connection stays open
		return false
	case <-l.closed:
		return false
	default:
		return true
	}
}
