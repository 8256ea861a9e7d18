package invoice

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"
)

const (
	// tripAfter is how many payments in a row must fail before there is only one call at a time:
	// enough not to slow down for a hiccup.
	tripAfter = 8
	// A provider that is down gets a call after minProbe, and then less and less often, up to
	// maxProbe, for as long as it stays down.
	minProbe = 250 * time.Millisecond
	maxProbe = 2 * time.Second
	// enoughProbes is how many calls for invoices at random places must fail before a run gives up,
	// however short its patience.
	enoughProbes = 4
	// nextInvoice is the pause if the provider responds but fails these invoices: the ones behind
	// them may be fine, and must be reached.
	nextInvoice = 20 * time.Millisecond
	// logEvery is the shortest time between two log lines about the same trouble.
	logEvery = 5 * time.Second
)

// down reports whether err means that the provider takes no payments at all now, and not only that
// it failed this one.
func down(err error) bool {
	return errors.Is(err, ErrDown) || errors.Is(err, context.DeadlineExceeded)
}

// breaker keeps a process from calling a failing provider as fast as it fails.
type breaker struct {
	random func(n int64) int64

	mu       sync.Mutex
	failures int           // in a row
	down     bool          // according to the last failure
	pause    time.Duration // before the next probe
	probes   int           // while it is down
}

// worked closes the breaker.
func (b *breaker) worked() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failures, b.down, b.pause, b.probes = 0, false, 0, 0
}

// failed records a payment without a verdict.
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

// answers records that the provider responds, although it failed these invoices.
func (b *breaker) answers() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.down, b.pause, b.probes = false, nextInvoice, 0
}

// tripped reports whether there must be only one call at a time, with which pause before it, and
// whether the provider is down.
func (b *breaker) tripped() (pause time.Duration, isDown, is bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failures < tripAfter {
		return 0, false, false
	}
	return jitter(b.pause, b.random), b.down, true
}

// probe counts a call to a provider that is down; unsure reports whether there were too few of
// them to be sure.
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

// trouble logs the first of many similar errors, and then their number.
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
