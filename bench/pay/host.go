package main

import (
	"log"
	"os"
	"sync"
)

// host replaces a *testing.T outside of tests: a failed check ends the program, after cleaning up.
type host struct {
	mu       sync.Mutex
	cleanups []func()
	failed   bool
}

func (h *host) Helper() {}

func (h *host) Logf(format string, args ...any) { log.Printf(format, args...) }

func (h *host) Errorf(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.failed = true
	log.Printf(format, args...)
}

func (h *host) FailNow() {
	h.end()
	os.Exit(1)
}

func (h *host) Failed() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.failed
}

// Cleanup registers f to be called at the end, in reverse order.
func (h *host) Cleanup(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.cleanups = append(h.cleanups, f)
}

func (h *host) end() {
	for {
		h.mu.Lock()
		last := len(h.cleanups) - 1
		if last < 0 {
			h.mu.Unlock()
			return
		}
		f := h.cleanups[last]
		h.cleanups = h.cleanups[:last]
		h.mu.Unlock()
		f()
	}
}
