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

// run settles the invoices that are there when it begins.
type run struct {
	*Payer
	ctx      context.Context // done when the run has to end early
	cancel   context.CancelCauseFunc
	waiting  int  // callers; guarded by Payer.mu, as the next
	detached bool // a caller was told that it goes on

	done chan struct{} // closed at its end; err does not change then
	err  error

	through int64     // the snapshot: invoices up to this Seq
	cursor  int64     // invoices up to this Seq had their turn
	round   bool      // each invoice had one
	began   time.Time // when the round did
	inHand  sync.WaitGroup
	ended   chan struct{} // holds one if a call has ended lately

	settling  sync.Mutex // guards what follows
	settledAt time.Time  // when an invoice was last settled, or the start
	failure   error      // what the provider or the ledger last failed with, nil once it works again
	confirmed *Invoice   // one that the provider has said it took, in this run
	// suspects are invoices of calls that failed, by Seq, until they have had a
	// call of their own, and until when they rest before that.
	suspects map[int64]time.Time
}

// settle is the whole run. It returns what PayAll does.
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
		if _, _, tripped := r.breaker.tripped(); tripped {
			r.inHand.Wait()
			pause, isDown, _ := r.breaker.tripped() // what the last call has shown
			sleep(ctx, pause)
			if isDown {
				r.askAgain(ctx)
			}
		}
		if err := r.slots.Acquire(ctx, 1); err != nil {
			return context.Cause(ctx)
		}
		if err := r.over(ctx); err != nil { // asked last: waiting for a slot may have taken long
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
		// Others may have what is left, or the calls that are under way.
		pause := time.NewTimer(r.about(min(max(wait, poll/10), poll)))
		select {
		case <-pause.C:
		case <-r.ended:
		case <-ctx.Done():
		}
		pause.Stop()
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
	case tripped && isDown && r.breaker.unsure():
		return nil
	case !isDown && (len(r.suspects) > 0 || tripped && !r.round):
		return nil // among those that the provider fails, or behind them, may be some that it takes
	}
	return r.failure
}

// askAgain asks for a payment that the provider has confirmed. If it does so
// again it is not down: it is these invoices that get no answer.
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

// batchSize is how many invoices the next call should have. The fewer are left,
// the fewer a call gets: a replica that comes late finds some, and all end at
// about the same time.
func (r *run) batchSize() int {
	if _, _, tripped := r.breaker.tripped(); tripped {
		return 1
	}
	left := max(r.through-r.cursor, 0)
	return int(min(int64(r.size.get()), max(left/8, firstBatch)))
}

// send sends claimed invoices to the provider; one slot is there already. Those
// that nobody has tried before go together. One that was claimed before goes
// alone: it may be what has held up the others. What gets no slot until sendBy, or
// while the provider fails everything, is left to a later claim.
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
			if time.Now().After(sendBy) { // the claim took its time, or this process stood still
				r.leaveUnsent(ctx, call)
				return
			}
			r.pay(ctx, call)
		})
	}
}

// acquire waits for one more slot. It reports false if none came free in time, or
// the provider fails everything meanwhile.
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
	default: // it holds one
	}
}

// claim claims invoices behind the cursor, and goes back to the first one when
// there are none. It walks over what was paid before only then: a database keeps
// the index entries of those for a while.
// at is when the database was asked: the lease is no older.
func (r *run) claim(ctx context.Context, limit int) (claims []Claim, at time.Time, err error) {
	after := r.cursor
	if _, isDown, tripped := r.breaker.tripped(); tripped && isDown && r.through > r.cursor {
		// Perhaps it is only these invoices that get no answer: try one elsewhere.
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

// endRound forgets the suspects that could be claimed throughout the round, and
// were not: another replica has them.
func (r *run) endRound() {
	r.settling.Lock()
	defer r.settling.Unlock()
	maps.DeleteFunc(r.suspects, func(_ int64, rests time.Time) bool { return rests.Before(r.began) })
	r.round, r.began = true, time.Now()
}

// pay settles the invoices of one call, or releases them. No transaction is open
// while the provider is asked.
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

// leaveUnsent gives back claims that could not be sent in time.
func (r *run) leaveUnsent(ctx context.Context, claims []Claim) {
	released := make([]Released, len(claims))
	for n, c := range claims {
		released[n] = Released{c, 0}
	}
	_ = write(ctx, r, r.ledger.Release, released)
}

// write writes down what became of claims, within the time for that. Where it
// fails the claims run out, and asking the provider again is safe.
func write[T any](ctx context.Context, r *run, statement func(context.Context, []T) error, claims []T) error {
	if len(claims) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, bookkeeping)
	defer cancel()
	err := r.persist(ctx, func(ctx context.Context) error { return statement(ctx, claims) })
	if err != nil {
		r.lagging.note(fmt.Errorf("outcome not written down: %w", err), len(claims))
	}
	return err
}

// backoff is how long an invoice rests after its attempt-th failure.
func (r *run) backoff(attempt int) time.Duration {
	wait := maxWait
	if attempt < 10 { // beyond that the shift is over maxWait, and could overflow
		wait = min(firstWait<<(attempt-1), maxWait)
	}
	return r.about(wait)
}

// batchSize is how many invoices a call has: the more the quicker the calls are.
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

// learn learns from a call of n invoices, that took so long of the time it had,
// and from its failure, if there was one.
func (b *batchSize) learn(n int, took, timeout time.Duration, failure error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case failure != nil && n == 1: // that is the invoice's, or the provider's as a whole
	case failure != nil, took > timeout/4:
		b.now = max(b.now/2, 1)
	case n >= b.now && took < timeout/8:
		b.now = min(2*b.now, b.most)
	}
}
