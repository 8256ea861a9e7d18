package invoice

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// run settles the invoices that exist when it begins.
type run struct {
	*Payer
	ctx      context.Context // done if the run must end early
	cancel   context.CancelCauseFunc
	waiting  int  // callers; guarded by Payer.mu, like detached
	detached bool // a caller was told that paying continues

	done chan struct{} // closed at the end, after which err does not change
	err  error

	through int64     // the snapshot: invoices up to this Seq
	cursor  int64     // invoices up to this Seq have had their turn
	round   bool      // every invoice has had a turn
	began   time.Time // when the round began
	inHand  sync.WaitGroup
	ended   chan struct{} // holds an element if a call has just ended

	settling  sync.Mutex // guards the fields below
	settledAt time.Time  // when an invoice was last settled, or the start
	failure   error      // the last error of the provider or the ledger; nil once it works again
	confirmed *Invoice   // one that the provider has confirmed in this run
	// suspects are invoices of failed calls, by Seq, until they have been sent alone, and until
	// when they rest before that.
	suspects map[int64]time.Time
}

// settle does the whole run. It returns what PayAll returns.
func (r *run) settle() error {
	ctx, cancel := context.WithTimeout(r.ctx, r.cfg.RunTimeout)
	defer cancel()
	r.settledAt, r.began, r.suspects = time.Now(), time.Now(), map[int64]time.Time{}
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
	// Also after ctx is done: that is often the reason to count.
	count := r.unsettled(context.WithoutCancel(ctx), r.through)
	if count == 0 { // the last calls in progress have settled everything
		return nil
	}
	return &RemainingError{Unpaid: count, Cause: cause}
}

// ask calls the ledger, with the same patience as for the provider.
func (r *run) ask(ctx context.Context, question func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Patience)
	defer cancel()
	return r.persist(ctx, question)
}

// untilSettled claims and pays until nothing of the snapshot is unsettled, and then returns nil,
// or why it ended early.
func (r *run) untilSettled(ctx context.Context) error {
	for {
		if _, _, tripped := r.breaker.tripped(); tripped {
			r.inHand.Wait()
			pause, isDown, _ := r.breaker.tripped() // according to the last call
			sleep(ctx, pause)
			if isDown {
				r.askAgain(ctx)
			}
		}
		if err := r.slots.Acquire(ctx, 1); err != nil {
			return context.Cause(ctx)
		}
		if err := r.over(ctx); err != nil { // checked last: waiting for a slot may have taken long
			r.slots.Release(1)
			return err
		}
		claims, at, err := r.claim(ctx, r.batchSize())
		if err != nil {
			r.slots.Release(1)
			return err
		}
		if len(claims) > 0 {
			r.send(context.WithoutCancel(ctx), claims, at.Add(r.cfg.sendBy()))
			continue
		}
		r.slots.Release(1)
		var count int
		var wait time.Duration
		err = r.ask(ctx, func(ctx context.Context) (err error) {
			count, wait, err = r.ledger.Unsettled(ctx, r.through)
			return err
		})
		if err != nil || count == 0 {
			return err
		}
		// The rest may be with other replicas, or in calls that are in progress.
		pause := time.NewTimer(r.about(min(max(wait, poll/10), poll)))
		select {
		case <-pause.C:
		case <-r.ended:
		case <-ctx.Done():
		}
		pause.Stop()
	}
}

// over returns why the run must end now, or nil.
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
	case tripped && isDown && r.breaker.unsure():
		return nil
	case !isDown && (len(r.suspects) > 0 || tripped && !r.round):
		return nil // the provider may still take some of the remaining invoices
	}
	return r.failure
}

// askAgain requests a payment that the provider has already confirmed. If it confirms that again,
// the provider is not down: it fails only these invoices.
func (r *run) askAgain(ctx context.Context) {
	r.settling.Lock()
	confirmed := r.confirmed
	r.settling.Unlock()
	if confirmed == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Timeout)
	defer cancel()
	if r.provider.Pay(ctx, []Invoice{*confirmed})[0] == nil {
		r.breaker.answers()
	}
}

