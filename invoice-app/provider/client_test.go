package provider

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
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

	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/internal/identity"
	"example.com/invoices/internal/identitytest"
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
	return New(base, nil, tokenFile, 2, prometheus.NewRegistry())
}

func payOne(t *testing.T, c *Client, i invoice.Invoice) error {
	t.Helper()
	answers := c.Pay(t.Context(), []invoice.Invoice{i})
	require.Len(t, answers, 1)
	return answers[0]
}

func TestRequestBody(t *testing.T) {
	client := newClient(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		assert.NoError(t, err)
		assert.Equal(t, `{"id":"I1","value":131072.01,"currency":"EUR"}`, string(body))
		assert.Equal(t, "/base/payments/pay", r.URL.Path)
		assert.NotContains(t, r.Header, "Authorization", "there is no token")
		_, _ = io.WriteString(w, `{"id":"I1"}`)
	})
	assert.NoError(t, payOne(t, client, i1))
}

func TestTokenIsSentAndRenewed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	var sent string
	client := newClientWithToken(t, file, func(w http.ResponseWriter, r *http.Request) {
		sent = r.Header.Get("Authorization")
		_, _ = io.WriteString(w, `{"id":"I1"}`)
	})
	for _, token := range []string{"first", "second one"} {
		require.NoError(t, os.WriteFile(file, []byte(token+"\n"), 0o600))
		require.NoError(t, payOne(t, client, i1))
		assert.Equal(t, "Bearer "+token, sent)
	}

	sent = "nothing"
	require.NoError(t, os.Remove(file))
	err := payOne(t, client, i1)
	require.ErrorIs(t, err, os.ErrNotExist)
	var rejection *invoice.Rejection
	assert.False(t, errors.As(err, &rejection), "it will be tried again")
	assert.Equal(t, "nothing", sent)
}

// After a suspended machine has woken up, its token has expired until the kubelet renews it. No
// invoice is to blame for that, and the log says what is wrong.
func TestExpiredToken(t *testing.T) {
	cluster := identitytest.New(t)
	past := func(c *identitytest.Claims) {
		c.IssuedAt, c.NotBefore = jwt.NewNumericDate(time.Now().Add(-time.Hour)), nil
		c.Expiry = jwt.NewNumericDate(time.Now().Add(-50 * time.Minute))
	}
	verifier := identity.NewVerifier(cluster.Config(), slog.New(slog.DiscardHandler))
	client := newClientWithToken(t, cluster.TokenFile(cluster.Token(past)), func(w http.ResponseWriter, r *http.Request) {
		if verifier.Verify(r) != nil {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if strings.HasSuffix(r.URL.Path, "/batch") {
			_, _ = io.WriteString(w, `[{"id":"A","status":200},{"id":"B","status":200},{"id":"C","status":200}]`)
			return
		}
		_, _ = io.WriteString(w, `{"id":"I1"}`)
	})
	answers := append(client.Pay(t.Context(), threeInvoices), payOne(t, client, i1))
	for _, n := range []int{0, 2, 3, 4} {
		require.ErrorIs(t, answers[n], invoice.ErrDown)
		var rejection *invoice.Rejection
		assert.False(t, errors.As(answers[n], &rejection))
		assert.Regexp(t, `: status 401: this service's token expired 50m\d+s ago; the kubelet replaces it`,
			answers[n].Error())
	}

	cluster.TokenFile(cluster.Token())
	answers = append(client.Pay(t.Context(), threeInvoices), payOne(t, client, i1))
	for _, n := range []int{0, 2, 3, 4} {
		assert.NoError(t, answers[n], "at once")
	}
}

func TestVerdicts(t *testing.T) {
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
			err := payOne(t, client, i1)
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

func TestEndlessResponse(t *testing.T) {
	client := newClient(t, func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := io.WriteString(w, strings.Repeat("x", 1024)); err != nil {
				return
			}
		}
	})
	assert.ErrorContains(t, payOne(t, client, i1), fmt.Sprintf("over %d bytes", maxAnswer))
}

func TestAmountInUnknownCurrencyIsNeverSent(t *testing.T) {
	client := newClient(t, func(http.ResponseWriter, *http.Request) { t.Error("it was sent") })
	err := payOne(t, client, invoice.Invoice{ID: "I1", Amount: money.Amount{Minor: 1215, Currency: "XXX"}})
	var rejection *invoice.Rejection
	require.ErrorAs(t, err, &rejection, "parked, with the reason")
	assert.Contains(t, rejection.Reason, "XXX")
}

// There is one connection for each concurrent call, however many calls there are.
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
	client := New(base, nil, "", connections, prometheus.NewRegistry())
	var left atomic.Int32
	left.Store(calls)
	var callers sync.WaitGroup
	for range connections {
		callers.Go(func() {
			for left.Add(-1) >= 0 {
				assert.NoError(t, payOne(t, client, i1))
			}
		})
	}
	callers.Wait()
	// A connection may not be back in the pool yet when the next call needs one: then there is one
	// more.
	assert.Less(t, accepted.Load(), int32(2*connections))
}

// Errors that every invoice would get are distinguished from errors of one.
func TestProviderThatIsDown(t *testing.T) {
	for status, isDown := range map[int]bool{
		401: true, 403: true, 429: true, 502: true, 503: true, 504: true,
		200: false, 400: false, 404: false, 408: false, 413: false, 500: false,
	} {
		client := newClient(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })
		err := payOne(t, client, i1)
		require.Error(t, err)
		assert.Equal(t, isDown, errors.Is(err, invoice.ErrDown), "%d: %v", status, err)
	}
	nobody, err := url.Parse("http://127.0.0.1:1")
	require.NoError(t, err)
	assert.ErrorIs(t, payOne(t, New(nobody, nil, "", 1, prometheus.NewRegistry()), i1), invoice.ErrDown)
}

