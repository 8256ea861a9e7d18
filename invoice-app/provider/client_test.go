package provider

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/internal/money"
	"example.com/invoices/invoice-app/invoice"
)

var i1 = invoice.Invoice{ID: "I1", Amount: money.Amount{Minor: 13107201, Currency: "EUR"}}

func newClient(t *testing.T, handler http.HandlerFunc) *Client {
	t.Helper()
	return newClientWithToken(t, "", handler)
}

func newClientWithToken(t *testing.T, tokenFile string, handler http.HandlerFunc) *Client {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	base, err := url.Parse(server.URL + "/base")
	require.NoError(t, err)
	return New(base, tokenFile, 2, prometheus.NewRegistry())
}

func TestWhatIsSent(t *testing.T) {
	client := newClient(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		assert.NoError(t, err)
		assert.Equal(t, `{"id":"I1","value":131072.01,"currency":"EUR"}`, string(body))
		assert.Equal(t, "/base/payments/pay", r.URL.Path)
		assert.NotContains(t, r.Header, "Authorization", "there is no token")
		_, _ = io.WriteString(w, `{"id":"I1"}`)
	})
	assert.NoError(t, client.Pay(t.Context(), i1))
}

func TestTheTokenIsSentAndRenewed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	var sent string
	client := newClientWithToken(t, file, func(w http.ResponseWriter, r *http.Request) {
		sent = r.Header.Get("Authorization")
		_, _ = io.WriteString(w, `{"id":"I1"}`)
	})
	for _, token := range []string{"first", "second one"} {
		require.NoError(t, os.WriteFile(file, []byte(token+"\n"), 0o600))
		require.NoError(t, client.Pay(t.Context(), i1))
		assert.Equal(t, "Bearer "+token, sent)
	}

	sent = "nothing"
	require.NoError(t, os.Remove(file))
	err := client.Pay(t.Context(), i1)
	require.ErrorIs(t, err, os.ErrNotExist)
	var rejection *invoice.Rejection
	assert.False(t, errors.As(err, &rejection), "it will be tried again")
	assert.Equal(t, "nothing", sent)
}

func TestWhatCountsAsAnAnswer(t *testing.T) {
	const paid, rejected, failed = "paid", "rejected", "failed"
	for name, test := range map[string]struct {
		status  int
		body    string
		outcome string
	}{
		"paid":                         {200, `{"id":"I1"}`, paid},
		"paid, and more":               {200, ` {"x":1,"id":"I1"} `, paid},
		"mismatch":                     {422, `{"error":"other amount","code":"payment_mismatch"}`, rejected},
		"invalid":                      {400, `{"error":"currency","code":"invalid_payment"}`, rejected},
		"a body cut on its way":        {400, `{"error":"not JSON","code":"malformed"}`, failed},
		"another's 400":                {400, `{"error":"bad gateway config"}`, failed},
		"another's 422":                {422, `{"error":"no"}`, failed},
		"a verdict of the wrong kind":  {400, `{"error":"x","code":"payment_mismatch"}`, failed},
		"another id":                   {200, `{"id":"I2"}`, failed},
		"no id":                        {200, `{}`, failed},
		"a number for an id":           {200, `{"id":1}`, failed},
		"empty":                        {200, ``, failed},
		"HTML":                         {200, `<html>Welcome</html>`, failed},
		"JSON cut off":                 {200, `{"id":"I1"`, failed},
		"endless":                      {200, `{"id":"I1"}` + strings.Repeat(" ", maxAnswer), failed},
		"created is not ok":            {201, `{"id":"I1"}`, failed},
		"refused caller":               {401, `{"error":"no"}`, failed},
		"forbidden caller":             {403, `{"error":"no","code":"invalid_payment"}`, failed},
		"request timeout":              {408, `{"error":"no"}`, failed},
		"too large":                    {413, `{"error":"no"}`, failed},
		"too many":                     {429, `{"error":"no"}`, failed},
		"server error":                 {500, `{"error":"no"}`, failed},
		"server error with a verdict":  {500, `{"error":"no","code":"payment_mismatch"}`, failed},
		"unavailable":                  {503, ``, failed},
		"a verdict without a text":     {422, `{"error":"\u0000","code":"payment_mismatch"}`, rejected},
		"control characters in reason": {422, `{"error":"a\u0000b\n","code":"payment_mismatch"}`, rejected},
	} {
		t.Run(name, func(t *testing.T) {
			client := newClient(t, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(test.status)
				_, _ = io.WriteString(w, test.body)
			})
			err := client.Pay(t.Context(), i1)
			var rejection *invoice.Rejection
			switch test.outcome {
			case paid:
				assert.NoError(t, err)
			case rejected:
				require.ErrorAs(t, err, &rejection)
				assert.NotContains(t, rejection.Reason, "\x00", "it goes into a database column")
				assert.NotEmpty(t, rejection.Reason, "or it would not show")
			case failed:
				require.Error(t, err)
				assert.False(t, errors.As(err, &rejection))
			}
		})
	}
}