// batchSize returns how many invoices the next call should have: the fewer are left, the fewer a
// call gets, so that a late replica still finds some, and all finish at about the same time.
func (r *run) batchSize() int {
	if _, _, tripped := r.breaker.tripped(); tripped {
		return 1
	}
	left := max(r.through-r.cursor, 0)
	return int(min(int64(r.size.get()), max(left/8, firstBatch)))
}

// send sends claimed invoices to the provider; the caller has acquired one slot. Invoices that
// nobody has tried before are sent together. One that was claimed before is sent alone: it may be
// what held up the others. Those that get no slot by sendBy, or while the provider fails
// everything, are left for a later claim.
func (r *run) send(ctx context.Context, claims []Claim, sendBy time.Time) {
	var fresh []Claim
	var calls [][]Claim
	for _, c := range claims {
		if c.Attempt == 1 {
			fresh = append(fresh, c)
		} else {
			calls = append(calls, []Claim{c})
		}
	}
	if len(fresh) > 0 {
		calls = slices.Insert(calls, 0, fresh)
	}
	inTime, cancel := context.WithDeadline(ctx, sendBy)
	defer cancel()
	for n, call := range calls {
		if n > 0 && !r.acquire(inTime) {
			r.leaveUnsent(ctx, slices.Concat(calls[n:]...))
			return
		}
		r.inHand.Go(func() {
			defer r.callEnded()
			if time.Now().After(sendBy) { // the claim took long, or this process was suspended
				r.leaveUnsent(ctx, call)
				return
			}
			r.pay(ctx, call)
		})
	}
}

// acquire waits for one more slot. It returns false if none became free in time, or if the
// provider began to fail everything.
func (r *run) acquire(inTime context.Context) bool {
	if r.slots.Acquire(inTime, 1) != nil {
		return false
	}
	_, _, tripped := r.breaker.tripped()
	if tripped {
		r.slots.Release(1)
	}
	return !tripped
}

func (r *run) callEnded() {
	r.slots.Release(1)
	select {
	case r.ended <- struct{}{}:
	default: // it already has an element
	}
}

// claim claims invoices behind the cursor, and starts again at the first one when there are none.
// Only then does it pass over what was paid before, whose index entries a database keeps for a
// while. at is the time of the call: the lease is not older.
func (r *run) claim(ctx context.Context, limit int) (claims []Claim, at time.Time, err error) {
	after := r.cursor
	if _, isDown, tripped := r.breaker.tripped(); tripped && isDown && r.through > r.cursor {
		// Perhaps the provider fails only these invoices: try one elsewhere.
		after += r.cfg.Random(r.through - r.cursor)
		r.breaker.probe()
	}
	for {
		err = r.ask(ctx, func(ctx context.Context) (err error) {
			at = time.Now()
			claims, err = r.ledger.Claim(ctx, after, r.through, limit, r.cfg.Lease)
			return err
		})
		switch {
		case err != nil:
			return nil, at, err
		case len(claims) > 0:
			if after == r.cursor {
				for _, c := range claims {
					r.cursor = max(r.cursor, c.Seq)
				}
			}
			return claims, at, nil
		case after > r.cursor:
			after = r.cursor
		case r.cursor > 0:
			r.endRound()
			after, r.cursor = 0, 0
		default:
			r.endRound()
			return nil, at, nil
		}
	}
}

// endRound forgets the suspects that could have been claimed during the whole round but were not:
// another replica has them.
func (r *run) endRound() {
	r.settling.Lock()
	defer r.settling.Unlock()
	maps.DeleteFunc(r.suspects, func(_ int64, rests time.Time) bool { return rests.Before(r.began) })
	r.round, r.began = true, time.Now()
}

