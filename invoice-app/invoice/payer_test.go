package invoice_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/internal/database"
	"example.com/invoices/internal/money"
	"example.com/invoices/internal/postgrestest"
	"example.com/invoices/invoice-app/invoice"
	paymentprovider "example.com/invoices/invoice-app/provider"
	"example.com/invoices/invoice-app/store"
)

// provider is the real one from the Payer's point of view, with responses that a test scripts.
type provider func(ctx context.Context, i invoice.Invoice) error

func (p provider) Pay(ctx context.Context, invoices []invoice.Invoice) []error {
	answers := make([]error, len(invoices))
	for n, i := range invoices {
		if answers[n] = ctx.Err(); answers[n] == nil {
			answers[n] = p(ctx, i)
		}
	}
	return answers
}

// patient has more time than any test needs.
var patient = invoice.PayerConfig{
	Concurrency: 4, Batch: 1, Lease: invoice.MaxLease, Timeout: time.Minute, Patience: time.Minute,
	Answer: time.Hour, RunTimeout: time.Hour,
}

func open(t *testing.T, invoices int) store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "invoices.db"), 1)
	require.NoError(t, err)
	t.Cleanup(s.Close)
	addInvoices(t, s, invoices)
	return s
}

func addInvoices(t *testing.T, s store.Store, invoices int) {
	t.Helper()
	list := make([]invoice.Invoice, invoices)
	for n := range list {
		list[n] = invoice.Invoice{ID: fmt.Sprint("I", n), Amount: money.Amount{Minor: int64(n + 1), Currency: "EUR"}}
	}
	_, err := s.Add(t.Context(), invoice.All(list))
	require.NoError(t, err)
}

func newPayer(s store.Store, p invoice.Provider) *invoice.Payer {
	return invoice.NewPayer(s, p, patient, slog.New(slog.DiscardHandler))
}

// newImpatientPayer returns a Payer that gives up soon.
func newImpatientPayer(s store.Store, p invoice.Provider) *invoice.Payer {
	cfg := patient
	cfg.Timeout, cfg.Patience = 200*time.Millisecond, 300*time.Millisecond
	return invoice.NewPayer(s, p, cfg, slog.New(slog.DiscardHandler))
}

func list(t *testing.T, s store.Store) (paid, rejected, unpaid int) {
	t.Helper()
	all, err := s.List(t.Context(), invoice.Filter{Limit: 1000})
	require.NoError(t, err)
	for _, i := range all {
		switch {
		case i.Paid:
			paid++
		case i.Rejected != "":
			rejected++
		default:
			unpaid++
		}
	}
	return paid, rejected, unpaid
}

func requireRemaining(t *testing.T, err error, unpaid int, cause error) {
	t.Helper()
	var remaining *invoice.RemainingError
	require.ErrorAs(t, err, &remaining)
	assert.Equal(t, unpaid, remaining.Unpaid)
	assert.ErrorIs(t, err, cause)
}

func TestPayAllPaysEachOnce(t *testing.T) {
	s := open(t, 30)
	var calls, under, most atomic.Int32
	payer := newPayer(s, provider(func(context.Context, invoice.Invoice) error {
		calls.Add(1)
		most.Store(max(most.Load(), under.Add(1)))
		time.Sleep(time.Millisecond)
		under.Add(-1)
		return nil
	}))
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() { assert.NoError(t, payer.PayAll(context.Background())) })
	}
	all.Wait()
	paid, _, _ := list(t, s)
	assert.Equal(t, 30, paid)
	assert.EqualValues(t, 30, calls.Load())
	assert.LessOrEqual(t, most.Load(), int32(patient.Concurrency), "over all PayAll of a process")
	assert.NoError(t, payer.PayAll(t.Context()), "nothing to do")
	assert.EqualValues(t, 30, calls.Load())
}

func TestHiccupIsRetriedAndNeverParks(t *testing.T) {
	s := open(t, 10)
	var calls atomic.Int32
	payer := newPayer(s, provider(func(context.Context, invoice.Invoice) error {
		if calls.Add(1)%2 == 1 {
			return errors.New("hiccup")
		}
		return nil
	}))
	require.NoError(t, payer.PayAll(t.Context()))
	paid, _, _ := list(t, s)
	assert.Equal(t, 10, paid)
}

// PostgreSQL closes the connections again and again, as in a failover, while everything is paid.
func TestCutConnectionsToTheDatabaseEndNoPayAll(t *testing.T) {
	server := postgrestest.Start(t)
	url := server.URL(postgrestest.Superuser, "postgres")
	require.NoError(t, store.Schema.Migrate(t.Context(), url, ""))
	s, err := store.Open(t.Context(), url, 4)
	require.NoError(t, err)
	t.Cleanup(s.Close)
	addInvoices(t, s, 200)
	var calls atomic.Int32
	var cutting sync.Mutex // one cut must not close the connection of another
	cfg := patient
	cfg.Timeout, cfg.Lease = time.Second, 3*time.Second // what a cut has left claimed is paid after that
	cfg.Transient = func(err error) bool { return errors.Is(err, database.ErrUnavailable) }
	payer := invoice.NewPayer(s, provider(func(context.Context, invoice.Invoice) error {
		if calls.Add(1)%40 == 0 {
			cutting.Lock()
			defer cutting.Unlock()
			server.Exec("postgres", `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
				WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()`)
		}
		return nil
	}), cfg, slog.New(slog.DiscardHandler))
	t.Cleanup(payer.Close)
	require.NoError(t, payer.PayAll(t.Context()))
	paid, _, _ := list(t, s)
	assert.Equal(t, 200, paid)
}

