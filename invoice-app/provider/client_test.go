package provider

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
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