// pay settles the invoices of one call, or releases them. No transaction is open during the call.
func (r *run) pay(ctx context.Context, claims []Claim) {
	invoices := make([]Invoice, len(claims))
	for n, c := range claims {
		invoices[n] = c.Invoice
	}
	calling, cancel := context.WithTimeout(ctx, r.cfg.Timeout)
	start := time.Now()
	answers := r.provider.Pay(calling, invoices)
	took := time.Since(start)
	cancel()

	var paid []Claim
	var rejected []Rejected
	var released []Released
	var failure error // the last one
	for n, claim := range claims {
		var rejection *Rejection
		switch {
		case answers[n] == nil:
			paid = append(paid, claim)
		case errors.As(answers[n], &rejection):
			rejected = append(rejected, Rejected{claim, rejection.Reason})
			r.log.Warn("invoice rejected", "invoice", claim.ID, "reason", rejection.Reason)
		default:
			failure = fmt.Errorf("%w: %w", ErrProvider, answers[n])
			released = append(released, Released{claim, r.backoff(claim.Attempt)})
			r.log.Debug("payment not confirmed", "invoice", claim.ID, "attempt", claim.Attempt, "error", failure)
		}
	}
	if len(released) < len(claims) {
		r.breaker.worked()
	} else {
		r.breaker.failed(failure)
	}
	r.size.learn(len(claims), took, r.cfg.Timeout, failure)
	if failure != nil {
		r.failing.note(failure, len(released))
	}
	err := errors.Join(
		write(ctx, r, r.ledger.MarkPaid, paid),
		write(ctx, r, r.ledger.Reject, rejected),
		write(ctx, r, r.ledger.Release, released),
	)

	r.settling.Lock()
	defer r.settling.Unlock()
	if err == nil && len(released) < len(claims) {
		r.settledAt, r.failure = time.Now(), nil
	}
	if len(paid) > 0 {
		r.confirmed = &paid[0].Invoice
	}
	for _, c := range claims {
		delete(r.suspects, c.Seq)
	}
	if len(claims) > 1 {
		for _, c := range released {
			r.suspects[c.Seq] = time.Now().Add(c.Wait)
		}
	}
	if err = cmp.Or(err, failure); err != nil {
		r.failure = err
	}
}

// leaveUnsent releases claims that could not be sent in time.
func (r *run) leaveUnsent(ctx context.Context, claims []Claim) {
	released := make([]Released, len(claims))
	for n, c := range claims {
		released[n] = Released{c, 0}
	}
	_ = write(ctx, r, r.ledger.Release, released)
}

// write records the outcome of claims, within the time for that. If it fails, the claims expire,
// and requesting the payments again is safe.
func write[T any](ctx context.Context, r *run, statement func(context.Context, []T) error, claims []T) error {
	if len(claims) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, bookkeeping)
	defer cancel()
	err := r.persist(ctx, func(ctx context.Context) error { return statement(ctx, claims) })
	if err != nil {
		r.lagging.note(fmt.Errorf("outcome not recorded: %w", err), len(claims))
	}
	return err
}

// backoff returns how long an invoice rests after this many attempts.
func (r *run) backoff(attempt int) time.Duration {
	wait := maxWait
	if attempt < 10 { // from there on the result would exceed maxWait, and could overflow
		wait = min(firstWait<<(attempt-1), maxWait)
	}
	return r.about(wait)
}

// batchSize adapts the number of invoices in a call: the faster the calls, the more.
type batchSize struct {
	most int

	mu  sync.Mutex
	now int
}

func (b *batchSize) get() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.now
}

// learn adapts to a call with n invoices that took this long, and to its failure, if there was
// one.
func (b *batchSize) learn(n int, took, timeout time.Duration, failure error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case failure != nil && n == 1: // a fault of the invoice, or of the provider as a whole
	case failure != nil, took > timeout/4:
		b.now = max(b.now/2, 1)
	case n >= b.now && took < timeout/8:
		b.now = min(2*b.now, b.most)
	}
}
