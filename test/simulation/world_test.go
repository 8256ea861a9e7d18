package simulation

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/invoices/internal/money"
	"example.com/invoices/invoice-app/invoice"
	"example.com/invoices/invoice-app/invoice/ledgertest"
)

// rule is a rule that every schedule must keep.
type rule string

const (
	atMostOnce    rule = "an invoice has at most one payment"
	paidMeansPaid rule = "an invoice marked paid has a payment of its amount"
	onlyVerdicts  rule = "a rejected invoice has the provider's verdict, given to its latest claim"
	oneOwner      rule = "an invoice is claimed by one at a time, until its lease ends"
	sentInTime    rule = "an invoice is sent only while a call ends well inside its lease"
	honestNil     rule = "PayAll returns nil only when everything of its snapshot is settled"
	settled       rule = "everything is settled soon after the faults stop"
	nothingLeft   rule = "a Payer that is closed leaves no goroutine"
)

// settledWithin is how long after the last fault everything must be settled.
const settledWithin = time.Minute

// world is one schedule: some replicas, a ledger and a provider, and everything that happens to
// them. All of it follows from seed.
type world struct {
	seed   uint64
	start  time.Time
	calm   time.Time // there are no faults from then on
	cfg    invoice.PayerConfig
	faults faults
	ledger *ledgertest.Ledger
	bank   *bank

	background sync.WaitGroup // events that nobody waits for

	mu        sync.Mutex // guards the fields below
	instants  map[time.Time]bool
	claims    []lastClaim // by Seq-1
	violated  rule        // the first
	violation string
	recording bool
	history   history
}

// lastClaim is what the check knows about an invoice's latest claim.
type lastClaim struct {
	attempt int
	until   time.Time
	retried time.Time // when an operator last unparked the invoice
}

// faults are the probabilities of each kind of fault, from 0 to 1. In each schedule about half of
// the kinds are absent: some faults hide others.
type faults struct {
	ledgerDown, requestLost, answerLost, slowLedger     float64
	providerDown, failed, paymentLost, verdictLost, cut float64
	unsaid, slowProvider, poisoned, mismatched, refused float64
	freeze, crash, stop, leave                          float64
}

func newWorld(seed uint64, recording bool) *world {
	w := &world{
		seed: seed, recording: recording, start: time.Now(),
		instants: map[time.Time]bool{},
	}
	dice := w.dice("world")
	lease := between(dice, 1500*time.Millisecond, 4*time.Second)
	w.calm = w.start.Add(between(dice, time.Second, 6*time.Second))
	w.cfg = invoice.PayerConfig{
		Concurrency: 1 + dice.IntN(3),
		Batch:       1 + dice.IntN(8),
		Lease:       lease,
		Timeout:     between(dice, 100*time.Millisecond, lease/2),
		Patience:    between(dice, 0, 5*time.Second),
		Answer:      between(dice, 500*time.Millisecond, 10*time.Second),
		RunTimeout:  between(dice, 5*time.Second, time.Minute),
		Transient:   func(err error) bool { return errors.Is(err, errUnavailable) },
	}
	for _, rate := range []*float64{
		&w.faults.ledgerDown, &w.faults.requestLost, &w.faults.answerLost, &w.faults.slowLedger,
		&w.faults.providerDown, &w.faults.failed, &w.faults.paymentLost, &w.faults.verdictLost, &w.faults.cut,
		&w.faults.unsaid, &w.faults.slowProvider, &w.faults.poisoned, &w.faults.mismatched, &w.faults.refused,
		&w.faults.freeze, &w.faults.crash, &w.faults.stop, &w.faults.leave,
	} {
		if dice.IntN(2) == 0 {
			*rate = []float64{0.03, 0.1, 0.3, 0.6}[dice.IntN(4)]
		}
	}
	w.ledger, w.bank = ledgertest.New(), newBank()
	for range 2 + dice.IntN(5) {
		w.addInvoice()
	}
	return w
}

// addInvoice lets an invoice arrive, and decides what happens to it.
func (w *world) addInvoice() {
	w.mu.Lock()
	defer w.mu.Unlock()
	seq := len(w.claims) + 1
	dice := w.dice("invoice", int64(seq))
	i := invoice.Invoice{
		ID:     fmt.Sprint("I", seq),
		Amount: money.Amount{Minor: int64(100*seq + dice.IntN(100)), Currency: "EUR"},
	}
	w.claims = append(w.claims, lastClaim{})
	w.ledger.Add(i)
	w.bank.expect(i, w, dice)
	w.note("client", "sends", []int64{int64(seq)}, fmt.Sprintf("%d %s", i.Amount.Minor, i.Amount.Currency))
}

// dice are the random numbers of one event. They depend on the event alone, not on earlier random
// numbers: goroutines that run at the same instant may do so in any order.
func (w *world) dice(what string, about ...int64) *rand.Rand {
	hash := fnv.New64a()
	key := append(make([]byte, 0, 128), what...)
	key = binary.LittleEndian.AppendUint64(key, uint64(time.Since(w.start)))
	for _, n := range about {
		key = binary.LittleEndian.AppendUint64(key, uint64(n))
	}
	_, _ = hash.Write(key)
	return rand.New(rand.NewPCG(w.seed, hash.Sum64()))
}

func between(dice *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(dice.Int64N(int64(most-least)+1))
}

func chance(dice *rand.Rand, probability float64) bool { return dice.Float64() < probability }

// faulty reports whether there are still faults, and then throws the dice.
func (w *world) faulty(dice *rand.Rand, probability float64) bool {
	return chance(dice, probability) && time.Now().Before(w.calm)
}

