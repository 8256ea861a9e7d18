package simulation

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"example.com/invoices/internal/money"
	"example.com/invoices/invoice-app/invoice"
)

// bank is the model of the provider. It is guarded by world.mu.
type bank struct {
	payments map[string]payment // by the invoice's id
	quirks   map[string]quirk
	said     map[string]bool // IDs that were rejected
}

type payment struct {
	amount money.Amount
	times  int
}

// quirk is how the provider treats an invoice, besides taking its payment.
type quirk struct {
	mismatched    bool      // it has a payment of another amount
	refusedUntil  time.Time // until then the payment counts as invalid
	poisonedUntil time.Time // until then every call with it fails
}

func newBank() *bank {
	return &bank{payments: map[string]payment{}, quirks: map[string]quirk{}, said: map[string]bool{}}
}

// expect decides how the provider treats i.
func (b *bank) expect(i invoice.Invoice, w *world, dice *rand.Rand) {
	q := quirk{mismatched: chance(dice, w.faults.mismatched)}
	if q.mismatched {
		b.payments[i.ID] = payment{money.Amount{Minor: 1, Currency: i.Amount.Currency}, 1}
	}
	if chance(dice, w.faults.refused) {
		q.refusedUntil = w.start.Add(between(dice, 0, w.calm.Sub(w.start)))
	}
	if chance(dice, w.faults.poisoned) {
		q.poisonedUntil = w.start.Add(between(dice, 0, w.calm.Sub(w.start)))
	}
	b.quirks[i.ID] = q
}

// takes reports whether the payment of i is taken sooner or later.
func (b *bank) takes(id string) bool { return !b.quirks[id].mismatched }

// refusal is the provider's reason for not taking a payment.
func refusal(id string) string { return "refused: " + id }

// take takes the payment of i, unless it exists, and returns the verdict.
func (b *bank) take(i invoice.Invoice) error {
	kept, there := b.payments[i.ID]
	switch {
	case there && kept.amount == i.Amount:
		return nil
	case there, time.Now().Before(b.quirks[i.ID].refusedUntil):
		b.said[i.ID] = true
		return &invoice.Rejection{Reason: refusal(i.ID)}
	}
	b.payments[i.ID] = payment{i.Amount, kept.times + 1}
	return nil
}

var (
	errFailed = errors.New("status 500")
	errUnsaid = errors.New("status 200 without this invoice")
)

// Pay implements invoice.Provider.
func (r *replica) Pay(ctx context.Context, invoices []invoice.Invoice) []error {
	w := r.world
	seqs := seqsOf(invoices, func(i invoice.Invoice) int64 { return i.Seq })
	dice := w.dice(r.name+"pay", seqs...)
	r.checkSent(invoices)
	answer := func(err error) []error { return slices.Repeat([]error{err}, len(invoices)) }
	r.thaw()
	if r.isDead() {
		return answer(errCrashed)
	}
	way, back := between(dice, 0, 20*time.Millisecond), between(dice, 0, 20*time.Millisecond)
	if w.faulty(dice, w.faults.slowProvider) {
		way = between(dice, 0, 2*w.cfg.Timeout)
	}
	if w.faulty(dice, w.faults.slowProvider) {
		back = between(dice, 0, 2*w.cfg.Timeout)
	}
	var verdicts []error
	take := func() { verdicts = r.take(invoices, seqs) }
	fail := func(result string, err error) []error {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.note(r.name, "pay", seqs, result)
		return answer(err)
	}
	switch {
	case w.faulty(dice, w.faults.providerDown):
		w.sleep(ctx, way)
		r.thaw()
		return fail("provider is down", fmt.Errorf("%w: connection refused", invoice.ErrDown))
	case w.faulty(dice, w.faults.failed) || r.poisoned(invoices):
		w.sleep(ctx, way)
		r.thaw()
		return fail("status 500, not taken", errFailed)
	case w.faulty(dice, w.faults.paymentLost):
		<-ctx.Done()
		r.comeBack(dice)
		return fail("request lost", ctx.Err())
	}
	if !w.sleep(ctx, way) {
		if chance(dice, 0.5) { // it is in transit, and arrives
			w.later(way, take)
		}
		r.comeBack(dice)
		return fail("timeout", ctx.Err())
	}
	if r.isDead() && chance(dice, 0.5) {
		return answer(errCrashed)
	}
	take()
	switch {
	case w.faulty(dice, w.faults.verdictLost):
		<-ctx.Done()
		r.comeBack(dice)
		return fail("answer lost", ctx.Err())
	case w.faulty(dice, w.faults.cut):
		w.sleep(ctx, back)
		r.comeBack(dice)
		return fail("status 500 after all was taken", errFailed)
	case !w.sleep(ctx, back):
		r.comeBack(dice)
		return fail("answer late", ctx.Err())
	}
	r.comeBack(dice)
	if r.isDead() {
		return answer(errCrashed)
	}
	r.hear(invoices, verdicts, seqs)
	return verdicts
}

// take is the effect of a call. It returns a result for each invoice.
func (r *replica) take(invoices []invoice.Invoice, seqs []int64) []error {
	w := r.world
	dice := w.dice(r.name+"is heard", seqs...)
	answers := make([]error, len(invoices))
	w.mu.Lock()
	defer w.mu.Unlock()
	verdicts := make([]string, len(invoices))
	for n, i := range invoices {
		switch untaken := w.faulty(dice, w.faults.unsaid); {
		case untaken && chance(dice, 0.5):
			verdicts[n], answers[n] = "not taken", errUnsaid
			continue
		case untaken:
			verdicts[n], answers[n] = "taken, unsaid", errUnsaid
			_ = w.bank.take(i)
			continue
		}
		answers[n], verdicts[n] = w.bank.take(i), "taken"
		if answers[n] != nil {
			verdicts[n] = "refused"
		}
	}
	w.note("provider", "gets from "+r.name, seqs, strings.Join(verdicts, ", "))
	return answers
}

// hear passes a response to the replica.
func (r *replica) hear(invoices []invoice.Invoice, answers []error, seqs []int64) {
	w := r.world
	w.mu.Lock()
	defer w.mu.Unlock()
	for n, i := range invoices {
		if answers[n] == nil {
			r.confirmed[i.Seq] = true
		}
	}
	w.note(r.name, "pay", seqs, "answered")
}

func (r *replica) poisoned(invoices []invoice.Invoice) bool {
	r.world.mu.Lock()
	defer r.world.mu.Unlock()
	return slices.ContainsFunc(invoices, func(i invoice.Invoice) bool {
		return time.Now().Before(r.world.bank.quirks[i.ID].poisonedUntil)
	})
}

// checkSent checks that a call with these invoices ends before their claims do, even if it takes
// as long as it can. Payments that the provider has confirmed can be requested at any time.
func (r *replica) checkSent(invoices []invoice.Invoice) {
	w := r.world
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, i := range invoices {
		left := time.Until(r.held[i.Seq])
		if left < w.cfg.Timeout && !r.confirmed[i.Seq] && !r.dead {
			w.violate(sentInTime, "%s sends %s with %s left of its lease, for a call of up to %s",
				r.name, i.ID, left, w.cfg.Timeout)
		}
	}
}

func seqsOf[T any](list []T, seq func(T) int64) []int64 {
	seqs := make([]int64, len(list))
	for n, item := range list {
		seqs[n] = seq(item)
	}
	return seqs
}
