package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/internal/porttest"
	"example.com/invoices/internal/requestid"
)

func newServer(logs io.Writer) *Server {
	return New(slog.New(slog.NewTextHandler(logs, nil)), prometheus.NewRegistry(), nil,
		func(context.Context) error { return nil })
}

// serve runs s on a free port until stop is called, which returns the result of Run.
func serve(t *testing.T, s *Server, onDrain func()) (url string, stop func() error) {
	t.Helper()
	address := fmt.Sprint("127.0.0.1:", porttest.Free(t))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx, address, 10*time.Second, onDrain) }()
	require.Eventually(t, func() bool {
		response, err := http.Get("http://" + address + "/livez")
		if err == nil {
			response.Body.Close()
		}
		return err == nil
	}, time.Minute, 10*time.Millisecond)
	stop = sync.OnceValue(func() error { cancel(); return <-ended })
	t.Cleanup(func() { _ = stop() })
	return "http://" + address, stop
}

func TestPortInUseIsNamed(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	err = newServer(io.Discard).Run(t.Context(), taken.Addr().String(), time.Second, func() {})
	assert.ErrorContains(t, err, taken.Addr().String())
	assert.ErrorContains(t, err, "set LISTEN_ADDR to another")
}

func TestStoppingFinishesRequestsInFlight(t *testing.T) {
	s := newServer(io.Discard)
	entered, drained := make(chan struct{}), make(chan struct{})
	s.Router.GET("/slow", func(c *gin.Context) {
		close(entered)
		<-drained // onDrain ends it
		c.String(http.StatusOK, "done")
	})
	url, stop := serve(t, s, func() { close(drained) })
	answered := make(chan string, 1)
	go func() {
		response, err := http.Get(url + "/slow")
		if err != nil {
			answered <- err.Error()
			return
		}
		defer response.Body.Close()
		body, _ := io.ReadAll(response.Body)
		answered <- string(body)
	}()
	<-entered
	require.NoError(t, stop())
	assert.Equal(t, "done", <-answered)
	_, err := net.DialTimeout("tcp", strings.TrimPrefix(url, "http://"), time.Second)
	assert.Error(t, err, "nothing listens any more")
}

// Clients that keep their connections busy while the server stops lose no request.
func TestStoppingLosesNoRequestOfABusyConnection(t *testing.T) {
	s := newServer(io.Discard)
	url, stop := serve(t, s, func() {})
	var lost, sent atomic.Int64
	stopping := make(chan struct{})
	var connecting, clients sync.WaitGroup
	for range 8 {
		connecting.Add(1)
		connected := sync.OnceFunc(connecting.Done)
		clients.Go(func() {
			defer connected()
			client := &http.Client{Transport: &http.Transport{}}
			for previous := time.Now(); ; {
				began := time.Now()
				response, err := client.Get(url + "/livez")
				sent.Add(1)
				if err != nil {
					if time.Since(previous) < drainNotice { // who pauses for longer is not busy, and may be cut off
						t.Log(err)
						lost.Add(1)
					}
					return
				}
				_, _ = io.Copy(io.Discard, response.Body)
				response.Body.Close()
				connected()
				previous = began
				if response.Close { // asked to: a load balancer would use another replica
					<-stopping
					return
				}
			}
		})
	}
	connecting.Wait() // one that the server has not accepted yet would be refused
	require.NoError(t, stop())
	close(stopping)
	clients.Wait()
	assert.Zero(t, lost.Load(), "of %d", sent.Load())
}

// A response that began before the server stops, and ends after drainNotice, has not asked its client to close the
// connection. The client's next request, at once, gets its response.
func TestStoppingKeepsTheConnectionOfALongResponse(t *testing.T) {
	s := newServer(io.Discard)
	entered, wake := make(chan struct{}), make(chan struct{})
	s.Router.GET("/long", func(c *gin.Context) {
		c.Status(http.StatusOK)
		c.Writer.Flush()
		close(entered)
		<-wake
		c.String(http.StatusOK, "done")
	})
	url, stop := serve(t, s, func() {})
	client := &http.Client{Transport: &http.Transport{MaxConnsPerHost: 1}}
	asked := make(chan error, 1)
	go func() {
		response, err := client.Get(url + "/long")
		if err == nil {
			_, err = io.Copy(io.Discard, response.Body)
			response.Body.Close()
		}
		if err == nil {
			time.Sleep(drainNotice / 2) // as long as the entry keeps an idle connection
			response, err = client.Get(url + "/livez")
		}
		if err == nil {
			err = response.Body.Close()
			assert.True(t, response.Close)
		}
		asked <- err
	}()
	<-entered
	stopped := make(chan error, 1)
	go func() { stopped <- stop() }()
	time.Sleep(2 * drainNotice)
	close(wake)
	require.NoError(t, <-asked)
	require.NoError(t, <-stopped)
}

