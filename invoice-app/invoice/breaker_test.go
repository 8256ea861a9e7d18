package invoice_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/invoice-app/invoice"
	"example.com/invoices/invoice-app/invoice/ledgertest"
)

// These tests are about time, so they use synctest's clock, and a ledger that follows it. A database
// would follow its own clock.

// ledger is a model that fails where a test wants it to.
type ledger struct {
	*ledgertest.Ledger
	fails func(call string) error // the error of a call; nil: none

	mu     sync.Mutex
	claims []int64 // the after of each claim
}

func newLedger(invoices int) *ledger {
	l := &ledger{Ledger: ledgertest.New()}
	for n := range invoices {
		l.add(fmt.Sprint("I", n))
	}
	return l
}

func (l *ledger) add(id string) { l.Add(invoice.Invoice{ID: id}) }

func (l *ledger) fail(call string) error {
	if l.fails == nil {
		return nil
	}
	return l.fails(call)
}

func (l *ledger) LastSeq(ctx context.Context) (int64, error) {
	if err := l.fail("LastSeq"); err != nil {
		return 0, err
	}
	return l.Ledger.LastSeq(ctx)
}

func (l *ledger) Claim(
	ctx context.Context, after, through int64, limit int, lease time.Duration,
) ([]invoice.Claim, error) {
	if err := l.fail("Claim"); err != nil {
		return nil, err
	}
	l.mu.Lock()
	l.claims = append(l.claims, after)
	l.mu.Unlock()
	return l.Ledger.Claim(ctx, after, through, limit, lease)
}

func (l *ledger) MarkPaid(ctx context.Context, claims []invoice.Claim) error {
	if err := l.fail("MarkPaid"); err != nil {
		return err
	}
	return l.Ledger.MarkPaid(ctx, claims)
}

func (l *ledger) Reject(ctx context.Context, rejected []invoice.Rejected) error {
	if err := l.fail("Reject"); err != nil {
		return err
	}
	return l.Ledger.Reject(ctx, rejected)
}

func (l *ledger) Release(ctx context.Context, released []invoice.Released) error {
	if err := l.fail("Release"); err != nil {
		return err
	}
	return l.Ledger.Release(ctx, released)
}

func (l *ledger) Unsettled(ctx context.Context, through int64) (int, time.Duration, error) {
	if err := l.fail("Unsettled"); err != nil {
		return 0, 0, err
	}
	return l.Ledger.Unsettled(ctx, through)
}

func (l *ledger) paid() (n int) {
	for _, r := range l.Rows() {
		if r.Paid {
			n++
		}
	}
	return n
}

var (
	errHiccup = errors.New("connection reset")
	steady    = invoice.PayerConfig{
		Concurrency: 8, Batch: 1, Lease: 15 * time.Second, Timeout: 3 * time.Second, Patience: 10 * time.Second,
		Answer: 45 * time.Second, RunTimeout: 10 * time.Minute,
		Transient: func(err error) bool { return errors.Is(err, errHiccup) },
	}
)

// inBubble runs test with a Payer of l and p, and what the Payer logs.
func inBubble(t *testing.T, l *ledger, p provider, test func(t *testing.T, payer *invoice.Payer, log *bytes.Buffer)) {
	t.Helper()
	inBubbleWith(t, l, p, 1, test)
}

// inBubbleWith is inBubble with this many invoices in a call.
func inBubbleWith(
	t *testing.T, l *ledger, p provider, batch int, test func(t *testing.T, payer *invoice.Payer, log *bytes.Buffer),
) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		cfg := steady
		cfg.Batch = batch
		payer := invoice.NewPayer(l, p, cfg, slog.New(slog.NewTextHandler(&log, nil)))
		test(t, payer, &log)
		payer.Close()
	})
}