func TestOneRejectionDoesNotBlockTheOthers(t *testing.T) {
	s := open(t, 10)
	payer := newPayer(s, provider(func(_ context.Context, i invoice.Invoice) error {
		if i.ID == "I3" {
			return fmt.Errorf("wrapped: %w", &invoice.Rejection{Reason: "no such account"})
		}
		return nil
	}))
	require.NoError(t, payer.PayAll(t.Context()), "rejected is settled")
	paid, rejected, _ := list(t, s)
	assert.Equal(t, 9, paid)
	assert.Equal(t, 1, rejected)
	i, err := s.Get(t.Context(), "I3")
	require.NoError(t, err)
	assert.Equal(t, "no such account", i.Rejected)
}

// The provider does not accept this caller for a while: that is not the fault of any invoice.
func TestRefusedCallerNeverParks(t *testing.T) {
	for status, text := range map[int]string{
		http.StatusUnauthorized: `{"error":"a valid token is required"}`,
		http.StatusForbidden:    `{"error":"this account is not allowed to call"}`,
	} {
		s := open(t, 3)
		var known atomic.Bool
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !known.Load() {
				w.WriteHeader(status)
				_, _ = io.WriteString(w, text)
				return
			}
			_, _ = io.Copy(w, r.Body) // a response with the invoice's ID
		}))
		defer server.Close()
		base, err := url.Parse(server.URL)
		require.NoError(t, err)
		client := paymentprovider.New(base, nil, "", 1, prometheus.NewRegistry())

		requireRemaining(t, newImpatientPayer(s, client).PayAll(t.Context()), 3, invoice.ErrProvider)
		_, rejected, unpaid := list(t, s)
		assert.Zero(t, rejected)
		assert.Equal(t, 3, unpaid)

		known.Store(true)
		require.NoError(t, newPayer(s, client).PayAll(t.Context()))
		paid, _, _ := list(t, s)
		assert.Equal(t, 3, paid)
	}
}

func TestProviderThatNeverResponds(t *testing.T) {
	s := open(t, 3)
	payer := newImpatientPayer(s, provider(func(ctx context.Context, _ invoice.Invoice) error {
		<-ctx.Done() // the Payer's own timeout
		return ctx.Err()
	}))
	err := payer.PayAll(t.Context())
	requireRemaining(t, err, 3, invoice.ErrProvider)
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	_, rejected, _ := list(t, s)
	assert.Zero(t, rejected)
}

func TestPayAllWaitsForWhatAnotherReplicaHasClaimed(t *testing.T) {
	s := open(t, 2)
	held := make(chan struct{})
	slow := newPayer(s, provider(func(context.Context, invoice.Invoice) error { <-held; return nil }))
	slowDone := make(chan error, 1)
	go func() { slowDone <- slow.PayAll(context.Background()) }()
	require.Eventually(t, func() bool {
		claims, err := s.Claim(t.Context(), 0, 1<<62, 1, 0)
		return err == nil && len(claims) == 0
	}, time.Minute, 5*time.Millisecond, "both are claimed")

	other := newPayer(s, provider(func(context.Context, invoice.Invoice) error { return nil }))
	otherDone := make(chan error, 1)
	go func() { otherDone <- other.PayAll(context.Background()) }()
	select {
	case err := <-otherDone:
		paid, _, _ := list(t, s)
		require.Equal(t, 2, paid, "answered %v while another replica was still paying", err)
	case <-time.After(300 * time.Millisecond):
	}
	close(held)
	require.NoError(t, <-slowDone)
	require.NoError(t, <-otherDone)
	paid, _, _ := list(t, s)
	assert.Equal(t, 2, paid)
}

// Callers often leave while a replica stops.
func TestPayAllAfterStop(t *testing.T) {
	payer := newPayer(nil, nil)
	payer.Stop()
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for range 100 { // a select between two events picks either
		requireRemaining(t, payer.PayAll(gone), -1, invoice.ErrStopping)
	}
}

func TestStopFinishesCallsInProgress(t *testing.T) {
	s := open(t, 20)
	started, goOn := make(chan struct{}, 20), make(chan struct{})
	payer := newPayer(s, provider(func(context.Context, invoice.Invoice) error {
		started <- struct{}{}
		<-goOn
		return nil
	}))
	done := make(chan error, 1)
	go func() { done <- payer.PayAll(context.Background()) }()
	for range patient.Concurrency {
		<-started
	}
	payer.Stop()
	close(goOn)
	requireRemaining(t, <-done, 20-patient.Concurrency, invoice.ErrStopping)
	paid, _, _ := list(t, s)
	assert.Equal(t, patient.Concurrency, paid)
}

func TestClientThatLeavesLosesNothing(t *testing.T) {
	s := open(t, 20)
	ctx, hangUp := context.WithCancel(t.Context())
	returned := make(chan struct{})
	payer := newPayer(s, provider(func(ctx context.Context, _ invoice.Invoice) error {
		hangUp()
		<-returned
		return ctx.Err() // the payment's context outlives the client's
	}))
	requireRemaining(t, payer.PayAll(ctx), -1, context.Canceled)
	close(returned)
	payer.Close() // waits for the calls in progress
	paid, _, _ := list(t, s)
	assert.Positive(t, paid, "what was in hand is marked")
}
