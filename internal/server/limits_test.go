package server

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/internal/requestid"
)

// do sends a request like Contract, and also returns what ServeHTTP panicked with.
func do(s *Server, request *http.Request) (answer *httptest.ResponseRecorder, panicked any) {
	answer = httptest.NewRecorder()
	defer func() { panicked = recover() }()
	s.ServeHTTP(answer, request)
	return answer, nil
}

// scrape returns the line of a metric that counts requests of a route.
func scrape(t *testing.T, s *Server, route string) []string {
	t.Helper()
	var lines []string
	for line := range strings.Lines(get(s, "/metrics").Body.String()) {
		if strings.HasPrefix(line, "http_request_duration_seconds_count") && strings.Contains(line, `route="`+route+`"`) {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

func TestHandlerThatDoesNotReturn(t *testing.T) {
	for name, begin := range map[string]func(*gin.Context){
		"and has said nothing": func(*gin.Context) {},
		"and has set a header": func(c *gin.Context) { c.Header("Location", "/"); c.Status(http.StatusCreated) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var logs strings.Builder
				s := newServer(&logs)
				wake, done := make(chan struct{}), make(chan error, 1)
				s.Router.GET("/stuck", func(c *gin.Context) {
					begin(c)
					<-wake
					c.Header("Late", "yes")
					_, err := c.Writer.WriteString("too late")
					c.Writer.Flush()
					ExtendDeadlines(c, time.Hour)
					done <- err
				})
				start := time.Now()
				answer, panicked := do(s, httptest.NewRequest(http.MethodGet, "/stuck", nil))
				assert.Nil(t, panicked)
				assert.Equal(t, AnswerTimeout, time.Since(start))
				assert.Equal(t, http.StatusServiceUnavailable, answer.Code)
				assert.Equal(t, "1", answer.Header().Get("Retry-After"))
				assert.NotEmpty(t, answer.Header().Get(requestid.Header))
				assert.Contains(t, answer.Body.String(), "no response within "+AnswerTimeout.String())
				assert.Contains(t, logs.String(), "status=503")
				assert.Equal(t, []string{`http_request_duration_seconds_count{method="GET",route="/stuck",status="503"} 1`},
					scrape(t, s, "/stuck"))
				close(wake)
				assert.ErrorIs(t, <-done, http.ErrHandlerTimeout)
				assert.NotContains(t, answer.Body.String(), "too late")
				assert.Empty(t, answer.Header().Get("Location")+answer.Header().Get("Late"))
			})
		})
	}
}

// A handler that notices the deadline and fails at once does not respond before the server does.
func TestHandlerThatNoticesTheDeadline(t *testing.T) {
	s := newServer(io.Discard)
	s.Router.GET("/slow", func(c *gin.Context) {
		time.Sleep(AnswerTimeout)
		for c.Request.Context().Err() == nil { // to notice at once
			runtime.Gosched()
		}
		c.Status(http.StatusServiceUnavailable)
		c.Writer.WriteHeaderNow()
	})
	for range 300 {
		synctest.Test(t, func(t *testing.T) {
			x, panicked := do(s, httptest.NewRequest(http.MethodGet, "/slow", nil))
			require.Nil(t, panicked)
			require.Contains(t, x.Body.String(), "no response within "+AnswerTimeout.String())
		})
	}
}

func TestContextEndsWithTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(io.Discard)
		cause := make(chan error, 1)
		s.Router.GET("/slow", func(c *gin.Context) {
			ExtendDeadlines(c, time.Minute)
			<-c.Request.Context().Done()
			cause <- context.Cause(c.Request.Context())
		})
		start := time.Now()
		_, _ = do(s, httptest.NewRequest(http.MethodGet, "/slow", nil))
		assert.Equal(t, time.Minute, time.Since(start), "extended")
		assert.ErrorIs(t, <-cause, context.DeadlineExceeded)
	})
}