func TestProviderThatIsDownIsProbed(t *testing.T) {
	for name, attempts := range map[string]int{"at first": 0, "after many failures": 5} {
		t.Run(name, func(t *testing.T) {
			l := newLedger(16_000)
			p := &batches{answer: func(_ context.Context, batch []invoice.Invoice) []error {
				return all(batch, fmt.Errorf("%w: connection refused", invoice.ErrDown))
			}}
			synctest.Test(t, func(t *testing.T) {
				for range attempts {
					_, err := l.Ledger.Claim(t.Context(), 0, 16_000, 16_000, 0)
					require.NoError(t, err)
				}
				var log bytes.Buffer
				cfg := steady
				cfg.Batch = 500
				payer := invoice.NewPayer(l, p, cfg, slog.New(slog.NewTextHandler(&log, nil)))
				start := time.Now()
				requireRemaining(t, payer.PayAll(t.Context()), 16_000, invoice.ErrProvider)
				assert.InDelta(t, 10, time.Since(start).Seconds(), 3, "its patience")
				assert.LessOrEqual(t, bytes.Count(log.Bytes(), []byte("\n")), 6, "%s", &log)
				payer.Close()
			})
			assert.LessOrEqual(t, len(p.got), 40, "calls")
		})
	}
}

func TestFailingProviderIsNotFlooded(t *testing.T) {
	l := newLedger(1000)
	var calls atomic.Int32
	inBubble(t, l, func(context.Context, invoice.Invoice) error {
		calls.Add(1)
		return errors.New("status 500")
	}, func(t *testing.T, payer *invoice.Payer, log *bytes.Buffer) {
		start := time.Now()
		requireRemaining(t, payer.PayAll(t.Context()), 1000, invoice.ErrProvider)
		assert.GreaterOrEqual(t, calls.Load(), int32(1000), "each was tried")
		assert.LessOrEqual(t, float64(calls.Load())/time.Since(start).Seconds(), 110.0, "calls a second")
		assert.LessOrEqual(t, bytes.Count(log.Bytes(), []byte("\n")), 10, "%s", log)
	})
}

func TestProviderThatRecovers(t *testing.T) {
	l := newLedger(1000)
	synctest.Test(t, func(t *testing.T) {
		back := time.Now().Add(8 * time.Second)
		payer := invoice.NewPayer(l, provider(func(context.Context, invoice.Invoice) error {
			if time.Now().Before(back) {
				return fmt.Errorf("%w: connection refused", invoice.ErrDown)
			}
			return nil
		}), steady, slog.New(slog.DiscardHandler))
		require.NoError(t, payer.PayAll(t.Context()))
		assert.Less(t, time.Since(back), 5*time.Second)
		payer.Close()
	})
	assert.Equal(t, 1000, l.paid())
}

// However many invoices fail, those behind them are paid in the same pay-all.
func TestFailingInvoicesDoNotHoldUpTheOthers(t *testing.T) {
	for name, test := range map[string]struct {
		bad, good int
		fail      func(ctx context.Context) error
	}{
		"only one": {1, 9, func(context.Context) error { return errors.New("status 500") }},
		"at once":  {500, 20, func(context.Context) error { return errors.New("status 500") }},
		"slowly": {60, 20, func(context.Context) error {
			time.Sleep(time.Second)
			return errors.New("status 500")
		}},
		"by not being answered": {60, 6000, func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }},
		"by a cut connection":   {60, 6000, func(context.Context) error { return fmt.Errorf("%w: EOF", invoice.ErrDown) }},
	} {
		for _, batch := range []int{1, 128} {
			t.Run(fmt.Sprint(name, ", ", batch, " in a call"), func(t *testing.T) {
				l := newLedger(test.bad + test.good)
				inBubbleWith(t, l, func(ctx context.Context, i invoice.Invoice) error {
					if i.Seq <= int64(test.bad) {
						return test.fail(ctx)
					}
					time.Sleep(10 * time.Millisecond)
					return nil
				}, batch, func(t *testing.T, payer *invoice.Payer, _ *bytes.Buffer) {
					err := payer.PayAll(t.Context())
					for underway := new(invoice.UnderwayError); errors.As(err, &underway); {
						err = payer.PayAll(t.Context())
					}
					requireRemaining(t, err, test.bad, invoice.ErrProvider)
					assert.Equal(t, test.good, l.paid())
				})
			})
		}
	}
}

