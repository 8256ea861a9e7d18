package main

import (
	"encoding/json"
	"net/http"
	"sync"
	"time"
)

// status is what the supervisor says of itself: GET /?program=SHA-256 is answered once the program serves or has
// failed, or after a while.
type status struct {
	mu              sync.Mutex
	changed         chan struct{} // closed when what follows changes
	serving, newest *binary
	failed          string // why newest does not serve
}

// answer is the response.
type answer struct {
	Serves bool
	Failed string // why the program did not start
}

// answerAfter is how long a request waits for a change.
const answerAfter = 5 * time.Second

func (s *status) publish(serving, newest *binary) {
	failed := ""
	if newest != nil {
		failed = newest.failed
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if serving == s.serving && newest == s.newest && failed == s.failed {
		return
	}
	s.serving, s.newest, s.failed = serving, newest, failed
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *status) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	program, late := r.URL.Query().Get("program"), time.After(answerAfter)
	for {
		s.mu.Lock()
		serving, newest, failed, changed := s.serving, s.newest, s.failed, s.changed
		s.mu.Unlock()
		a := answer{Serves: serving != nil && serving.sum() == program}
		if !a.Serves && failed != "" && newest.sum() == program {
			a.Failed = failed
		}
		wait := !a.Serves && a.Failed == ""
		if wait {
			select {
			case <-changed:
				continue
			case <-late:
			case <-r.Context().Done():
				return
			}
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(a) // the builder may have left
		return
	}
}
