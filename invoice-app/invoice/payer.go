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

// Provider takes payments. It may be asked for the same invoice any number of
// times, and takes it once.
type Provider interface {
	// Pay asks for the payments of invoices, and returns what was said of each, in
	// their order. That is nil only if the provider has said that it has taken
	// this invoice's payment. A *Rejection is its verdict that it never will.
	// After any other error nothing is known: the payment may or may not be taken.
	// One that wraps ErrDown says that other invoices would fare no better now.
	Pay(ctx context.Context, invoices []Invoice) []error
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

// UnderwayError says that paying takes longer than a caller should wait for one
// answer. It goes on without the caller.
type UnderwayError struct {
	Unpaid int // invoices that are neither paid nor rejected so far; -1 if they could not be counted
}

func (e *UnderwayError) Error() string { return "paying goes on" }

var (
	// ErrProvider says that the provider gives no verdict.
	ErrProvider = errors.New("payment-provider gives no usable answer")
	// ErrDown says that the provider takes no payments at all now.
	ErrDown = errors.New("payment-provider is down")
	// ErrStopping says that this process is about to end.
	ErrStopping = errors.New("this replica is stopping")
)

// PayerConfig is how a Payer pays.
type PayerConfig struct {
	Concurrency int              // calls to the provider at once
	Batch       int              // invoices in one call at most
	Lease       time.Duration    // how long a claim lasts; longer than Timeout by a good margin
	Timeout     time.Duration    // of one call to the provider
	Patience    time.Duration    // a run gives up after so long without a settled invoice
	Answer      time.Duration    // PayAll returns after so long; what it began goes on
	RunTimeout  time.Duration    // of all that one PayAll begins
	Transient   func(error) bool // whether an error of the Ledger may be gone at the next try; nil: none
	// Random returns a number from 0 to below n; nil: that of math/rand/v2. All
	// chance in a Payer comes from it.
	Random func(n int64) int64
}

// sendBy is how long after a claim its invoices may still be sent: a call that
// begins then ends well inside the lease.
func (c PayerConfig) sendBy() time.Duration { return (c.Lease - c.Timeout) / 2 }

const (
	// How long a failed invoice, or question to the ledger, waits before it is
	// tried again: a random part of firstWait doubled at each attempt, and of
	// maxWait at most.
	firstWait = 100 * time.Millisecond
	maxWait   = 2 * time.Second
	// poll is the longest pause between two looks at invoices that another
	// replica has claimed: it may finish long before its lease ends.
	poll = 250 * time.Millisecond
	// bookkeeping bounds each question to the ledger, and writing down what the
	// provider said: a database that hangs must not hold anybody for long.
	bookkeeping = 5 * time.Second
	// firstBatch is how many invoices the first call has, and from then on the
	// least that a call gets for fear that there will be none for others.
	firstBatch = 16
)

// Payer pays invoices. One Payer serves a whole process: it pays in runs, one
// at a time. A caller waits for a run that begins after the call, which makes
// one run at work and one to follow, however many callers there are.
type Payer struct {
	ledger   Ledger
	provider Provider
	cfg      PayerConfig
	log      *slog.Logger
	slots    *semaphore.Weighted // one a call under way
	size     batchSize
	breaker  breaker
	failing  trouble // payments
	lagging  trouble // the ledger

	working sync.WaitGroup // the goroutine that does the runs, if there is one

	mu      sync.Mutex // guards what follows
	current *run       // at work
	next    *run       // has not begun
	busy    bool       // somebody does the runs
	last    error      // what the last run that ended returned
	stopped bool
}

// NewPayer returns a Payer that pays ledger's invoices through provider.
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
		failing: trouble{log: log, message: "payments not confirmed, will be tried again"},
		lagging: trouble{log: log, message: "the ledger fails, will be asked again"},
	}
}

// Stop makes every run finish the invoices in hand and claim no more.
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

// Close is Stop, and waits for the invoices in hand.
func (p *Payer) Close() {
	p.Stop()
	p.working.Wait()
}

// PayAll settles every invoice that is unsettled when it is called, the ones
// that another replica is paying included: it returns nil only when each of
// them is paid or rejected, and a *RemainingError if it gave up before. When that
// takes longer than cfg.Answer it returns an *UnderwayError, and paying goes on.
// When ctx is done it returns as well; the invoices in hand are settled, and no
// more are claimed unless another caller waits or was told that paying goes on.
func (p *Payer) PayAll(ctx context.Context) error { return p.PayWithin(ctx, p.cfg.Answer) }

// PayWithin is PayAll for a caller that wants its answer sooner, or later, than
// cfg.Answer.
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

// Status says whether a run is at work in this process, and what the last one
// that ended returned.
func (p *Payer) Status() (paying bool, last error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.busy, p.last
}

// join returns a run that has not begun, with one caller more who waits for it,
// or nil if there will be no more runs.
func (p *Payer) join(ctx context.Context) *run {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped {
		return nil
	}
	if p.next == nil {
		p.next = &run{Payer: p, done: make(chan struct{}), ended: make(chan struct{}, 1)}
		// The run outlives its first caller, and keeps what its logs need of it.
		p.next.ctx, p.next.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	}
	if !p.busy {
		p.busy = true
		p.working.Go(p.work)
	}
	p.next.waiting++
	return p.next
}

// leave takes a caller away from r, who does not want it any more.
func (p *Payer) leave(r *run, cause error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r.waiting--
	if r.waiting > 0 || r.detached {
		return
	}
	r.cancel(cause)
	if p.next == r { // a caller who joined it would get nothing
		p.next = nil
	}
}

// work does one run after the other, until nobody wants another one.
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

// failNext ends the run to follow with what the one before it failed with: it
// would fare no better, and its callers have waited for long enough.
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

// persist asks the ledger, again and again while that may help, until ctx is
// done. One try is made in any case, and none is cut short: what the database
// has claimed by then would have to wait for its lease to run out.
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

// about is a random time between half of wait and wait: not all replicas do the
// same at the same instant.
func (p *Payer) about(wait time.Duration) time.Duration { return jitter(wait, p.cfg.Random) }

func jitter(wait time.Duration, random func(int64) int64) time.Duration {
	return wait/2 + time.Duration(random(int64(wait)))/2
}

// sleep waits, for as long as ctx is not done.
func sleep(ctx context.Context, wait time.Duration) {
	select {
	case <-time.After(wait):
	case <-ctx.Done():
	}
}
