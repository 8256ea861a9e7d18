package invoice

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
)

// Provider takes payments. It can be asked for the same invoice any number of times, and takes its
// payment once.
type Provider interface {
	// Pay requests the payments of invoices, and returns the result for each, in their order. The
	// result is nil only if the provider has confirmed that it took this invoice's payment. A
	// *Rejection is its verdict that it never will. After any other error nothing is known: the
	// payment may or may not have been taken. An error that wraps ErrDown means that other invoices
	// would fail, too.
	Pay(ctx context.Context, invoices []Invoice) []error
}

// Rejection is the provider's verdict that it will not take an invoice's payment.
type Rejection struct{ Reason string }

func (r *Rejection) Error() string { return r.Reason }

// RemainingError means that pay-all ended before everything was settled.
type RemainingError struct {
	Unpaid int   // invoices that are neither paid nor rejected; -1 if they could not be counted
	Cause  error // why it ended
}

func (e *RemainingError) Error() string {
	return fmt.Sprintf("%s unpaid: %v", e.Count(), e.Cause)
}

// Count returns the beginning of a sentence: "1 invoice remains".
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

// UnderwayError means that paying takes longer than a caller should wait for one response. It
// continues without the caller.
type UnderwayError struct {
	Unpaid int // invoices that are neither paid nor rejected so far; -1 if they could not be counted
}

func (e *UnderwayError) Error() string { return "paying continues" }

var (
	// ErrProvider means that the provider gives no verdict.
	ErrProvider = errors.New("payment-provider gives no usable response")
	// ErrDown means that the provider takes no payments at all now.
	ErrDown = errors.New("payment-provider is down")
	// ErrStopping means that this process is about to exit.
	ErrStopping = errors.New("this replica is stopping")
)

// PayerConfig configures a Payer.
type PayerConfig struct {
	Concurrency int              // concurrent calls to the provider
	Batch       int              // maximum number of invoices in one call
	Lease       time.Duration    // of a claim; well above Timeout
	Timeout     time.Duration    // of one call to the provider
	Patience    time.Duration    // a run gives up after this time without a settled invoice
	Answer      time.Duration    // PayAll returns after this time; what it began continues
	RunTimeout  time.Duration    // of everything that one PayAll begins
	Transient   func(error) bool // whether the next try may succeed after an error of the Ledger; nil: never
	// Random returns a number from 0 to n-1; nil: that of math/rand/v2. It is the only source of
	// randomness in a Payer.
	Random func(n int64) int64
}

// sendBy is how long after a claim its invoices may still be sent: a call that begins by then ends
// well within the lease.
func (c PayerConfig) sendBy() time.Duration { return (c.Lease - c.Timeout) / 2 }

const (
	// How long a failed invoice, or call of the ledger, waits before it is tried again: a random
	// part of firstWait, doubled at each attempt, and at most maxWait.
	firstWait = 100 * time.Millisecond
	maxWait   = 2 * time.Second
	// poll is the longest pause between two checks of invoices that another replica has claimed: it
	// may finish long before its lease ends.
	poll = 250 * time.Millisecond
	// bookkeeping limits each call of the ledger: a database that hangs must not block anyone for
	// long.
	bookkeeping = 5 * time.Second
	// firstBatch is how many invoices the first call has. Later calls that leave some for others
	// have at least as many.
	firstBatch = 16
)

// Payer pays invoices. One Payer serves a whole process: it pays in runs, one at a time. A caller
// waits for a run that begins after the call, so there is at most one current and one next run,
// however many callers there are.
type Payer struct {
	ledger   Ledger
	provider Provider
	cfg      PayerConfig
	log      *slog.Logger
	slots    *semaphore.Weighted // one per call in progress
	size     batchSize
	breaker  breaker
	failing  trouble // payments
	lagging  trouble // the ledger

	working sync.WaitGroup // for the goroutine that does the runs

	mu      sync.Mutex // guards the fields below
	current *run       // in progress
	next    *run       // not begun
	busy    bool       // a goroutine does the runs
	last    error      // the result of the last finished run
	stopped bool
}

// NewPayer returns a Payer that pays the invoices of ledger through provider.
func NewPayer(ledger Ledger, provider Provider, cfg PayerConfig, log *slog.Logger) *Payer {
	if cfg.Transient == nil {
		cfg.Transient = func(error) bool { return false }
	}
	if cfg.Random == nil {
		cfg.Random = rand.Int64N
	}
	return &Payer{
		ledger: ledger, provider: provider, cfg: cfg, log: log,
		slots:   semaphore.NewWeighted(int64(cfg.Concurrency)),
		size:    batchSize{most: cfg.Batch, now: min(firstBatch, cfg.Batch)},
		breaker: breaker{random: cfg.Random},
		failing: trouble{log: log, message: "payments not confirmed, will be retried"},
		lagging: trouble{log: log, message: "the ledger fails, will be retried"},
	}
}

// Stop makes every run finish the invoices in progress and claim no more.
func (p *Payer) Stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopped = true
	for _, r := range []*run{p.current, p.next} {
		if r != nil {
			r.cancel(ErrStopping)
		}
	}
}

