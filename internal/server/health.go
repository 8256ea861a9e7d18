package server

import (
	"context"
	"errors"
	"sync"
	"time"
)

const (
	readyEvery   = time.Second     // the check is asked at most so often
	readyTimeout = 2 * time.Second // less than the kubelet waits
)

// readiness asks its check at most once a second and once at a time, however
// many ask it. Only the one who starts a check waits for it, the others get
// the answer before: a check that hangs makes nobody hang.
type readiness struct {
	check func(context.Context) error

	mu      sync.Mutex
	running bool
	asked   time.Time
	last    error
}

func newReadiness(check func(context.Context) error) *readiness {
	return &readiness{check: check, last: errors.New("the first check has not ended yet")}
}

func (r *readiness) ask() error {
	r.mu.Lock()
	if r.running || time.Since(r.asked) < readyEvery {
		defer r.mu.Unlock()
		return r.last
	}
	r.running = true
	r.mu.Unlock()

	// Not the caller's context: the answer is for the others too.
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
		r.last = errors.New("the check does not end")
	}
	return r.last
}
