package server

import (
	"context"
	"errors"
	"sync"
	"time"
)

const (
	readyEvery   = time.Second     // the minimum time between two checks
	readyTimeout = 2 * time.Second // less than the kubelet's timeout
)

// readiness runs its check at most once per second and one at a time, regardless of the number of
// callers. Only the caller that starts a check waits for it; the others get the previous result,
// so a check that hangs blocks nobody else.
type readiness struct {
	check func(context.Context) error

	mu      sync.Mutex
	running bool
	asked   time.Time
	last    error
}

func newReadiness(check func(context.Context) error) *readiness {
	return &readiness{check: check, last: errors.New("the first check is still running")}
}

func (r *readiness) ask() error {
	r.mu.Lock()
	if r.running || time.Since(r.asked) < readyEvery {
		defer r.mu.Unlock()
		return r.last
	}
	r.running = true
	r.mu.Unlock()

	// Not the caller's context: the result is for the others, too.
	ctx, cancel := context.WithTimeout(context.Background(), readyTimeout)
	checked := make(chan struct{})
	go func() {
		defer close(checked)
		defer cancel()
		err := r.check(ctx)
		r.mu.Lock()
		defer r.mu.Unlock()
		r.running, r.asked, r.last = false, time.Now(), err
	}()
	select {
	case <-checked:
	case <-ctx.Done():
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.running {
		r.last = errors.New("the check hangs")
	}
	return r.last
}
