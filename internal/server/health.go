package server

import (
	"context"
	"sync"
	"time"
)

// readiness asks at most once a second, however many ask it.
type readiness struct {
	check func(context.Context) error

	mu    sync.Mutex
	asked time.Time
	last  error
}

func (r *readiness) ask() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Since(r.asked) < time.Second {
		return r.last
	}
	// Not the caller's context: the answer is for the others too.
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	r.last = r.check(ctx)
	r.asked = time.Now()
	return r.last
}
