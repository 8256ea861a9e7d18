package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/gin-gonic/gin"

	"example.com/invoices/internal/requestid"
)

// exchange is one request and its response, and the handler's ResponseWriter. It stands between
// the handler and the connection, so that the client gets a response in time even if the handler
// does not return.
type exchange struct {
	server     *Server
	start      time.Time
	id         string
	client     *http.Request // as received; its context ends when the client has gone
	connection *http.ResponseController
	header     http.Header // the handler's: it may still write to it after the deadline
	body       io.Reader   // what the client sends
	bulk       bool        // it is large, and has no slot yet
	timer      *time.Timer
	slots      []Slots // occupied by the handler

	mu      sync.Mutex
	w       http.ResponseWriter
	route   string
	status  int // 0: nothing was sent
	bytes   int
	over    bool  // what the handler writes is no longer sent
	cut     bool  // the response ends early
	unheard bool  // the client had gone before the response began
	failed  error // of a write
}

type exchangeKey struct{}

func exchangeOf(c *gin.Context) *exchange {
	return c.Request.Context().Value(exchangeKey{}).(*exchange)
}

// ServeHTTP handles a request. A HEAD is handled as a GET whose body is not sent.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := &exchange{
		server: s, start: time.Now(), id: requestid.Accept(r.Header.Get(requestid.Header)), client: r,
		connection: http.NewResponseController(w), w: w, header: http.Header{}, body: http.NoBody,
		timer: time.NewTimer(AnswerTimeout),
	}
	defer x.timer.Stop()
	x.header.Set(requestid.Header, x.id)
	defer x.observe() // also after a panic
	defer x.finish()

	ctx, cancel := context.WithCancelCause(context.WithValue(requestid.With(r.Context(), x.id), exchangeKey{}, x))
	defer cancel(nil)
	request := r.WithContext(ctx)
	if r.Method == http.MethodHead {
		request.Method = http.MethodGet
	}
	ended := make(chan any, 1)
	go func() {
		defer func() {
			cause := recover()
			for _, slots := range x.slots {
				<-slots
			}
			ended <- cause
		}()
		s.router.ServeHTTP(x, request)
	}()
	select {
	case cause := <-ended:
		if cause != nil {
			x.abort(cause)
		}
	case <-x.timer.C:
		sent := x.giveUp() // first: a handler that fails when its context ends must not begin another response
		cancel(context.DeadlineExceeded)
		if sent {
			x.abort(http.ErrAbortHandler)
		}
	}
}

// occupy marks the connection as one that a handler works for.
func (x *exchange) occupy() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.over { // else the connection may be on its next request
		occupy(x.client.Context())
	}
}

// finish ends the exchange, although its handler may still be running.
func (x *exchange) finish() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.over = true
}

// giveUp responds instead of a handler that has exceeded its time, unless the handler has already
// sent something.
func (x *exchange) giveUp() (sent bool) {
	x.mu.Lock() // a write in progress ends at the connection's own deadline
	defer x.mu.Unlock()
	x.over = true
	if x.status != 0 {
		return true
	}
	x.sendHeader(http.StatusServiceUnavailable, http.Header{ // the handler may still be writing to its own
		requestid.Header: {x.id},
		"Content-Type":   {"application/json; charset=utf-8"},
	})
	x.bytes, x.failed = fmt.Fprintf(x.w,
		`{"error":"no response within %s: it may or may not have been done, and it is safe to try again"}`, AnswerTimeout)
	return false
}

// abort cuts the connection, so that the client does not take a partial response for a complete
// one.
func (x *exchange) abort(cause any) {
	x.mu.Lock()
	x.cut = true
	x.mu.Unlock()
	panic(cause)
}

// allow gives the handler another d, and the connection a little more, so that the client can
// still be told about the timeout. The read deadline matters as well: when it passes, the
// request's context ends.
func (x *exchange) allow(d time.Duration) { x.deadlines(d, d+sendTimeout, d+sendTimeout) }

func (x *exchange) deadlines(handler, read, write time.Duration) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.over {
		return // the connection may be on its next request
	}
	now := time.Now()
	x.timer.Reset(handler)
	// These fail only if the writer is not a connection's, as in a test.
	_ = x.connection.SetReadDeadline(now.Add(read))
	_ = x.connection.SetWriteDeadline(now.Add(write))
}

// ExtendDeadlines gives the handler another d, from now, for its response. A handler that streams
// calls it for each part.
func ExtendDeadlines(c *gin.Context, d time.Duration) { exchangeOf(c).allow(d) }

// Header returns the response header, for the handler.
func (x *exchange) Header() http.Header { return x.header }

// WriteHeader sends the header.
func (x *exchange) WriteHeader(status int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.over && x.status == 0 {
		x.sendHeader(status, x.header)
	}
}

func (x *exchange) sendHeader(status int, header http.Header) {
	x.status = status
	occupy(x.client.Context())
	x.unheard = x.client.Context().Err() != nil
	connection := x.client.Context()
	if x.server.draining.Load() || crowded(connection) || old(connection) { // the client must not reuse it
		header.Set("Connection", "close")
	}
	switch status {
	case http.StatusServiceUnavailable:
		header.Set("Retry-After", "1")
	case http.StatusRequestTimeout, http.StatusRequestEntityTooLarge: // the rest of the body is not read
		header.Set("Connection", "close")
	}
	maps.Copy(x.w.Header(), header)
	x.w.WriteHeader(status)
}

// headEnough is how many bytes a handler must write in response to a HEAD: net/http computes the
// Content-Length of a short body. A long list need not be read for its header.
const headEnough = 4 << 10

// Write sends a part of the body.
func (x *exchange) Write(part []byte) (int, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.over {
		return 0, http.ErrHandlerTimeout
	}
	if x.status == 0 {
		x.sendHeader(http.StatusOK, x.header)
	}
	if x.client.Method == http.MethodHead && x.bytes > headEnough {
		return 0, http.ErrBodyNotAllowed
	}
	n, err := x.w.Write(part)
	x.bytes += n
	if err != nil {
		x.failed = err
	}
	return n, err
}

// Flush sends what is buffered.
func (x *exchange) Flush() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.over {
		return
	}
	if x.status == 0 {
		x.sendHeader(http.StatusOK, x.header)
	}
	if err := x.connection.Flush(); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		x.failed = err
	}
}

// statusGone is recorded for a request whose client had gone before the response; the number is
// nginx's.
const statusGone = 499

// end returns the status with which the exchange ended, and whether the response was cut.
func (x *exchange) end() (status int, cut bool) {
	left := x.client.Context().Err() != nil
	switch {
	case errors.Is(x.failed, os.ErrDeadlineExceeded):
		return x.status, true // the client is there, but does not read
	case x.failed != nil, left && (x.cut || x.unheard || x.status == 0):
		return statusGone, false
	}
	return x.status, x.cut
}