func TestNotReadyWhileStopping(t *testing.T) {
	s := newServer(io.Discard)
	assert.Equal(t, http.StatusOK, get(s, "/readyz").Code)
	s.draining.Store(true)
	answer := get(s, "/readyz")
	assert.Equal(t, http.StatusServiceUnavailable, answer.Code)
	assert.Equal(t, "close", answer.Header().Get("Connection"))
	assert.Equal(t, http.StatusOK, get(s, "/livez").Code)
}

func get(s *Server, path string) *httptest.ResponseRecorder {
	answer := httptest.NewRecorder()
	s.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, path, nil))
	return answer
}

func TestReadinessIsCheckedOncePerSecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		s := New(slog.New(slog.DiscardHandler), prometheus.NewRegistry(), nil,
			func(context.Context) error { asked++; return errors.New("gone") })
		for want := range 3 {
			for range 5 {
				answer := get(s, "/readyz")
				assert.Equal(t, http.StatusServiceUnavailable, answer.Code)
				assert.JSONEq(t, `{"error":"not ready"}`, answer.Body.String())
			}
			assert.Equal(t, want+1, asked)
			time.Sleep(readyEvery)
		}
	})
}

func TestRequestID(t *testing.T) {
	var logs bytes.Buffer
	s := newServer(&logs)
	s.Router.GET("/id", func(c *gin.Context) { c.String(http.StatusOK, requestid.From(c.Request.Context())) })
	for sent, taken := range map[string]bool{
		"abc-123": true, "": false, "forged\" level=ERROR": false, strings.Repeat("x", 65): false,
	} {
		logs.Reset()
		request := httptest.NewRequest(http.MethodGet, "/id", nil)
		request.Header.Set(requestid.Header, sent)
		answer := httptest.NewRecorder()
		s.ServeHTTP(answer, request)
		id := answer.Body.String()
		assert.NotEmpty(t, id)
		assert.Equal(t, taken, id == sent)
		assert.Equal(t, id, answer.Header().Get(requestid.Header))
		assert.Contains(t, logs.String(), "request_id="+id)
	}
}

func TestPanicIs500AndLogged(t *testing.T) {
	var logs bytes.Buffer
	s := newServer(&logs)
	s.Router.GET("/panic", func(*gin.Context) { panic("secret detail") })
	answer := get(s, "/panic")
	assert.Equal(t, http.StatusInternalServerError, answer.Code)
	assert.JSONEq(t, `{"error":"internal error"}`, answer.Body.String())
	assert.Contains(t, logs.String(), "secret detail")
}

func TestFailuresHideTheirCause(t *testing.T) {
	var logs bytes.Buffer
	s := newServer(&logs)
	var err error
	s.Router.GET("/", func(c *gin.Context) { Fail(c, err) })
	for name, test := range map[string]struct {
		err    error
		status int
		body   string
		logged bool
	}{
		"expected": {&Failure{Status: http.StatusConflict, Code: "taken", Text: "it is taken"},
			409, `{"error":"it is taken","code":"taken"}`, false},
		"with a cause": {&Failure{Status: http.StatusServiceUnavailable, Text: "try again", Cause: errors.New("10.0.0.7")},
			503, `{"error":"try again"}`, true},
		"unexpected": {errors.New("10.0.0.7"), 500, `{"error":"internal error"}`, true},
	} {
		t.Run(name, func(t *testing.T) {
			logs.Reset()
			err = fmt.Errorf("wrapped: %w", test.err)
			response := get(s, "/")
			assert.Equal(t, test.status, response.Code)
			assert.JSONEq(t, test.body, response.Body.String())
			assert.Equal(t, test.logged, strings.Contains(logs.String(), "request failed"))
		})
	}
}

func TestMetricsCountByRoute(t *testing.T) {
	s := newServer(io.Discard)
	s.Router.GET("/things/:id", func(c *gin.Context) { c.Status(http.StatusNoContent) })
	get(s, "/things/1")
	get(s, "/things/2")
	assert.Contains(t, get(s, "/metrics").Body.String(),
		`http_request_duration_seconds_count{method="GET",route="/things/:id",status="204"} 2`)
}