// Close is Stop, and waits for the invoices in progress.
func (p *Payer) Close() {
	p.Stop()
	p.working.Wait()
}

// PayAll settles every invoice that is unsettled when it is called, including those that another
// replica is paying. It returns nil only if all of them are paid or rejected, and a
// *RemainingError if it gave up. If that takes longer than cfg.Answer it returns an
// *UnderwayError, and paying continues. If ctx is done it returns, too; the invoices in progress
// are settled, and no more are claimed unless another caller waits or was told that paying
// continues.
func (p *Payer) PayAll(ctx context.Context) error { return p.PayWithin(ctx, p.cfg.Answer) }

// PayWithin is PayAll with patience instead of cfg.Answer.
func (p *Payer) PayWithin(ctx context.Context, patience time.Duration) error {
	r := p.join(ctx)
	if r == nil {
		return &RemainingError{Unpaid: -1, Cause: ErrStopping}
	}
	answer := time.NewTimer(patience)
	defer answer.Stop()
	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
		p.leave(r, context.Cause(ctx))
		return &RemainingError{Unpaid: -1, Cause: context.Cause(ctx)}
	case <-answer.C:
		select {
		case <-r.done:
			return r.err
		default:
		}
		p.mu.Lock()
		r.detached = true
		p.mu.Unlock()
		return &UnderwayError{Unpaid: p.unsettled(ctx, math.MaxInt64)}
	}
}

// Status reports whether a run is in progress in this process, and the result of the last finished
// one.
func (p *Payer) Status() (paying bool, last error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.busy, p.last
}

// join adds a waiting caller to a run that has not begun, and returns the run, or nil if there
// will be no more runs.
func (p *Payer) join(ctx context.Context) *run {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped {
		return nil
	}
	if p.next == nil {
		p.next = &run{Payer: p, done: make(chan struct{}), ended: make(chan struct{}, 1)}
		// The run outlives its first caller, but keeps the values that its logs need.
		p.next.ctx, p.next.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	}
	if !p.busy {
		p.busy = true
		p.working.Go(p.work)
	}
	p.next.waiting++
	return p.next
}

// leave removes a caller that no longer waits for r.
func (p *Payer) leave(r *run, cause error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r.waiting--
	if r.waiting > 0 || r.detached {
		return
	}
	r.cancel(cause)
	if p.next == r { // nobody may join it any more
		p.next = nil
	}
}

// work does one run after the other, until nobody needs another one.
func (p *Payer) work() {
	for {
		p.mu.Lock()
		if p.current != nil {
			p.last = p.current.err
		}
		r := p.next
		p.current, p.next, p.busy = r, nil, r != nil
		p.mu.Unlock()
		if r == nil {
			return
		}
		r.err = r.settle()
		gaveUp := r.err != nil && r.ctx.Err() == nil
		r.cancel(nil)
		if r.err != nil {
			p.log.Warn("paying ended early", "error", r.err)
		}
		close(r.done)
		if gaveUp {
			p.failNext(r.err)
		}
	}
}

// failNext ends the next run with the error of the one before: it would fail, too, and its callers
// have waited long enough.
func (p *Payer) failNext(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.next != nil {
		p.next.err = err
		p.next.cancel(nil)
		close(p.next.done)
		p.next = nil
	}
}

// unsettled counts the unsettled invoices up to through, or returns -1.
func (p *Payer) unsettled(ctx context.Context, through int64) (count int) {
	ctx, cancel := context.WithTimeout(ctx, bookkeeping)
	defer cancel()
	err := p.persist(ctx, func(ctx context.Context) (err error) {
		count, _, err = p.ledger.Unsettled(ctx, through)
		return err
	})
	if err != nil {
		return -1
	}
	return count
}

// persist calls ask, which uses the ledger, and repeats it while that may help and ctx is not
// done. It calls ask at least once, and does not cancel it: what the database has claimed by then
// would have to wait until its lease expires.
func (p *Payer) persist(ctx context.Context, ask func(context.Context) error) error {
	for wait := firstWait; ; wait = min(2*wait, maxWait) {
		asking, cancel := context.WithTimeout(context.WithoutCancel(ctx), bookkeeping)
		err := ask(asking)
		cancel()
		if err == nil || !p.cfg.Transient(err) {
			return err
		}
		p.lagging.note(err, 1)
		if sleep(ctx, p.about(wait)); ctx.Err() != nil {
			return err
		}
	}
}

// about returns a random time between half of wait and wait, so that the replicas do not act in
// unison.
func (p *Payer) about(wait time.Duration) time.Duration { return jitter(wait, p.cfg.Random) }

func jitter(wait time.Duration, random func(int64) int64) time.Duration {
	return wait/2 + time.Duration(random(int64(wait)))/2
}

// sleep waits unless ctx is done.
func sleep(ctx context.Context, wait time.Duration) {
	select {
	case <-time.After(wait):
	case <-ctx.Done():
	}
}
