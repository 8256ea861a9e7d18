package simulation

import (
	"context"
	"errors"
	"fmt"
	"time"

	"example.com/invoices/invoice-app/invoice"
)

var (
	errUnavailable = errors.New("the ledger is unavailable")
	errCrashed     = errors.New("this replica has crashed")
)

// ask is a replica's request to the ledger: the request takes a while to arrive, has its effect,
// and the response takes a while to return. Either may get lost, and what ctx no longer waits for
// may happen all the same. result describes the effect.
func ask(
	ctx context.Context, r *replica, what string, seqs []int64, effect func(), result func() string,
) error {
	w := r.world
	dice := w.dice(r.name+what, seqs...)
	r.thaw()
	if r.isDead() {
		return errCrashed
	}
	way, back := between(dice, 0, 5*time.Millisecond), between(dice, 0, 5*time.Millisecond)
	if w.faulty(dice, w.faults.slowLedger) {
		way = between(dice, 0, 2*w.cfg.Lease)
	}
	if w.faulty(dice, w.faults.slowLedger) {
		back = between(dice, 0, 2*w.cfg.Lease)
	}
	happen := func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		effect()
		if w.recording {
			w.note(r.name, what, seqs, result())
		}
	}
	fail := func(result string) error {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.note(r.name, what, seqs, result)
		return fmt.Errorf("%w: %s", errUnavailable, result)
	}
	switch {
	case w.faulty(dice, w.faults.ledgerDown):
		w.sleep(ctx, way)
		r.comeBack(dice)
		return fail("ledger is down")
	case w.faulty(dice, w.faults.requestLost):
		<-ctx.Done()
		r.comeBack(dice)
		return fail("request lost")
	case !w.sleep(ctx, way):
		if chance(dice, 0.5) {
			w.later(way, happen)
		}
		r.comeBack(dice)
		return fail("timeout")
	case r.isDead() && chance(dice, 0.5):
		return errCrashed
	}
	happen()
	lost := w.faulty(dice, w.faults.answerLost)
	if lost {
		back = between(dice, 0, time.Second) // a cut connection is noticed sooner or later
	}
	inTime := w.sleep(ctx, back)
	r.comeBack(dice)
	switch {
	case r.isDead():
		return errCrashed
	case lost || !inTime:
		return fail("answer lost")
	}
	return nil
}

// LastSeq implements invoice.Ledger, like the methods below. After an error the effect may still
// happen, so the result is not used.
func (r *replica) LastSeq(ctx context.Context) (int64, error) {
	var last int64
	err := ask(ctx, r, "asks for the last", nil, func() {
		last, _ = r.world.ledger.LastSeq(ctx)
	}, func() string { return fmt.Sprint("I", last) })
	if err != nil {
		return 0, err
	}
	return last, nil
}

func (r *replica) Claim(
	ctx context.Context, after, through int64, limit int, lease time.Duration,
) ([]invoice.Claim, error) {
	w := r.world
	var claims []invoice.Claim
	var until time.Time
	err := ask(ctx, r, "claims", nil, func() {
		claims, _ = w.ledger.Claim(ctx, after, through, limit, lease)
		until = time.Now().Add(lease)
		for _, c := range claims {
			last := &w.claims[c.Seq-1]
			if c.Attempt <= last.attempt || time.Now().Before(last.until) {
				w.violate(oneOwner, "%s claims %s, attempt %d, with %s left of attempt %d",
					r.name, c.ID, c.Attempt, time.Until(last.until), last.attempt)
			}
			last.attempt, last.until = c.Attempt, until
		}
	}, func() string {
		got := list(claims, func(c invoice.Claim) string { return fmt.Sprintf("%s#%d", c.ID, c.Attempt) })
		return fmt.Sprintf("of I%d to I%d, %d at most: %s", after+1, through, limit, got)
	})
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range claims {
		r.held[c.Seq] = until
	}
	return claims, nil
}

func (r *replica) MarkPaid(ctx context.Context, claims []invoice.Claim) error {
	w := r.world
	seqs := seqsOf(claims, func(c invoice.Claim) int64 { return c.Seq })
	return ask(ctx, r, "marks paid", seqs, func() {
		_ = w.ledger.MarkPaid(ctx, claims)
		w.checkRows(seqs)
	}, func() string { return "done" })
}

func (r *replica) Reject(ctx context.Context, rejected []invoice.Rejected) error {
	w := r.world
	seqs := seqsOf(rejected, func(c invoice.Rejected) int64 { return c.Seq })
	return ask(ctx, r, "rejects", seqs, func() {
		before := make([]invoice.Claim, len(seqs))
		for n, seq := range seqs {
			before[n] = w.ledger.Row(seq)
		}
		_ = w.ledger.Reject(ctx, rejected)
		w.checkRows(seqs)
		for n, c := range rejected {
			after := w.ledger.Row(c.Seq)
			switch {
			case before[n].Paid && !after.Paid:
				w.violate(paidMeansPaid, "%s was paid, and is not any more", c.ID)
			case c.Attempt != w.claims[c.Seq-1].attempt && before[n].Rejected != after.Rejected:
				w.violate(onlyVerdicts, "%s rejects %s, attempt %d, when attempt %d is under way",
					r.name, c.ID, c.Attempt, w.claims[c.Seq-1].attempt)
			}
		}
	}, func() string {
		return list(rejected, func(c invoice.Rejected) string { return fmt.Sprintf("%s#%d", c.ID, c.Attempt) })
	})
}

func (r *replica) Release(ctx context.Context, released []invoice.Released) error {
	w := r.world
	seqs := seqsOf(released, func(c invoice.Released) int64 { return c.Seq })
	return ask(ctx, r, "releases", seqs, func() {
		_ = w.ledger.Release(ctx, released)
		for _, c := range released {
			if last := &w.claims[c.Seq-1]; last.attempt == c.Attempt {
				last.until = time.Now().Add(c.Wait)
			}
		}
	}, func() string {
		return list(released, func(c invoice.Released) string {
			return fmt.Sprintf("%s#%d for %s", c.ID, c.Attempt, c.Wait.Round(time.Millisecond))
		})
	})
}

func (r *replica) Unsettled(ctx context.Context, through int64) (int, time.Duration, error) {
	var count int
	var wait time.Duration
	err := ask(ctx, r, "counts the unsettled", nil, func() {
		count, wait, _ = r.world.ledger.Unsettled(ctx, through)
	}, func() string { return fmt.Sprintf("%d, the next in %s", count, wait.Round(time.Millisecond)) })
	if err != nil {
		return 0, 0, err
	}
	return count, wait, nil
}