func TestSlowResponse(t *testing.T) {
	client := newClient(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // only then does a server notice that a client has gone
		<-r.Context().Done()
	})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	assert.ErrorIs(t, client.Pay(ctx, []invoice.Invoice{i1})[0], context.DeadlineExceeded)
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(file, []byte("token"), 0o600))
	client := newClientWithToken(t, file, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/elsewhere" {
			t.Error("money and token went elsewhere")
		}
		http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
	})
	assert.Error(t, payOne(t, client, i1))
}

// threeInvoices are paid in one call. The second is in a currency that cannot be sent.
var threeInvoices = []invoice.Invoice{
	{ID: "A", Amount: money.Amount{Minor: 1, Currency: "EUR"}},
	{ID: "X", Amount: money.Amount{Minor: 1, Currency: "XXX"}},
	{ID: "B", Amount: money.Amount{Minor: 2, Currency: "JPY"}},
	{ID: "C", Amount: money.Amount{Minor: 3, Currency: "EUR"}},
}

func TestVerdictsOfABatch(t *testing.T) {
	const paidA, paidB, paidC = `{"id":"A","status":200}`, `{"id":"B","status":200}`, `{"id":"C","status":200}`
	for name, test := range map[string]struct {
		status   int
		body     string
		outcomes string // of A, B and C: paid, rejected, failed or down
	}{
		"all":              {200, `[` + paidA + `,` + paidB + `,` + paidC + `]`, "paid paid paid"},
		"in another order": {200, `[` + paidC + `,` + paidA + `,` + paidB + `]`, "paid paid paid"},
		"each its own": {200, `[` + paidA +
			`,{"id":"B","status":422,"code":"payment_mismatch","error":"other"},{"id":"C","status":503}]`,
			"paid rejected down"},
		"invalid": {200, `[{"id":"A","status":400,"code":"invalid_payment","error":"no"},` + paidB + `]`,
			"rejected paid failed"},
		"half of them":   {200, `[` + paidA + `]`, "paid failed failed"},
		"none":           {200, `[]`, "failed failed failed"},
		"null":           {200, `null`, "failed failed failed"},
		"twice the same": {200, `[` + paidA + `,` + paidA + `,` + paidB + `,` + paidC + `]`, "paid paid paid"},
		"twice, and not the same": {200, `[` + paidA + `,` + paidB + `,` + paidC +
			`,{"id":"A","status":422,"code":"payment_mismatch"},` + paidA + `]`, "failed paid paid"},
		"of others": {200, `[{"id":"D","status":200},{"id":"","status":200},` + paidB + `]`,
			"failed paid failed"},
		"without a status":             {200, `[{"id":"A"},` + paidB + `,` + paidC + `]`, "failed paid paid"},
		"cut off":                      {200, `[` + paidA + `,` + paidB + `,`, "failed failed failed"},
		"an element of the wrong type": {200, `[` + paidA + `,{"id":1,"status":200}]`, "failed failed failed"},
		"of the wrong type":            {200, `{"id":"A"}`, "failed failed failed"},
		"not 200":                      {201, `[` + paidA + `,` + paidB + `,` + paidC + `]`, "failed failed failed"},
		"refused as a whole":           {400, `{"error":"twice","code":"malformed"}`, "failed failed failed"},
		"refused like one":             {422, `{"error":"other","code":"payment_mismatch"}`, "failed failed failed"},
		"unavailable":                  {503, `{"error":"no"}`, "down down down"},
		"endless": {200, `[` + paidA + `,` + paidB + `,` + paidC + `]` + strings.Repeat(" ", maxAnswer),
			"failed failed failed"},
	} {
		t.Run(name, func(t *testing.T) {
			client := newClient(t, func(w http.ResponseWriter, r *http.Request) {
				body, err := io.ReadAll(r.Body)
				assert.NoError(t, err)
				assert.Equal(t, "/base/payments/batch", r.URL.Path)
				assert.Equal(t, `[{"id":"A","value":0.01,"currency":"EUR"},{"id":"B","value":2,"currency":"JPY"},`+
					`{"id":"C","value":0.03,"currency":"EUR"}]`, string(body))
				w.WriteHeader(test.status)
				_, _ = io.WriteString(w, test.body)
			})
			answers := client.Pay(t.Context(), threeInvoices)
			require.Len(t, answers, 4)
			var rejection *invoice.Rejection
			require.ErrorAs(t, answers[1], &rejection)
			assert.Contains(t, rejection.Reason, "XXX")
			var outcomes []string
			for _, answer := range []error{answers[0], answers[2], answers[3]} {
				o := outcome(answer)
				if errors.Is(answer, invoice.ErrDown) {
					o = "down"
				}
				outcomes = append(outcomes, o)
			}
			assert.Equal(t, test.outcomes, strings.Join(outcomes, " "))
		})
	}
}

// The original provider has no endpoint for a list.
func TestWithoutBatchesEachIsPaidAlone(t *testing.T) {
	for _, status := range []int{http.StatusNotFound, http.StatusMethodNotAllowed} {
		client := newClient(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/base/payments/pay" {
				w.WriteHeader(status)
				return
			}
			var sent request
			assert.NoError(t, json.NewDecoder(r.Body).Decode(&sent))
			if sent.ID == "B" {
				w.WriteHeader(http.StatusInternalServerError)
				return
			}
			_ = json.NewEncoder(w).Encode(map[string]string{"id": sent.ID})
		})
		answers := client.Pay(t.Context(), threeInvoices)
		assert.NoError(t, answers[0])
		assert.ErrorContains(t, answers[2], "500")
		assert.NoError(t, answers[3])
	}
}
