package invoice

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
)

// Provider takes payments. It may be asked for the same invoice any number of
// times, and takes it once.
type Provider interface {
	// Pay returns nil only if the provider has said that it has taken this
	// invoice's payment. A *Rejection is its verdict that it never will. After
	// any other error nothing is known: the payment may or may not be taken.
	Pay(ctx context.Context, i Invoice) error
}

// Rejection is the provider's verdict on an invoice.
type Rejection struct{ Reason string }

func (r *Rejection) Error() string { return r.Reason }

// RemainingError says that pay-all ended before everything was settled.
type RemainingError struct {
	Unpaid int   // invoices that are neither paid nor rejected; -1 if they could not be counted
	Cause  error // why it ended
}

func (e *RemainingError) Error() string {
	return fmt.Sprintf("%s unpaid: %v", e.Count(), e.Cause)
}

// Count is the beginning of a sentence: "1 invoice remains".
func (e *RemainingError) Count() string {
	switch {
	case e.Unpaid < 0:
		return "some invoices may remain"
	case e.Unpaid == 1:
		return "1 invoice remains"
	}
	return fmt.Sprintf("%d invoices remain", e.Unpaid)
}

func (e *RemainingError) Unwrap() error { return e.Cause }

var (
	// ErrProvider says that the provider gives no verdict.
	ErrProvider = errors.New("payment-provider gives no usable answer")
	// ErrStopping says that this process is about to end.
	ErrStopping = errors.New("this replica is stopping")
)

// PayerConfig is how a Payer pays.
type PayerConfig struct {
	Concurrency int           // calls to the provider at once, over all PayAll
	Lease       time.Duration // how long a claim lasts; longer than Timeout by a good margin
	Timeout     time.Duration // of one call to the provider
	Patience    time.Duration // PayAll gives up after so long without a settled invoice
}

// How long a failed invoice waits before it is tried again: a random part of
// firstWait doubled at each attempt, and of maxWait at most.
const (
	firstWait = 100 * time.Millisecond
	maxWait   = 2 * time.Second
	// poll is the longest pause between two looks at invoices that another
	// replica has claimed: it may finish long before its lease ends.
	poll = 250 * time.Millisecond
	// bookkeeping bounds each question to the ledger, and writing down what the
	// provider said: a database that hangs must not hold anybody for long.
	bookkeeping = 5 * time.Second
)

// Payer pays invoices. One Payer serves a whole process.
type Payer struct {
	ledger   Ledger
	provider Provider
	cfg      PayerConfig
	log      *slog.Logger
	slots    *semaphore.Weighted // one a call under way
	stopping chan struct{}
	stopOnce sync.Once
}

// NewPayer returns a Payer that pays ledger's invoices through provider.
func NewPayer(ledger Ledger, provider Provider, cfg PayerConfig, log *slog.Logger) *Payer {
	return &Payer{
		ledger: ledger, provider: provider, cfg: cfg, log: log,
		slots: semaphore.NewWeighted(int64(cfg.Concurrency)), stopping: make(chan struct{}),
	}
}

// Stop makes every PayAll finish the invoices in hand and claim no more.
func (p *Payer) Stop() { p.stopOnce.Do(func() { close(p.stopping) }) }

// PayAll settles every invoice that is unsettled when it is called, the ones
// that another replica is paying included: it returns nil only when each of
// them is paid or rejected. Otherwise it returns a *RemainingError. When ctx is
// done it claims no more, and returns once the invoices in hand are settled.
func (p *Payer) PayAll(ctx context.Context) error {
	asking, cancel := context.WithTimeout(ctx, bookkeeping)
	through, err := p.ledger.LastSeq(asking)
	cancel()
	if err != nil {
		return &RemainingError{Unpaid: -1, Cause: err}
	}
	run := &run{Payer: p, through: through, settledAt: time.Now()}
	cause := run.untilSettled(ctx)
	run.inHand.Wait()
	if cause == nil {
		return nil
	}
	// Asked after ctx is done, too: its end is often the reason to count.
	asking, cancel = context.WithTimeout(context.WithoutCancel(ctx), bookkeeping)
	defer cancel()
	count, _, err := p.ledger.Unsettled(asking, through)
	if err != nil {
		count = -1
	}
	if count == 0 { // the last ones in hand settled it
		return nil
	}
	return &RemainingError{Unpaid: count, Cause: cause}
}