func TestLedgerHiccupsAreTolerated(t *testing.T) {
	for _, call := range []string{"LastSeq", "Claim", "MarkPaid", "Unsettled", "all"} {
		t.Run(call, func(t *testing.T) {
			l := newLedger(100)
			var calls, failed atomic.Int32
			l.fails = func(this string) error {
				if (call == this || call == "all") && failed.Add(1) <= 3 {
					return errHiccup
				}
				return nil
			}
			inBubble(t, l, func(context.Context, invoice.Invoice) error { calls.Add(1); return nil },
				func(t *testing.T, payer *invoice.Payer, _ *bytes.Buffer) {
					start := time.Now()
					require.NoError(t, payer.PayAll(t.Context()))
					assert.Less(t, time.Since(start), steady.Lease, "no claim has to run out")
				})
			assert.Equal(t, 100, l.paid())
			assert.EqualValues(t, 100, calls.Load(), "no payment is asked for twice")
			assert.GreaterOrEqual(t, failed.Load(), int32(3))
		})
	}
}

func TestLedgerThatStaysDown(t *testing.T) {
	for _, call := range []string{"LastSeq", "Claim", "MarkPaid"} {
		t.Run(call, func(t *testing.T) {
			l := newLedger(100)
			l.fails = func(this string) error {
				if call == this {
					return errHiccup
				}
				return nil
			}
			inBubble(t, l, func(context.Context, invoice.Invoice) error { return nil },
				func(t *testing.T, payer *invoice.Payer, log *bytes.Buffer) {
					start := time.Now()
					require.ErrorIs(t, payer.PayAll(t.Context()), errHiccup)
					assert.Less(t, time.Since(start), 3*steady.Patience)
					assert.GreaterOrEqual(t, time.Since(start), steady.Patience)
					assert.LessOrEqual(t, bytes.Count(log.Bytes(), []byte("\n")), 8, "%s", log)
				})
		})
	}
	t.Run("for good", func(t *testing.T) {
		l := newLedger(1)
		denied := errors.New("permission denied")
		l.fails = func(string) error { return denied }
		inBubble(t, l, nil, func(t *testing.T, payer *invoice.Payer, _ *bytes.Buffer) {
			start := time.Now()
			requireRemaining(t, payer.PayAll(t.Context()), -1, denied)
			assert.Zero(t, time.Since(start), "not waited for")
		})
	})
}

// A claim does not pass over invoices that were paid before.
func TestClaimsContinueWhereTheLastOneEnded(t *testing.T) {
	l := newLedger(5000)
	inBubble(t, l, func(context.Context, invoice.Invoice) error { time.Sleep(time.Millisecond); return nil },
		func(t *testing.T, payer *invoice.Payer, _ *bytes.Buffer) {
			require.NoError(t, payer.PayAll(t.Context()))
		})
	fromStart := 0
	for _, after := range l.claims {
		if after == 0 {
			fromStart++
		}
	}
	assert.GreaterOrEqual(t, len(l.claims), 5000/steady.Concurrency)
	assert.LessOrEqual(t, fromStart, 10, "of %d claims", len(l.claims))
}

// slowly pays an invoice per second and call.
func slowly(context.Context, invoice.Invoice) error { time.Sleep(time.Second); return nil }