func TestAnAnswerThatNeverEnds(t *testing.T) {
	client := newClient(t, func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := io.WriteString(w, strings.Repeat("x", 1024)); err != nil {
				return
			}
		}
	})
	assert.ErrorContains(t, client.Pay(t.Context(), i1), "over 65536 bytes")
}

func TestAnAmountInAnUnknownCurrencyIsNeverSent(t *testing.T) {
	client := newClient(t, func(http.ResponseWriter, *http.Request) { t.Error("it was sent") })
	err := client.Pay(t.Context(), invoice.Invoice{ID: "I1", Amount: money.Amount{Minor: 1215, Currency: "XXX"}})
	var rejection *invoice.Rejection
	require.ErrorAs(t, err, &rejection, "parked, with the reason")
	assert.Contains(t, rejection.Reason, "XXX")
}

// One connection for each call at once, however many calls there are.
func TestConnectionsAreKept(t *testing.T) {
	const connections, calls = 300, 3000
	var accepted atomic.Int32
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, `{"id":"I1"}`)
	}))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			accepted.Add(1)
		}
	}
	server.Start()
	t.Cleanup(server.Close)
	base, err := url.Parse(server.URL)
	require.NoError(t, err)
	client := New(base, "", connections, prometheus.NewRegistry())
	var left atomic.Int32
	left.Store(calls)
	var callers sync.WaitGroup
	for range connections {
		callers.Go(func() {
			for left.Add(-1) >= 0 {
				assert.NoError(t, client.Pay(t.Context(), i1))
			}
		})
	}
	callers.Wait()
	assert.LessOrEqual(t, accepted.Load(), int32(connections))
}

// What would be the same for each invoice is told apart from what is about one.
func TestAProviderThatIsDown(t *testing.T) {
	for status, isDown := range map[int]bool{
		401: true, 403: true, 429: true, 502: true, 503: true, 504: true,
		200: false, 400: false, 404: false, 408: false, 413: false, 500: false,
	} {
		client := newClient(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })
		err := client.Pay(t.Context(), i1)
		require.Error(t, err)
		assert.Equal(t, isDown, errors.Is(err, invoice.ErrDown), "%d: %v", status, err)
	}
	nobody, err := url.Parse("http://127.0.0.1:1")
	require.NoError(t, err)
	assert.ErrorIs(t, New(nobody, "", 1, prometheus.NewRegistry()).Pay(t.Context(), i1), invoice.ErrDown)
}

func TestASlowAnswer(t *testing.T) {
	client := newClient(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // only then does a server notice that a client has gone
		<-r.Context().Done()
	})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	assert.ErrorIs(t, client.Pay(ctx, i1), context.DeadlineExceeded)
}

func TestARedirectIsNotFollowed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(file, []byte("token"), 0o600))
	client := newClientWithToken(t, file, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/elsewhere" {
			t.Error("money and token went elsewhere")
		}
		http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
	})
	assert.Error(t, client.Pay(t.Context(), i1))
}