// run is one PayAll.
type run struct {
	*Payer
	through int64 // the snapshot: invoices up to this Seq
	inHand  sync.WaitGroup

	mu        sync.Mutex
	settledAt time.Time // when an invoice was last settled, or the start
	failure   error     // what the provider last failed with, nil once it answers again
}

// untilSettled claims and pays until nothing of the snapshot is unsettled, and
// returns nil then, or why it ended before.
func (r *run) untilSettled(ctx context.Context) error {
	for {
		slots, err := r.acquire(ctx)
		if err != nil {
			return err
		}
		if err := r.over(ctx); err != nil { // asked last: waiting for a slot may have taken long
			r.slots.Release(int64(slots))
			return err
		}
		claims, err := r.claim(ctx, slots)
		r.slots.Release(int64(slots - len(claims)))
		if err != nil {
			return err
		}
		for _, claim := range claims {
			r.inHand.Go(func() {
				defer r.slots.Release(1)
				r.pay(context.WithoutCancel(ctx), claim)
			})
		}
		if len(claims) > 0 {
			continue
		}
		asking, cancel := context.WithTimeout(ctx, bookkeeping)
		count, wait, err := r.ledger.Unsettled(asking, r.through)
		cancel()
		if err != nil || count == 0 {
			return err
		}
		r.sleep(ctx, wait)
	}
}

// over says why the run has to end now, or nil.
func (r *run) over(ctx context.Context) error {
	select {
	case <-r.stopping:
		return ErrStopping
	case <-ctx.Done():
		return context.Cause(ctx)
	default:
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failure != nil && time.Since(r.settledAt) > r.cfg.Patience {
		return r.failure
	}
	return nil
}

// acquire waits for one free slot and takes up to as many as are free.
func (r *run) acquire(ctx context.Context) (int, error) {
	if err := r.slots.Acquire(ctx, 1); err != nil {
		return 0, err
	}
	n := 1
	for n < r.cfg.Concurrency && r.slots.TryAcquire(1) {
		n++
	}
	return n, nil
}

// claim is not cut short when ctx ends: what the database has claimed by then
// would have to wait for its lease to run out.
func (r *run) claim(ctx context.Context, limit int) ([]Claim, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), bookkeeping)
	defer cancel()
	return r.ledger.Claim(ctx, 0, r.through, limit, r.cfg.Lease)
}

func (r *run) sleep(ctx context.Context, wait time.Duration) {
	// A little at least, and not all replicas at the same instant.
	wait = min(max(wait, poll/10), poll)
	select {
	case <-time.After(wait/2 + rand.N(wait)/2):
	case <-r.stopping:
	case <-ctx.Done():
	}
}

// pay settles one claimed invoice, or lets go of it. No transaction is open
// while the provider is asked.
func (r *run) pay(ctx context.Context, claim Claim) {
	calling, cancel := context.WithTimeout(ctx, r.cfg.Timeout)
	answer := r.provider.Pay(calling, claim.Invoice)
	cancel()

	ctx, cancel = context.WithTimeout(ctx, bookkeeping)
	defer cancel()
	log := r.log.With("invoice", claim.ID, "attempt", claim.Attempt)
	var rejection *Rejection
	var err error
	switch {
	case answer == nil:
		err = r.ledger.MarkPaid(ctx, claim.ID)
	case errors.As(answer, &rejection):
		log.Warn("invoice rejected", "reason", rejection.Reason)
		err = r.ledger.Reject(ctx, claim, rejection.Reason)
	default:
		log.Warn("payment not confirmed, will be tried again", "error", answer)
		err = r.ledger.Release(ctx, claim, backoff(claim.Attempt))
	}
	if err != nil {
		// The claim runs out by itself, and asking the provider again is safe.
		log.Error("outcome not written down, will be tried again", "error", err)
	}

	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case err != nil:
		r.failure = err
	case answer != nil && rejection == nil:
		r.failure = fmt.Errorf("%w: %w", ErrProvider, answer)
	default:
		r.settledAt, r.failure = time.Now(), nil
	}
}

// backoff is how long an invoice rests after its attempt-th failure.
func backoff(attempt int) time.Duration {
	wait := maxWait
	if attempt < 10 { // beyond that the shift is over maxWait, and could overflow
		wait = min(firstWait<<(attempt-1), maxWait)
	}
	return wait/2 + rand.N(wait)/2
}