// The connection deadlines that net/http sets do not end a request that has more time.
func TestRequestOutlivesTheConnectionsDeadlines(t *testing.T) {
	for _, body := range []string{"", "{}"} {
		synctest.Test(t, func(t *testing.T) {
			s := newServer(io.Discard)
			s.Router.POST("/long", func(c *gin.Context) {
				select {
				case <-c.Request.Context().Done():
					c.String(http.StatusInternalServerError, "cut off")
				case <-time.After(AnswerTimeout - time.Second):
					c.String(http.StatusOK, "done")
				}
			})
			client := pipe(t, s)
			defer client.Close()
			_, err := fmt.Fprintf(client, "POST /long HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"+
				"Connection: close\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
			require.NoError(t, err)
			answer, err := http.ReadResponse(bufio.NewReader(client), nil)
			require.NoError(t, err)
			text, err := io.ReadAll(answer.Body)
			require.NoError(t, err)
			assert.Equal(t, "done", string(text))
		})
	}
}

// Every way in which a request can end is counted and logged once.
func TestEveryOutcomeIsCountedAndLogged(t *testing.T) {
	for name, test := range map[string]struct {
		handler gin.HandlerFunc
		leave   bool // the client does, while the handler works
		status  string
		logged  string
	}{
		"answered": {func(c *gin.Context) { c.String(http.StatusOK, "ok") }, false, "200", "status=200"},
		"panic":    {func(*gin.Context) { panic("secret") }, false, "500", "status=500"},
		"panic in mid-answer": {func(c *gin.Context) { c.String(http.StatusOK, "half"); panic("secret") },
			false, "aborted", "aborted=true"},
		"cut": {func(c *gin.Context) { c.String(http.StatusOK, "half"); panic(http.ErrAbortHandler) },
			false, "aborted", "aborted=true"},
		"cut before anything": {func(*gin.Context) { panic(http.ErrAbortHandler) }, false, "aborted", "aborted=true"},
		"stuck in mid-answer": {func(c *gin.Context) { c.String(http.StatusOK, "half"); <-c.Request.Context().Done() },
			false, "aborted", "aborted=true"},
		"client gone": {func(c *gin.Context) { <-c.Request.Context().Done(); c.String(http.StatusOK, "ok") },
			true, "499", "status=499"},
		"gone, and cut": {func(c *gin.Context) { <-c.Request.Context().Done(); panic(http.ErrAbortHandler) },
			true, "499", "status=499"},
		"gone, in mid-answer": {func(c *gin.Context) {
			c.String(http.StatusOK, "half")
			<-c.Request.Context().Done()
			panic(http.ErrAbortHandler)
		}, true, "499", "status=499"},
		"gone after the answer": {func(c *gin.Context) { c.String(http.StatusOK, "all"); <-c.Request.Context().Done() },
			true, "200", "status=200"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var logs strings.Builder
				s := newServer(&logs)
				s.Router.GET("/things/:id", test.handler)
				ctx, leave := context.WithCancel(t.Context())
				defer leave()
				if test.leave {
					time.AfterFunc(time.Second, leave)
				}
				request := httptest.NewRequestWithContext(ctx, http.MethodGet, "/things/1", nil)
				request.Header.Set(requestid.Header, "abc")
				_, _ = do(s, request)
				assert.Equal(t,
					[]string{`http_request_duration_seconds_count{method="GET",route="/things/:id",status="` + test.status + `"} 1`},
					scrape(t, s, "/things/:id"))
				var access []string
				for line := range strings.Lines(logs.String()) {
					if strings.Contains(line, "msg=request ") {
						access = append(access, line)
					}
				}
				require.Len(t, access, 1)
				assert.Contains(t, access[0], test.logged)
				assert.Contains(t, access[0], "request_id=abc")
			})
		})
	}
	s := newServer(io.Discard)
	s.Router.GET("/only-get", func(c *gin.Context) {})
	get(s, "/nowhere")
	_, _ = do(s, httptest.NewRequest(http.MethodPost, "/only-get", nil))
	assert.Equal(t, []string{
		`http_request_duration_seconds_count{method="GET",route="",status="404"} 1`,
		`http_request_duration_seconds_count{method="POST",route="",status="405"} 1`,
	}, scrape(t, s, ""))
}

