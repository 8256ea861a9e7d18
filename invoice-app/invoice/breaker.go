package invoice

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"
)

const (
	// tripAfter is how many payments in a row fail before there is only one call
	// at a time: enough not to slow down for a hiccup.
	tripAfter = 8
	// A provider that is down gets a call after minProbe, and a call less often,
	// up to maxProbe, for as long as it stays down.
	minProbe = 250 * time.Millisecond
	maxProbe = 2 * time.Second
	// enoughProbes of invoices at random places get no answer before a run gives
	// up, however short its patience.
	enoughProbes = 4
	// nextInvoice is the pause where the provider answers, and merely fails these
	// invoices: the ones behind them may be fine, and have to be reached.
	nextInvoice = 20 * time.Millisecond
	// logEvery is the shortest time between two lines about the same trouble.
	logEvery = 5 * time.Second
)

// down reports whether err says that the provider takes no payment at all now,
// and not only that it failed one.
func down(err error) bool {
	return errors.Is(err, ErrDown) || errors.Is(err, context.DeadlineExceeded)
}

// breaker keeps a process from calling a provider that fails everything as fast
// as it fails.
type breaker struct {
	random func(n int64) int64

	mu       sync.Mutex
	failures int           // in a row
	down     bool          // what the last of them said
	pause    time.Duration // before the next probe
	probes   int           // while it is down
}

// worked closes the breaker.
func (b *breaker) worked() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failures, b.down, b.pause, b.probes = 0, false, 0, 0
}

// failed counts a payment that got no verdict.
func (b *breaker) failed(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failures++
	b.down = down(err)
	switch {
	case b.failures < tripAfter:
	case !b.down:
		b.pause = nextInvoice
	default:
		b.pause = min(max(2*b.pause, minProbe), maxProbe)
	}
}

// answers says that the provider answers, though it failed these invoices.
func (b *breaker) answers() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.down, b.pause, b.probes = false, nextInvoice, 0
}

// tripped reports whether there must be only one call at a time, after what
// pause, and whether the provider is down.
func (b *breaker) tripped() (pause time.Duration, isDown, is bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failures < tripAfter {
		return 0, false, false
	}
	return jitter(b.pause, b.random), b.down, true
}

// probe counts a call to a provider that is down, and unsure reports whether
// there were too few of them to be sure.
func (b *breaker) probe() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.probes++
}

func (b *breaker) unsure() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.probes < enoughProbes
}

// trouble logs the first of many errors of a kind, and then how many there were.
type trouble struct {
	log     *slog.Logger
	message string

	mu     sync.Mutex
	logged time.Time
	hidden int // since then
}

func (t *trouble) note(err error, times int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.hidden += times
	if time.Since(t.logged) < logEvery {
		return
	}
	t.log.Warn(t.message, "error", err, "times", t.hidden)
	t.logged, t.hidden = time.Now(), 0
}
