package load

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// under puts a handler under load.
func under(t *testing.T, ctx context.Context, rate int, during time.Duration, handler http.HandlerFunc) (
	report string, err error,
) {
	t.Helper()
	server := httptest.NewServer(handler)
	defer server.Close()
	var out bytes.Buffer
	err = Load{URL: server.URL + "/invoices", Rate: rate, For: during, Out: &out}.Run(ctx)
	return out.String(), err
}

func TestEveryRequestIsAnswered(t *testing.T) {
	var asked atomic.Int64
	report, err := under(t, t.Context(), 200, 500*time.Millisecond, func(_ http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		assert.Equal(t, "GET /invoices", r.Method+" "+r.URL.Path)
	})
	require.NoError(t, err)
	assert.EqualValues(t, 100, asked.Load())
	assert.Contains(t, report, "/invoices, 200/s for 500ms\n")
	assert.Contains(t, report, "100 requests in ")
	assert.Contains(t, report, "     100 × 200 OK\n")
	assert.Regexp(t, `latency: p50 [\d.]+ ms, p95 [\d.]+ ms, p99 [\d.]+ ms, max [\d.]+ ms\n$`, report)
}

// All requests are sent while none of them is answered: a slow response delays no other request.
func TestAStallIsNotHidden(t *testing.T) {
	const requests = 40
	var asked atomic.Int64
	all := make(chan struct{})
	_, err := under(t, t.Context(), 200, 200*time.Millisecond, func(_ http.ResponseWriter, r *http.Request) {
		if asked.Add(1) == requests {
			close(all)
		}
		select {
		case <-all:
		case <-r.Context().Done():
		}
	})
	require.NoError(t, err)
}

func TestFailuresAreCounted(t *testing.T) {
	var asked atomic.Int64
	report, err := under(t, t.Context(), 200, 100*time.Millisecond, func(w http.ResponseWriter, _ *http.Request) {
		switch asked.Add(1) {
		case 1: // on a new connection, where the client does not send it again
			panic(http.ErrAbortHandler)
		case 2:
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	assert.EqualError(t, err, "2 of 20 requests failed")
	assert.Contains(t, report, "      18 × 200 OK\n")
	assert.Contains(t, report, "       1 × 503 Service Unavailable\n")
	assert.Contains(t, report, "EOF\n")
}

func TestItCanBeStopped(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	report, err := under(t, ctx, 100, time.Hour, func(http.ResponseWriter, *http.Request) { cancel() })
	require.NoError(t, err)
	assert.Contains(t, report, "latency: p50 ")
}