// A client that does not read its response is cut off at the write deadline.
func TestClientThatDoesNotRead(t *testing.T) {
	s := newServer(io.Discard)
	ended := make(chan error, 1)
	s.Router.GET("/endless", func(c *gin.Context) {
		c.Writer.WriteHeaderNow() // or it would be a 503, since the time for a response is over at once
		ExtendDeadlines(c, 100*time.Millisecond-sendTimeout)
		for {
			if _, err := c.Writer.Write(make([]byte, 1<<16)); err != nil {
				ended <- err
				return
			}
		}
	})
	url, _ := serve(t, s, func() {})
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	require.NoError(t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, "GET /endless HTTP/1.1\r\nHost: localhost\r\n\r\n")
	require.NoError(t, err)
	select {
	case err := <-ended:
		require.Error(t, err)
	case <-time.After(time.Minute):
		require.FailNow(t, "it waits for ever")
	}
	require.Eventually(t, func() bool {
		return len(scrape(t, s, "/endless")) > 0
	}, time.Minute, 10*time.Millisecond)
	assert.Contains(t, scrape(t, s, "/endless")[0], `status="aborted"`)
}

func TestSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(io.Discard)
		wake := make(chan struct{})
		s.Router.GET("/two", AtMost(2), func(*gin.Context) { <-wake })
		for range 2 {
			go func() { _, _ = do(s, httptest.NewRequest(http.MethodGet, "/two", nil)) }()
		}
		synctest.Wait()
		start := time.Now()
		answer := get(s, "/two")
		assert.Equal(t, slotPatience, time.Since(start), "it waits a moment")
		assert.Equal(t, http.StatusServiceUnavailable, answer.Code)
		assert.Equal(t, "1", answer.Header().Get("Retry-After"))
		assert.JSONEq(t, `{"error":"too many requests at once, try again"}`, answer.Body.String())

		time.Sleep(AnswerTimeout) // both clients have got their 503
		assert.Equal(t, http.StatusServiceUnavailable, get(s, "/two").Code, "but the handlers still take what they take")
		close(wake)
		synctest.Wait()
		assert.Equal(t, http.StatusOK, get(s, "/two").Code)
	})
}

// However many requests hang, probes get a response, and all other requests a 503.
func TestFullServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(io.Discard)
		wake := make(chan struct{})
		s.Router.GET("/stuck", func(*gin.Context) { <-wake })
		for range 2 * maxRequests {
			go func() { _, _ = do(s, httptest.NewRequest(http.MethodGet, "/stuck", nil)) }()
		}
		synctest.Wait()
		assert.Equal(t, http.StatusServiceUnavailable, get(s, "/openapi.yaml").Code)
		for _, probe := range []string{"/livez", "/readyz"} {
			assert.Equal(t, http.StatusOK, get(s, probe).Code)
		}
		close(wake)
	})
}

func TestHangingCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wake := make(chan struct{})
		s := New(slog.New(slog.DiscardHandler), prometheus.NewRegistry(), nil,
			func(context.Context) error { <-wake; return nil })
		start := time.Now()
		assert.Equal(t, http.StatusServiceUnavailable, get(s, "/readyz").Code)
		assert.Equal(t, readyTimeout, time.Since(start))
		for range 10 { // nobody waits for a check that already hangs
			assert.Equal(t, http.StatusServiceUnavailable, get(s, "/readyz").Code)
		}
		assert.Equal(t, readyTimeout, time.Since(start))
		close(wake)
		synctest.Wait()
		assert.Equal(t, http.StatusOK, get(s, "/readyz").Code)
	})
}

