package invoice_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/invoice-app/invoice"
)

// batches is a provider that responds to a whole batch, and records those it got.
type batches struct {
	answer func(ctx context.Context, batch []invoice.Invoice) []error

	mu  sync.Mutex
	got [][]invoice.Invoice
}

func (b *batches) Pay(ctx context.Context, batch []invoice.Invoice) []error {
	b.mu.Lock()
	b.got = append(b.got, batch)
	b.mu.Unlock()
	return b.answer(ctx, batch)
}

// sizes of the batches in the order in which they came.
func (b *batches) sizes() (sizes []int) {
	for _, batch := range b.got {
		sizes = append(sizes, len(batch))
	}
	return sizes
}

// all gives every invoice of a batch the same result.
func all(batch []invoice.Invoice, answer error) []error {
	answers := make([]error, len(batch))
	for n := range answers {
		answers[n] = answer
	}
	return answers
}

// payInBatches pays l through answer, and returns what the provider got and how long it took.
func payInBatches(
	t *testing.T, l *ledger, answer func(context.Context, []invoice.Invoice) []error, want func(*testing.T, error),
) (b *batches, took time.Duration) {
	t.Helper()
	b = &batches{answer: answer}
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		cfg := steady
		cfg.Batch = 128
		payer := invoice.NewPayer(l, b, cfg, slog.New(slog.NewTextHandler(&log, nil)))
		start := time.Now()
		want(t, payer.PayAll(t.Context()))
		took = time.Since(start)
		payer.Close()
	})
	return b, took
}

func succeeds(t *testing.T, err error) { t.Helper(); require.NoError(t, err) }

func TestBatchesGrowWhileCallsAreFast(t *testing.T) {
	l := newLedger(10_000)
	b, took := payInBatches(t, l, func(_ context.Context, batch []invoice.Invoice) []error {
		time.Sleep(10 * time.Millisecond)
		return all(batch, nil)
	}, succeeds)
	assert.Equal(t, 10_000, l.paid())
	sizes := b.sizes()
	assert.Less(t, len(sizes), 10_000/40)
	assert.Equal(t, 16, sizes[0])
	assert.Contains(t, sizes, 128)
	assert.LessOrEqual(t, sizes[len(sizes)-1], 16, "the last ones are small")
	assert.Less(t, took, 500*time.Millisecond)
}

func TestBatchesShrinkWhileCallsAreSlow(t *testing.T) {
	l := newLedger(2000)
	b, _ := payInBatches(t, l, func(ctx context.Context, batch []invoice.Invoice) []error {
		for n := range batch { // an invoice takes 100 ms; the call, 3 s at most
			time.Sleep(100 * time.Millisecond)
			if ctx.Err() != nil {
				return append(all(batch[:n], nil), all(batch[n:], ctx.Err())...)
			}
		}
		return all(batch, nil)
	}, succeeds)
	assert.Equal(t, 2000, l.paid())
	sizes := b.sizes()
	for _, size := range sizes[len(sizes)/2:] {
		assert.LessOrEqual(t, size, 8)
	}
}

func TestSingleInvoiceDoesNotWaitForOthers(t *testing.T) {
	b, took := payInBatches(t, newLedger(1), func(_ context.Context, batch []invoice.Invoice) []error {
		return all(batch, nil)
	}, succeeds)
	assert.Equal(t, []int{1}, b.sizes())
	assert.Zero(t, took)
}

// Whatever an invoice does to its batch, it does that once: after that it is sent alone, and so
// are the others of its batch, which are paid then.
func TestOneInvoiceHoldsUpItsBatchOnce(t *testing.T) {
	const poison = 7
	for name, fail := range map[string]func(context.Context) error{
		"at once":               func(context.Context) error { return errors.New("status 500") },
		"by not being answered": func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
	} {
		t.Run(name, func(t *testing.T) {
			l := newLedger(1000)
			b, _ := payInBatches(t, l, func(ctx context.Context, batch []invoice.Invoice) []error {
				for _, i := range batch {
					if i.Seq == poison {
						return all(batch, fail(ctx))
					}
				}
				return all(batch, nil)
			}, func(t *testing.T, err error) { requireRemaining(t, err, 1, invoice.ErrProvider) })
			assert.Equal(t, 999, l.paid())
			tries := map[int64]int{}
			for _, batch := range b.got {
				for _, i := range batch {
					tries[i.Seq]++
					assert.False(t, i.Seq == poison && len(batch) > 1 && tries[poison] > 1, "it goes alone")
				}
			}
			for seq, n := range tries {
				assert.True(t, seq == poison || n <= 2, "invoice %d was sent %d times", seq, n)
			}
		})
	}
}

func TestEachInvoiceOfABatchHasItsOwnOutcome(t *testing.T) {
	l := newLedger(100)
	_, _ = payInBatches(t, l, func(_ context.Context, batch []invoice.Invoice) []error {
		answers := all(batch, nil)
		for n, i := range batch {
			switch {
			case i.Seq%10 == 0:
				answers[n] = &invoice.Rejection{Reason: i.ID}
			case i.Seq%10 == 5 && len(batch) > 1:
				answers[n] = errors.New("not a word about it")
			}
		}
		return answers
	}, succeeds)
	assert.Equal(t, 90, l.paid())
	for _, r := range l.Rows() {
		if r.Seq%10 == 0 {
			assert.Equal(t, r.ID, r.Rejected)
		}
	}
}

// Invoices from a claim that took too long are not sent: somebody else may get them soon.
func TestLateClaimsAreNotSent(t *testing.T) {
	l := newLedger(100)
	late := &lateLedger{ledger: l, wait: steady.Lease - time.Second}
	b := &batches{answer: func(_ context.Context, batch []invoice.Invoice) []error { return all(batch, nil) }}
	synctest.Test(t, func(t *testing.T) {
		cfg := steady
		cfg.Batch = 128
		payer := invoice.NewPayer(late, b, cfg, slog.New(slog.DiscardHandler))
		require.NoError(t, payer.PayAll(t.Context()))
		payer.Close()
	})
	assert.Equal(t, 100, l.paid())
	for _, r := range l.Rows() {
		want := 1
		if r.Seq <= 16 {
			want = 2 // claimed by the claim that was late, and again
		}
		assert.Equal(t, want, r.Attempt, r.ID)
	}
	sent := 0
	for _, batch := range b.got {
		sent += len(batch)
	}
	assert.Equal(t, 100, sent, "each once")
}

// lateLedger delays its first claim.
type lateLedger struct {
	*ledger
	wait time.Duration
}

func (l *lateLedger) Claim(
	ctx context.Context, after, through int64, limit int, lease time.Duration,
) ([]invoice.Claim, error) {
	claims, err := l.ledger.Claim(ctx, after, through, limit, lease)
	time.Sleep(l.wait)
	l.wait = 0
	return claims, err
}
