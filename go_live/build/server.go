package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// failedTrailer ends a response if what was asked for failed.
const failedTrailer = "Failed"

// server serves the engine's clients, at a socket that only this user can open.
type server struct {
	*engine
	project string // the folder of the Tiltfile
	locks   map[string]*os.File

	requests sync.WaitGroup
}

func socketOf(folder string) string { return filepath.Join(folder, "socket") }

// endPatience is how long the watcher of a `tilt up` that was just stopped may take to end.
const endPatience = 3 * time.Second

// serve runs the engine and its server until ctx ends.
func (s *server) serve(ctx context.Context) error {
	err := s.lock(s.folder)
	for began := time.Now(); err != nil && time.Since(began) < endPatience; err = s.lock(s.folder) {
		time.Sleep(quiet)
	}
	if err != nil {
		return err
	}
	socket := socketOf(s.folder)
	for _, old := range []string{socket, s.mirror.folder, s.recorder.folder} {
		if err := os.RemoveAll(old); err != nil {
			return err
		}
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	if err := os.Chmod(socket, 0o600); err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /build", s.build)
	mux.HandleFunc("POST /test", s.test)
	mux.HandleFunc("GET /wait", s.wait)
	web := &http.Server{Handler: mux, BaseContext: func(net.Listener) context.Context { return ctx }}
	s.touch("started") // Tilt runs the commands that register the programs
	go func() {
		s.run(ctx)
		_ = web.Close()
	}()
	if err := web.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	s.requests.Wait() // tests remove their files
	return nil
}

// lock makes this process the only one that builds into a folder.
func (s *server) lock(folder string) error {
	if s.locks[folder] != nil {
		return nil
	}
	file, err := os.OpenFile(filepath.Join(folder, "lock"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	var owner struct {
		PID      int    `json:"pid"`
		Checkout string `json:"checkout"`
	}
	for range 5 { // somebody may have a look whether it is locked
		if err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); !errors.Is(err, syscall.EWOULDBLOCK) {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	if errors.Is(err, syscall.EWOULDBLOCK) {
		_ = json.NewDecoder(file).Decode(&owner) // it may be about to be written
		file.Close()
		return fmt.Errorf("the pods run what `tilt up` builds in %s (process %d): stop it, then try again",
			owner.Checkout, owner.PID)
	} else if err != nil {
		return err
	}
	owner.PID, owner.Checkout = os.Getpid(), s.project
	text, err := json.Marshal(owner)
	if err == nil {
		err = file.Truncate(0)
	}
	if err == nil {
		_, err = file.Write(text)
	}
	s.locks[folder] = file
	return err
}

// build registers a program, and follows its current update.
func (s *server) build(w http.ResponseWriter, r *http.Request) {
	var p program
	if err := json.NewDecoder(r.Body).Decode(&p); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	err := s.lock(p.Folder)
	if err == nil && s.shared[p.Folder] == nil {
		s.shared[p.Folder], err = os.Stat(p.Folder)
	}
	s.mu.Unlock()
	if err != nil {
		http.Error(w, err.Error(), http.StatusConflict)
		return
	}
	t := s.register(p)
	s.change(func() { t.followers++ })
	w.Header().Set("Trailer", failedTrailer)
	sent, failed := "", false
	for settled := false; !settled; {
		text := ""
		if s.await(r.Context(), func() bool {
			text, settled = t.said, t.settled
			failed = t.update.Error != ""
			if s.targets[p.Name] != t { // nobody builds it any more
				text, settled, failed = t.said+p.Name+" is built with other options now\n", true, true
			}
			if settled {
				t.told = true
				t.followers-- // now, because Tilt must be told of a newer update from here on
			}
			return text != sent || settled
		}) != nil {
			s.change(func() { t.followers-- })
			w.Header().Set(failedTrailer, "yes") // the watcher ends, if the client has not
			return
		}
		if !strings.HasPrefix(text, sent) { // a newer update
			sent = ""
		}
		_, _ = io.WriteString(w, text[len(sent):]) // the client may have left
		_ = http.NewResponseController(w).Flush()
		sent = text
	}
	if failed {
		w.Header().Set(failedTrailer, "yes")
	}
}

// test runs the tests with the flags of the query.
func (s *server) test(w http.ResponseWriter, r *http.Request) {
	s.requests.Add(1)
	defer s.requests.Done()
	w.Header().Set("Trailer", failedTrailer)
	passed, err := s.runTests(r.Context(), flushed{w}, r.URL.Query()["flag"])
	if err != nil || !passed {
		w.Header().Set(failedTrailer, "yes")
	}
}

// flushed sends everything at once.
type flushed struct{ http.ResponseWriter }

func (f flushed) Write(text []byte) (int, error) {
	n, err := f.ResponseWriter.Write(text)
	_ = http.NewResponseController(f.ResponseWriter).Flush()
	return n, err
}

// report says whether what is on disk is what every pod runs, and whether its tests have run.
type report struct {
	Live    bool     `json:"live"`
	Error   string   `json:"error,omitempty"` // the first one
	Updates []update `json:"updates"`
	Tests   *testRun `json:"tests"` // null if they have not run for this code
}

// testsPatience is how long the command that runs the tests may take to start.
const testsPatience = 5 * time.Second

// wait answers when everything is up to date.
func (s *server) wait(w http.ResponseWriter, r *http.Request) {
	found, err := s.report(r.Context())
	if err != nil {
		http.Error(w, "`tilt up` ends", http.StatusServiceUnavailable) // or the client has left
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(found)
}

// settle returns the targets once they are what is on disk now, or have failed.
func (s *server) settle(ctx context.Context) (targets []*target, err error) {
	asked := 0
	s.change(func() {
		s.asked++
		asked = s.asked
		s.look()
	})
	err = s.await(ctx, func() bool {
		if s.answered < asked || s.busy {
			return false
		}
		targets = slices.SortedFunc(maps.Values(s.targets), byName)
		return true
	})
	return targets, err
}

func (s *server) report(ctx context.Context) (report, error) {
	found := report{Live: true}
	targets, err := s.settle(ctx)
	if err != nil {
		return found, err
	}
	var sums []string
	s.mu.Lock()
	for _, t := range targets {
		sums, found.Updates = append(sums, t.sum), append(found.Updates, t.update)
	}
	s.mu.Unlock()
	for i, t := range targets {
		err := error(nil)
		if found.Updates[i].Error == "" {
			found.Updates[i].Pods, err = s.pods.await(ctx, t.program, sums[i], restartPatience, true)
		}
		if ctx.Err() != nil {
			return found, ctx.Err()
		}
		if err != nil {
			found.Updates[i].Error = err.Error()
		}
		found.fail(found.Updates[i].Error)
	}
	if len(targets) == 0 {
		found.fail("no program is registered: see Tilt for the state of its resources")
	}
	starts, cancel := context.WithTimeout(ctx, testsPatience)
	defer cancel()
	_ = s.await(starts, func() bool { return !s.tests.due || s.tests.followers > 0 })
	return found, s.await(ctx, func() bool {
		if s.tests.followers > 0 {
			return false
		}
		if last := s.tests.last; last != (testRun{}) && !s.tests.due {
			found.Tests = &last
			if !last.Passed {
				found.failTests(last.Error)
			}
		}
		return true
	})
}

func (r *report) fail(message string) {
	if message != "" {
		r.Live = false
		r.failTests(message)
	}
}

func (r *report) failTests(message string) {
	if r.Error == "" {
		r.Error = message
	}
}