func TestBodies(t *testing.T) {
	s := newServer(io.Discard)
	var got []byte
	read := func(c *gin.Context) {
		body, err := ReadBody(c)
		if err != nil {
			Fail(c, err)
			return
		}
		got = body
	}
	s.Router.POST("/small", read)
	s.AcceptBody(http.MethodPost, "/large", 3<<20, "application/json", "text/csv")
	s.Router.POST("/large", read)
	s.Router.POST("/ignores", func(*gin.Context) {})
	for name, test := range map[string]struct {
		path, contentType, body string
		want                    int
	}{
		"small":                      {"/small", "application/json", `{}`, 200},
		"small, at its limit":        {"/small", "application/json", strings.Repeat(" ", smallBody), 200},
		"small, over it":             {"/small", "application/json", strings.Repeat(" ", smallBody+1), 413},
		"empty":                      {"/small", "", "", 400},
		"large, small":               {"/large", "application/json", `{}`, 200},
		"large":                      {"/large", "application/json", strings.Repeat(" ", smallBody+1), 200},
		"large, at the limit":        {"/large", "application/json", strings.Repeat(" ", maxBody), 200},
		"large, over what is read":   {"/large", "application/json", strings.Repeat(" ", maxBody+1), 413},
		"large, over the limit":      {"/large", "application/json", strings.Repeat(" ", 4<<20), 413},
		"with a charset":             {"/small", "application/json; charset=utf-8", `{}`, 200},
		"in capitals":                {"/small", "Application/JSON", `{}`, 200},
		"another type":               {"/large", "text/csv", `a,b`, 200},
		"another's type":             {"/small", "text/csv", `a,b`, 415},
		"no type":                    {"/small", "", `{}`, 415},
		"a form":                     {"/small", "application/x-www-form-urlencoded", `a=b`, 415},
		"a form, not even read":      {"/ignores", "application/x-www-form-urlencoded", `a=b`, 415},
		"a simple request's type":    {"/small", "text/plain", `{}`, 415},
		"two types":                  {"/small", "text/plain, application/json", `{}`, 415},
		"nonsense":                   {"/small", ";;", `{}`, 415},
		"nothing, of whatever type":  {"/ignores", "application/x-www-form-urlencoded", ``, 200},
		"too much, and not read":     {"/ignores", "application/json", strings.Repeat(" ", smallBody+1), 413},
		"something that is not read": {"/ignores", "application/json", `{}`, 200},
	} {
		for _, chunked := range []bool{false, true} {
			t.Run(fmt.Sprint(name, " chunked=", chunked), func(t *testing.T) {
				got = nil
				request := httptest.NewRequest(http.MethodPost, test.path, strings.NewReader(test.body))
				request.Header.Set("Content-Type", test.contentType)
				if chunked {
					request.ContentLength = -1
				}
				answer, _ := do(s, request)
				assert.Equal(t, test.want, answer.Code, answer.Body)
				if test.want == 200 && test.path != "/ignores" {
					assert.Equal(t, test.body, string(got))
				}
			})
		}
	}
}

// A body that arrives at the minimum rate is read to its end; one that stops is answered with 408.
func TestBodyRate(t *testing.T) {
	for name, test := range map[string]struct {
		size  int
		pause time.Duration // between parts of 32 KiB
		want  int
		most  time.Duration // of the client's
	}{
		"at once":           {maxBody, 0, 200, 0},
		"at the least rate": {maxBody, 500 * time.Millisecond, 200, 20 * time.Second},
		"too slowly":        {maxBody, 2 * time.Second, 408, 15 * time.Second},
		"small, too slowly": {smallBody, time.Minute, 408, 12 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newServer(io.Discard)
				s.AcceptBody(http.MethodPost, "/", maxBody, "application/json")
				s.Router.POST("/", func(c *gin.Context) {
					if _, err := ReadBody(c); err != nil {
						Fail(c, err)
					}
				})
				client := pipe(t, s)
				start := time.Now()
				go func() {
					fmt.Fprintf(client,
						"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", test.size)
					for sent := 0; sent < test.size; sent += 32 << 10 {
						time.Sleep(test.pause)
						if _, err := client.Write(make([]byte, min(32<<10, test.size-sent))); err != nil {
							return
						}
					}
				}()
				answer, err := http.ReadResponse(bufio.NewReader(client), nil)
				require.NoError(t, err)
				assert.Equal(t, test.want, answer.StatusCode)
				assert.LessOrEqual(t, time.Since(start), test.most)
				require.NoError(t, client.Close())
				time.Sleep(time.Hour) // everything it has started ends
			})
		})
	}
}

