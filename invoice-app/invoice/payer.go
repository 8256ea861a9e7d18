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
	// Pay returns nil only if the provider has said that it has taken this
	// invoice's payment. A *Rejection is its verdict that it never will. After
	// any other error nothing is known: the payment may or may not be taken. One
	// that wraps ErrDown says that other invoices would fare no better now.
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
	Lease       time.Duration    // how long a claim lasts; longer than Timeout by a good margin
	Timeout     time.Duration    // of one call to the provider
	Patience    time.Duration    // a run gives up after so long without a settled invoice
	Answer      time.Duration    // PayAll returns after so long; what it began goes on
	RunTimeout  time.Duration    // of all that one PayAll begins
	Transient   func(error) bool // whether an error of the Ledger may be gone at the next try; nil: none
}

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
	breaker  breaker
	failing  trouble // payments
	lagging  trouble // the ledger

	working sync.WaitGroup // the goroutine that does the runs, if there is one

	mu      sync.Mutex // guards what follows
	current *run       // at work
	next    *run       // has not begun
	busy    bool       // somebody does the runs
	stopped bool
}

// NewPayer returns a Payer that pays ledger's invoices through provider.
func NewPayer(ledger Ledger, provider Provider, cfg PayerConfig, log *slog.Logger) *Payer {
	if cfg.Transient == nil {
		cfg.Transient = func(error) bool { return false }
	}
	return &Payer{
		ledger: ledger, provider: provider, cfg: cfg, log: log,
		slots:   semaphore.NewWeighted(int64(cfg.Concurrency)),
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
func (p *Payer) PayAll(ctx context.Context) error {
	r := p.join(ctx)
	if r == nil {
		return &RemainingError{Unpaid: -1, Cause: ErrStopping}
	}
	answer := time.NewTimer(p.cfg.Answer)
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

// join returns a run that has not begun, with one caller more who waits for it,
// or nil if there will be no more runs.
func (p *Payer) join(ctx context.Context) *run {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped {
		return nil
	}
	if p.next == nil {
		p.next = &run{Payer: p, done: make(chan struct{})}
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
		p.lagging.note(err)
		if sleep(ctx, wait/2+rand.N(wait)/2); ctx.Err() != nil {
			return err
		}
	}
}

// sleep waits, for as long as ctx is not done.
func sleep(ctx context.Context, wait time.Duration) {
	select {
	case <-time.After(wait):
	case <-ctx.Done():
	}
}

// run settles the invoices that are there when it begins.
type run struct {
	*Payer
	ctx      context.Context // done when the run has to end early
	cancel   context.CancelCauseFunc
	waiting  int  // callers; guarded by Payer.mu, as the next
	detached bool // a caller was told that it goes on

	done chan struct{} // closed at its end; err does not change then
	err  error

	through int64 // the snapshot: invoices up to this Seq
	cursor  int64 // invoices up to this Seq had their turn
	round   bool  // each invoice had one
	inHand  sync.WaitGroup

	settling  sync.Mutex // guards what follows
	settledAt time.Time  // when an invoice was last settled, or the start
	failure   error      // what the provider or the ledger last failed with, nil once it works again
}

// settle is the whole run. It returns what PayAll does.
func (r *run) settle() error {
	ctx, cancel := context.WithTimeout(r.ctx, r.cfg.RunTimeout)
	defer cancel()
	r.settledAt = time.Now()
	err := r.ask(ctx, func(ctx context.Context) (err error) {
		r.through, err = r.ledger.LastSeq(ctx)
		return err
	})
	if err != nil {
		return &RemainingError{Unpaid: -1, Cause: err}
	}
	cause := r.untilSettled(ctx)
	r.inHand.Wait()
	if cause == nil {
		return nil
	}
	// Asked after ctx is done, too: its end is often the reason to count.
	count := r.unsettled(context.WithoutCancel(ctx), r.through)
	if count == 0 { // the last ones in hand settled it
		return nil
	}
	return &RemainingError{Unpaid: count, Cause: cause}
}

// ask asks the ledger, and bears with it as long as with the provider.
func (r *run) ask(ctx context.Context, question func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Patience)
	defer cancel()
	return r.persist(ctx, question)
}

// untilSettled claims and pays until nothing of the snapshot is unsettled, and
// returns nil then, or why it ended before.
func (r *run) untilSettled(ctx context.Context) error {
	for {
		if pause, _, tripped := r.breaker.tripped(); tripped {
			r.inHand.Wait()
			sleep(ctx, pause)
		}
		slots, err := r.acquire(ctx)
		if err != nil {
			return context.Cause(ctx)
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
		var count int
		var wait time.Duration
		err = r.ask(ctx, func(ctx context.Context) (err error) {
			count, wait, err = r.ledger.Unsettled(ctx, r.through)
			return err
		})
		if err != nil || count == 0 {
			return err
		}
		// A little at least, and not all replicas at the same instant.
		wait = min(max(wait, poll/10), poll)
		sleep(ctx, wait/2+rand.N(wait)/2)
	}
}

// over says why the run has to end now, or nil.
func (r *run) over(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	_, isDown, tripped := r.breaker.tripped()
	r.settling.Lock()
	defer r.settling.Unlock()
	switch {
	case r.failure == nil, time.Since(r.settledAt) <= r.cfg.Patience:
		return nil
	case tripped && isDown && r.breaker.unsure(), tripped && !isDown && !r.round:
		return nil // behind those that the provider fails may be some that it takes
	}
	return r.failure
}

// acquire waits for one free slot and takes up to as many as are free, or one
// if the provider fails everything.
func (r *run) acquire(ctx context.Context) (int, error) {
	if err := r.slots.Acquire(ctx, 1); err != nil {
		return 0, err
	}
	n := 1
	for n < r.cfg.Concurrency && r.slots.TryAcquire(1) {
		n++
	}
	if _, _, tripped := r.breaker.tripped(); tripped {
		r.slots.Release(int64(n - 1))
		n = 1
	}
	return n, nil
}

// claim claims invoices behind the cursor, and goes back to the first one when
// there are none. It walks over what was paid before only then: a database keeps
// the index entries of those for a while.
func (r *run) claim(ctx context.Context, limit int) (claims []Claim, err error) {
	after := r.cursor
	if _, isDown, tripped := r.breaker.tripped(); tripped && isDown && r.through > r.cursor {
		// Perhaps it is only these invoices that get no answer: try one elsewhere.
		after += rand.Int64N(r.through - r.cursor)
		r.breaker.probe()
	}
	for {
		err = r.ask(ctx, func(ctx context.Context) (err error) {
			claims, err = r.ledger.Claim(ctx, after, r.through, limit, r.cfg.Lease)
			return err
		})
		switch {
		case err != nil:
			return nil, err
		case len(claims) > 0:
			if after == r.cursor {
				for _, c := range claims {
					r.cursor = max(r.cursor, c.Seq)
				}
			}
			return claims, nil
		case after > r.cursor:
			after = r.cursor
		case r.cursor > 0:
			after, r.cursor, r.round = 0, 0, true
		default:
			r.round = true
			return nil, nil
		}
	}
}

// pay settles one claimed invoice, or releases it. No transaction is open while
// the provider is asked.
func (r *run) pay(ctx context.Context, claim Claim) {
	calling, cancel := context.WithTimeout(ctx, r.cfg.Timeout)
	answer := r.provider.Pay(calling, claim.Invoice)
	cancel()

	var rejection *Rejection
	verdict := answer == nil || errors.As(answer, &rejection)
	if verdict {
		r.breaker.worked()
	} else {
		answer = fmt.Errorf("%w: %w", ErrProvider, answer)
		r.breaker.failed(answer)
	}
	log := r.log.With("invoice", claim.ID, "attempt", claim.Attempt)
	err := r.write(ctx, func(ctx context.Context) error {
		switch {
		case answer == nil:
			return r.ledger.MarkPaid(ctx, claim.ID)
		case rejection != nil:
			return r.ledger.Reject(ctx, claim, rejection.Reason)
		}
		return r.ledger.Release(ctx, claim, backoff(claim.Attempt))
	})
	switch {
	case err != nil:
		// The claim runs out, and asking the provider again is safe.
		r.lagging.note(fmt.Errorf("outcome not written down: %w", err))
		log.Debug("outcome not written down", "error", err)
	case rejection != nil:
		log.Warn("invoice rejected", "reason", rejection.Reason)
	case !verdict:
		r.failing.note(answer)
		log.Debug("payment not confirmed", "error", answer)
	}

	r.settling.Lock()
	defer r.settling.Unlock()
	switch {
	case err != nil:
		r.failure = err
	case !verdict:
		r.failure = answer
	default:
		r.settledAt, r.failure = time.Now(), nil
	}
}

// write writes down what the provider said, within the time for that.
func (r *run) write(ctx context.Context, statement func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, bookkeeping)
	defer cancel()
	return r.persist(ctx, statement)
}

// backoff is how long an invoice rests after its attempt-th failure.
func backoff(attempt int) time.Duration {
	wait := maxWait
	if attempt < 10 { // beyond that the shift is over maxWait, and could overflow
		wait = min(firstWait<<(attempt-1), maxWait)
	}
	return wait/2 + rand.N(wait)/2
}
