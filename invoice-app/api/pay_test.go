package api

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/internal/contracttest"
	"example.com/invoices/invoice-app/invoice"
	"example.com/invoices/invoice-app/store"
)

// contractOfALongPayAll checks a pay-all that takes long: it reports its progress, continues, and
// can be waited for.
func contractOfALongPayAll(t *testing.T) *contracttest.Contract {
	s := newStore(t)
	require.NoError(t, store.Seed(t.Context(), s))
	goOn := make(chan struct{})
	log := slog.New(slog.DiscardHandler)
	cfg := impatient
	cfg.Timeout, cfg.Lease, cfg.Answer = invoice.MaxLease/2, invoice.MaxLease, time.Millisecond
	payer := invoice.NewPayer(s, provider(func(context.Context, invoice.Invoice) error { <-goOn; return nil }), cfg, log)
	t.Cleanup(payer.Close)
	site := New(log, prometheus.NewRegistry(), s.Ping, s, payer, cfg.Answer, nil)
	c := contracttest.New(t, site)

	answer := c.Do(t, http.MethodPost, "/invoices/pay", "")
	assert.Equal(t, 202, answer.Code)
	assert.JSONEq(t, `{"status":"paying continues; repeat the request to wait for the end","unpaid":3}`,
		answer.Body.String())
	assert.Equal(t, "/invoices?paid=false", answer.Header().Get("Location"))
	close(goOn)
	require.Eventually(t, func() bool {
		answer = c.Do(t, http.MethodPost, "/invoices/pay", "")
		return answer.Code == http.StatusOK
	}, time.Minute, 10*time.Millisecond)
	assert.Equal(t, `{}`, answer.Body.String())
	return c
}

// The server notices that a client has left, whether or not its request had a body: nobody needs
// the result then.
func TestClientThatLeavesEndsItsPayAll(t *testing.T) {
	for name, body := range map[string]string{
		"without a body": "", "with a body": "{}", "with a long body": strings.Repeat(" ", 3<<10),
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			require.NoError(t, store.Seed(t.Context(), s))
			log := slog.New(slog.DiscardHandler)
			began := make(chan struct{})
			var once sync.Once
			cfg := impatient
			cfg.Patience = time.Hour
			payer := invoice.NewPayer(s, provider(func(context.Context, invoice.Invoice) error {
				once.Do(func() { close(began) })
				return errors.New("status 500")
			}), cfg, log)
			t.Cleanup(payer.Close)
			site := New(log, prometheus.NewRegistry(), s.Ping, s, payer, cfg.Answer, nil)
			ended := make(chan struct{})
			listening := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				defer close(ended)
				site.ServeHTTP(w, r)
			}))
			t.Cleanup(listening.Close)

			ctx, leave := context.WithCancel(t.Context())
			target := listening.URL + "/invoices/pay"
			request, err := http.NewRequestWithContext(ctx, http.MethodPost, target, strings.NewReader(body))
			require.NoError(t, err)
			request.Header.Set("Content-Type", "application/json")
			go func() {
				<-began
				leave()
			}()
			response, err := http.DefaultClient.Do(request)
			if err == nil {
				_, _ = io.Copy(io.Discard, response.Body)
				response.Body.Close()
			}
			require.ErrorIs(t, err, context.Canceled)
			select {
			case <-ended:
			case <-time.After(time.Minute):
				t.Fatal("the handler does not notice")
			}
		})
	}
}
