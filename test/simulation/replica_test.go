package simulation

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"example.com/invoices/invoice-app/invoice"
)

// place is where one replica runs after the other.
type place struct {
	*world
	name    string
	callers sync.WaitGroup
	replica *replica // the latest
}

// replica is a Payer in its process. It is the Payer's Ledger and Provider: each call may fail on
// its way to their models.
type replica struct {
	*world
	name  string
	payer *invoice.Payer

	// These are guarded by world.mu.
	dead      bool
	frozen    time.Time           // until then
	held      map[int64]time.Time // when the leases of claims that it knows of end, by Seq
	confirmed map[int64]bool      // payments that it knows to be taken, by Seq
}

func (p *place) start(number int) {
	r := &replica{
		world: p.world, name: fmt.Sprint(p.name, number), held: map[int64]time.Time{}, confirmed: map[int64]bool{},
	}
	cfg := p.cfg
	cfg.Random = func(n int64) int64 { return p.dice(r.name+"random", n).Int64N(n) }
	r.payer = invoice.NewPayer(r, r, cfg, quietLog)
	p.replica = r
}

// run starts replicas, lets clients call them, and ends them, until there are no more faults. The
// last one stays.
func (p *place) run() {
	for number := 1; ; number++ {
		p.start(number)
		r := p.replica
		dice := p.dice(r.name + "life")
		left := time.Until(p.calm)
		if left <= 0 {
			return
		}
		for range 1 + dice.IntN(2) {
			r.call(&p.callers, between(dice, 0, left))
		}
		if chance(dice, p.faults.freeze) {
			r.freeze(between(dice, 0, left), between(dice, 0, 2*p.cfg.Lease))
		}
		end := between(dice, 0, left)
		switch {
		case chance(dice, p.faults.crash):
			p.sleep(context.Background(), end)
			r.crash()
		case chance(dice, p.faults.stop):
			p.sleep(context.Background(), end)
			r.mark("is told to stop")
			r.payer.Close()
			r.mark("has stopped")
		default:
			return
		}
		p.sleep(context.Background(), between(dice, 0, time.Second))
	}
}

// call lets a client call after a while. Some leave before they get a response.
func (r *replica) call(callers *sync.WaitGroup, after time.Duration) {
	callers.Go(func() {
		r.sleep(context.Background(), after)
		ctx := context.Background()
		if dice := r.dice(r.name + "client"); chance(dice, r.faults.leave) {
			leaving, cancel := context.WithCancel(ctx)
			ctx = leaving
			stay := between(dice, 0, 2*time.Second)
			callers.Go(func() {
				r.sleep(context.Background(), stay)
				cancel()
			})
		}
		r.payAll(ctx)
	})
}

// payAll lets the Payer pay, and checks that its result is true.
func (r *replica) payAll(ctx context.Context) {
	if r.thaw(); ctx.Err() != nil {
		return // whether such a run begins at all is up to Go's scheduler
	}
	called, through := time.Now(), r.mark("is called")
	err := r.payer.PayAll(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.dead {
		return
	}
	r.note(r.name, "answers", nil, fmt.Sprint(err))
	for seq := int64(1); err == nil && seq <= through; seq++ {
		row := r.ledger.Row(seq)
		if !row.Settled() && r.claims[seq-1].retried.Before(called) {
			r.violate(honestNil, "%s says so, but %s is unsettled", r.name, row.ID)
		}
	}
	var remaining *invoice.RemainingError
	if errors.As(err, &remaining) && remaining.Unpaid == 0 {
		r.violate(honestNil, "%s says that nothing remains, and fails", r.name)
	}
}

// crash ends everything that the replica does. What it has sent may arrive.
func (r *replica) crash() {
	r.mu.Lock()
	r.dead = true
	r.note(r.name, "crashes", nil, "")
	r.mu.Unlock()
	// This ends its goroutines: none of their calls goes anywhere.
	r.payer.Stop()
	r.background.Go(r.payer.Close)
}

// freeze suspends the replica after a while, for a while: nothing leaves it, and nothing reaches
// it. Time continues.
func (r *replica) freeze(after, length time.Duration) {
	r.background.Go(func() {
		r.sleep(context.Background(), after)
		r.mu.Lock()
		r.frozen = time.Now().Add(min(length, max(time.Until(r.calm), 0)))
		r.note(r.name, "freezes", nil, fmt.Sprint("for ", time.Until(r.frozen).Round(time.Millisecond)))
		r.mu.Unlock()
	})
}

// thaw waits while the replica is frozen, and reports whether it was.
func (r *replica) thaw() bool {
	r.mu.Lock()
	wait := time.Until(r.frozen)
	r.mu.Unlock()
	if wait <= 0 {
		return false
	}
	r.sleep(context.Background(), wait)
	return true
}

// comeBack ends a call: at a unique instant, and not before the replica thaws.
func (r *replica) comeBack(dice *rand.Rand) {
	r.sleep(context.Background(), between(dice, 0, time.Millisecond))
	if r.thaw() {
		r.sleep(context.Background(), between(dice, 0, time.Millisecond))
	}
}

func (r *replica) isDead() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.dead
}

func (r *replica) mark(what string) (invoices int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.note(r.name, what, nil, "")
	return int64(len(r.claims))
}