// sleep waits until a unique instant about wait from now, or until ctx is done, and reports
// whether it was the former. With one event at a time, a schedule is always the same.
func (w *world) sleep(ctx context.Context, wait time.Duration) bool {
	w.mu.Lock()
	now := time.Now()
	at := now.Add(max(wait, time.Microsecond))
	for w.instants[at] {
		at = at.Add(time.Nanosecond)
	}
	w.instants[at] = true
	w.mu.Unlock()
	if ctx.Done() == nil {
		time.Sleep(at.Sub(now))
		return true
	}
	timer := time.NewTimer(at.Sub(now))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (w *world) sleepUntil(at time.Time) { w.sleep(context.Background(), time.Until(at)) }

// violate records that a rule is violated. Only the first violation counts: others may follow from
// it. The caller holds w.mu.
func (w *world) violate(r rule, format string, args ...any) {
	if w.violated == "" {
		w.violated, w.violation = r, fmt.Sprintf(format, args...)
		w.note("check", "VIOLATION", nil, string(r)+": "+w.violation)
	}
}

// note adds a line to the history, if there is one. The caller holds w.mu.
func (w *world) note(who, what string, seqs []int64, result string) {
	if w.recording {
		w.history = append(w.history, event{time.Since(w.start), who, what, seqs, result})
	}
}

// later lets something happen that nobody waits for.
func (w *world) later(wait time.Duration, happen func()) {
	w.background.Go(func() {
		w.sleep(context.Background(), wait)
		happen()
	})
}

// checkRows checks invoices after a change. The caller holds w.mu.
func (w *world) checkRows(seqs []int64) {
	for _, seq := range seqs {
		w.checkRow(w.ledger.Row(seq))
	}
}

// outcome is the result of a schedule.
type outcome struct {
	violated  rule // or ""
	violation string
	history   history
	quiet     time.Duration // from the last fault until everything was settled
}

// simulate runs the schedule of seed, with a history or, which is faster, without.
func simulate(t *testing.T, seed uint64, recording bool) (o outcome) {
	var w *world
	defer func() {
		if left := recover(); left != nil { // from synctest: goroutines wait for something that will never happen
			w.mu.Lock()
			w.violate(nothingLeft, "%v", left)
			w.mu.Unlock()
			o = w.outcome()
		}
	}()
	synctest.Test(t, func(*testing.T) {
		w = newWorld(seed, recording)
		o.quiet = w.run()
	})
	quiet := o.quiet
	o = w.outcome()
	o.quiet = quiet
	return o
}

func (w *world) outcome() outcome {
	return outcome{violated: w.violated, violation: w.violation, history: w.history.sorted()}
}

// run runs the schedule, and then waits until everything is settled.
func (w *world) run() (quiet time.Duration) {
	dice := w.dice("run")
	var late, slots sync.WaitGroup
	for range dice.IntN(3) {
		arrival := between(dice, 0, w.calm.Sub(w.start))
		late.Go(func() {
			w.sleepUntil(w.start.Add(arrival))
			w.addInvoice()
		})
	}
	places := make([]*place, 2+dice.IntN(2))
	for n := range places {
		places[n] = &place{world: w, name: string(rune('A' + n))}
		slots.Go(places[n].run)
	}
	slots.Wait()
	late.Wait()
	w.sleepUntil(w.calm)
	last := places[dice.IntN(len(places))].replica
	for !w.allSettled() && time.Since(w.calm) <= settledWithin {
		w.retryRejected()
		last.payAll(context.Background())
		w.sleep(context.Background(), 100*time.Millisecond)
	}
	quiet = time.Since(w.calm)
	for _, p := range places {
		p.replica.payer.Close()
		p.callers.Wait()
	}
	w.background.Wait()
	w.checkEnd()
	return quiet
}

// retryRejected does what an operator does who knows that a rejection was the provider's mistake.
func (w *world) retryRejected() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, row := range w.ledger.Rows() {
		if row.Rejected == "" || !w.bank.takes(row.ID) {
			continue
		}
		if err := w.ledger.Retry(context.Background(), row.ID); err == nil {
			w.claims[row.Seq-1].retried, w.claims[row.Seq-1].until = time.Now(), time.Now()
			w.note("operator", "retries", []int64{row.Seq}, "")
		}
	}
}

// allSettled reports whether every invoice is in its final state.
func (w *world) allSettled() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, row := range w.ledger.Rows() {
		if row.Paid != w.bank.takes(row.ID) || !row.Settled() {
			return false
		}
	}
	return true
}

func (w *world) checkEnd() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, row := range w.ledger.Rows() {
		w.checkRow(row)
		if row.Paid != w.bank.takes(row.ID) || !row.Settled() {
			w.violate(settled, "%s is %s %s after the last fault", row.ID, state(row.Invoice), time.Since(w.calm))
		}
	}
	for id, p := range w.bank.payments {
		if p.times > 1 {
			w.violate(atMostOnce, "%s was paid %d times", id, p.times)
		}
	}
}

// checkRow checks an invoice after a change. The caller holds w.mu.
func (w *world) checkRow(row invoice.Claim) {
	if row.Paid && w.bank.payments[row.ID].amount != row.Amount {
		w.violate(paidMeansPaid, "%s is marked paid, but there is no payment of %v", row.ID, row.Amount)
	}
	if row.Rejected != "" && (row.Rejected != refusal(row.ID) || !w.bank.said[row.ID]) {
		w.violate(onlyVerdicts, "%s is rejected by %q, which the provider has not said of it", row.ID, row.Rejected)
	}
}

func state(i invoice.Invoice) string {
	switch {
	case i.Paid:
		return "paid"
	case i.Rejected != "":
		return "rejected"
	}
	return "unsettled"
}

var quietLog = slog.New(slog.DiscardHandler)