// pipe serves s to one client in memory, with short deadlines for its connection.
func pipe(t *testing.T, s *Server) net.Conn {
	t.Helper()
	client, conn := net.Pipe()
	listener := make(piped, 1)
	listener <- conn
	close(listener)
	site := &http.Server{
		Handler: s, ReadTimeout: time.Second, ReadHeaderTimeout: time.Second, WriteTimeout: time.Second,
	}
	go func() { _ = site.Serve(listener) }()
	return client
}

// piped is a listener for the connections in it.
type piped chan net.Conn

func (l piped) Accept() (net.Conn, error) {
	if conn, open := <-l; open {
		return conn, nil
	}
	return nil, net.ErrClosed
}
func (l piped) Close() error   { return nil }
func (l piped) Addr() net.Addr { return &net.TCPAddr{} }

// Large bodies have few slots, and a slow one does not block small ones.
func TestLargeBodiesWaitForEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(io.Discard)
		s.AcceptBody(http.MethodPost, "/", maxBody, "application/json")
		wake := make(chan struct{})
		s.Router.POST("/", func(c *gin.Context) {
			body, err := ReadBody(c)
			if err != nil {
				Fail(c, err)
			} else if len(body) > smallBody {
				<-wake
			}
		})
		post := func(size int) int {
			request := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(strings.Repeat(" ", size)))
			request.Header.Set("Content-Type", "application/json")
			answer, _ := do(s, request)
			return answer.Code
		}
		for range maxBulk {
			go post(maxBody)
		}
		synctest.Wait()
		assert.Equal(t, http.StatusServiceUnavailable, post(smallBody+1))
		assert.Equal(t, http.StatusOK, post(smallBody))
		close(wake)
		synctest.Wait()
		assert.Equal(t, http.StatusOK, post(maxBody))
	})
}

// The server notices that a client has left, whether its request had a body or not, and whether or
// not the handler has read it.
func TestClientThatLeavesIsDetected(t *testing.T) {
	s := newServer(io.Discard)
	entered, left := make(chan struct{}), make(chan struct{})
	s.Router.POST("/long", func(c *gin.Context) {
		entered <- struct{}{}
		<-c.Request.Context().Done()
		left <- struct{}{}
	})
	url, _ := serve(t, s, func() {})
	for _, body := range []string{
		"", "Content-Length: 2\r\n\r\n{}", "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n",
	} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
		require.NoError(t, err)
		_, err = io.WriteString(conn,
			"POST /long HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"+body+"\r\n")
		require.NoError(t, err)
		<-entered
		require.NoError(t, conn.Close())
		select {
		case <-left:
		case <-time.After(time.Minute):
			require.FailNow(t, "not noticed", "%q", body)
		}
	}
	require.Eventually(t, func() bool {
		lines := scrape(t, s, "/long")
		return len(lines) == 1 && strings.HasSuffix(lines[0], `status="499"} 3`)
	}, time.Minute, 10*time.Millisecond)
}

func TestConnectionsMakeRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		listener := make(piped, 10)
		defer close(listener)
		closed := prometheus.NewCounter(prometheus.CounterOpts{Name: "closed"})
		limited := newConnections(listener, 3, closed)
		defer limited.Close()
		s := newServer(io.Discard)
		asleep := make(chan struct{})
		wake := sync.OnceFunc(func() { close(asleep) })
		defer wake()
		s.Router.GET("/slow", func(*gin.Context) { <-asleep })
		go func() { _ = limited.serve(&http.Server{Handler: s}, nil) }()
		dial := func(send string) net.Conn {
			client, conn := net.Pipe()
			t.Cleanup(func() { client.Close() })
			listener <- conn
			go func() { _, _ = io.WriteString(client, send) }()
			synctest.Wait()
			require.NoError(t, client.SetReadDeadline(time.Now().Add(time.Minute)))
			return client
		}
		requireClosed := func(conn net.Conn) {
			t.Helper()
			_, err := conn.Read(make([]byte, 1))
			require.ErrorIs(t, err, io.EOF)
		}
		const slow, live = "GET /slow HTTP/1.1\r\nHost: a\r\n\r\n", "GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"
		answers := func(conn net.Conn) *http.Response {
			t.Helper()
			answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
			require.NoError(t, err)
			synctest.Wait()
			return answer
		}

		working := dial(slow)
		idle := dial(live)
		answer := answers(idle)
		assert.Equal(t, http.StatusOK, answer.StatusCode)
		assert.False(t, answer.Close)
		halfway := dial("GET /livez HTTP/1.1\r\nHost")
		answer = answers(dial(live))
		assert.Equal(t, http.StatusOK, answer.StatusCode, "a fourth")
		assert.True(t, answer.Close, "it makes room")
		requireClosed(idle) // it waited longest
		assert.Equal(t, http.StatusOK, answers(dial(live)).StatusCode, "a fifth")
		silent := dial("")
		assert.Equal(t, http.StatusOK, answers(dial(live)).StatusCode, "a seventh")
		requireClosed(halfway)

		// With all of them at work, one more waits, and none of them suffers.
		more := []net.Conn{dial(slow), dial(slow)}
		requireClosed(silent)
		door := dial(live)
		wake()
		for _, conn := range append(more, working, door) {
			assert.Equal(t, http.StatusOK, answers(conn).StatusCode)
		}
	})
}

// A request that has arrived waits for the server, so it is not the client that is slow.
func TestStarvedServerClosesNoRequest(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	closed := prometheus.NewCounter(prometheus.CounterOpts{Name: "closed"})
	limited := newConnections(listener, 1, closed)
	limited.patience = time.Millisecond
	client, err := net.Dial("tcp", listener.Addr().String())
	require.NoError(t, err)
	defer client.Close()
	accepted, err := limited.Accept()
	require.NoError(t, err)
	_, err = io.WriteString(client, "GET")
	require.NoError(t, err)

	other, err := net.Dial("tcp", listener.Addr().String())
	require.NoError(t, err)
	defer other.Close()
	admitted := make(chan error, 1)
	go func() {
		_, err := limited.Accept()
		admitted <- err
	}()
	select {
	case <-admitted:
		assert.Fail(t, "the next connection took the place of one that waits for the server")
	case <-time.After(50 * limited.patience):
	}
	_, err = io.ReadAll(accepted)
	assert.ErrorIs(t, err, net.ErrClosed, "the server waits for its client now")
	require.NoError(t, <-admitted)
}

// Connections that wait for room when a server stops get a response, too.
func TestWaitingConnectionsOfAStoppingServer(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	accepted := make(chan struct{}, 2)
	limited := newConnections(announcing{listener, accepted}, 1, nil)
	s := newServer(io.Discard)
	entered, wake := make(chan struct{}), make(chan struct{})
	s.Router.GET("/slow", func(*gin.Context) { entered <- struct{}{}; <-wake })
	site := &http.Server{Handler: s}
	served := make(chan error, 1)
	go func() { served <- limited.serve(site, nil) }()
	defer site.Close()
	ask := func(path string) <-chan int {
		status := make(chan int, 1)
		go func() {
			response, err := http.Get("http://" + listener.Addr().String() + path)
			if assert.NoError(t, err) {
				response.Body.Close()
				status <- response.StatusCode
			}
		}()
		<-accepted
		return status
	}
	slow := ask("/slow")
	<-entered
	door := ask("/livez")
	require.NoError(t, limited.Close())
	assert.Equal(t, http.StatusOK, <-door)
	close(wake)
	assert.Equal(t, http.StatusOK, <-slow)
	assert.ErrorIs(t, <-served, net.ErrClosed)
}

// announcing says when it has accepted a connection.
type announcing struct {
	net.Listener
	accepted chan<- struct{}
}

func (l announcing) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil {
		l.accepted <- struct{}{}
	}
	return conn, err
}