func TestLongPayAllReportsProgress(t *testing.T) {
	l := newLedger(800) // 100 s
	inBubble(t, l, slowly, func(t *testing.T, payer *invoice.Payer, _ *bytes.Buffer) {
		start := time.Now()
		for _, paid := range []int{45 * 8, 90 * 8} {
			var underway *invoice.UnderwayError
			require.ErrorAs(t, payer.PayAll(t.Context()), &underway)
			require.ErrorAs(t, payer.PayWithin(t.Context(), time.Millisecond), &underway)
			paying, last := payer.Status()
			assert.True(t, paying)
			assert.NoError(t, last)
			assert.InDelta(t, 800-paid, underway.Unpaid, 16)
		}
		require.NoError(t, payer.PayAll(t.Context()), "waits for the end")
		assert.InDelta(t, 100, time.Since(start).Seconds(), 5, "it went on without a caller")
		assert.Equal(t, 800, l.paid())
	})
}

func TestOneCurrentAndOneNextRun(t *testing.T) {
	l := newLedger(80) // 10 s
	var lastSeqs atomic.Int32
	l.fails = func(call string) error {
		if call == "LastSeq" {
			lastSeqs.Add(1)
		}
		return nil
	}
	inBubble(t, l, slowly, func(t *testing.T, payer *invoice.Payer, _ *bytes.Buffer) {
		var callers sync.WaitGroup
		call := func() { callers.Go(func() { assert.NoError(t, payer.PayAll(t.Context())) }) }
		call()
		synctest.Wait()
		for range 50 {
			call()
		}
		l.add("late")
		callers.Wait()
		assert.EqualValues(t, 2, lastSeqs.Load())
		assert.Equal(t, 81, l.paid(), "the one to follow has what came before its callers' call")
	})
}

func TestLeavingCallers(t *testing.T) {
	for name, test := range map[string]struct {
		stay, told, goesOn bool
	}{
		"nobody waits":        {false, false, false},
		"another one waits":   {true, false, true},
		"was told it goes on": {false, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLedger(800) // 100 s
			inBubble(t, l, slowly, func(t *testing.T, payer *invoice.Payer, _ *bytes.Buffer) {
				var callers sync.WaitGroup
				ctx, leave := context.WithCancel(t.Context())
				callers.Go(func() { _ = payer.PayAll(ctx) })
				if test.stay { // at the same instant: the run has not begun
					callers.Go(func() { _ = payer.PayAll(t.Context()) })
				}
				time.Sleep(10*time.Second + time.Millisecond)
				if test.told {
					callers.Wait()
				}
				leave()
				callers.Wait()
				time.Sleep(200 * time.Second)
				if test.goesOn {
					assert.Equal(t, 800, l.paid())
				} else {
					assert.LessOrEqual(t, l.paid(), 96, "what was in hand, and no more")
					assert.GreaterOrEqual(t, l.paid(), 80)
				}
			})
		})
	}
}

func TestLeavingCallerDoesNotSpoilTheNextRun(t *testing.T) {
	l := newLedger(80) // 10 s
	inBubble(t, l, slowly, func(t *testing.T, payer *invoice.Payer, _ *bytes.Buffer) {
		var callers sync.WaitGroup
		callers.Go(func() { assert.NoError(t, payer.PayAll(t.Context())) })
		synctest.Wait()
		ctx, leave := context.WithCancel(t.Context())
		callers.Go(func() { assert.ErrorIs(t, payer.PayAll(ctx), context.Canceled) })
		synctest.Wait()
		leave()
		synctest.Wait()
		l.add("late")
		callers.Go(func() { assert.NoError(t, payer.PayAll(t.Context())) })
		callers.Wait()
		assert.Equal(t, 81, l.paid())
	})
}

func TestCloseWaitsForCallsInProgress(t *testing.T) {
	l := newLedger(800)
	inBubble(t, l, slowly, func(t *testing.T, payer *invoice.Payer, _ *bytes.Buffer) {
		done := make(chan error, 1)
		go func() { done <- payer.PayAll(t.Context()) }()
		synctest.Wait()
		payer.Close()
		assert.Equal(t, steady.Concurrency, l.paid())
		assert.ErrorIs(t, <-done, invoice.ErrStopping)
		requireRemaining(t, payer.PayAll(t.Context()), -1, invoice.ErrStopping)
	})
}
