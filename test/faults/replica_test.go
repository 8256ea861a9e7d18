package faults

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"example.com/invoices/internal/historytest"
	"example.com/invoices/internal/podtest"
)

// spells are the times during which something does not work.
type spells struct {
	mu        sync.Mutex
	begun, on int
}

// begin begins a spell, which lasts until end. Spells may overlap.
func (s *spells) begin() (end func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begun++
	s.on++
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.on--
	})
}

// mark returns the present, for since.
func (s *spells) mark() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.begun - s.on // how many have ended
}

// since reports whether any part of a spell was after mark.
func (s *spells) since(mark int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.begun > mark
}

// replica is a process of a service that can be stopped and started again.
type replica struct {
	name   string
	binary string
	pod    *podtest.Pod // nil: without a memory limit
	env    []string
	folder string   // where it runs: an empty one, so that no .env file is found
	log    *os.File // of all its processes

	database *link         // to the database
	answer   time.Duration // the time limit of the response to a pay-all

	away   spells // killed, starting or frozen
	cutOff spells // without its database

	mu      sync.Mutex
	back    func() // ends the spell of away that its killing began
	process *os.Process
	exited  chan struct{} // closed when the process has ended
	exit    error         // of the process that has ended
	asked   bool          // ended by the test
	address string        // where it serves, or ""
	wrong   []historytest.Violation
}

// start starts the process. It serves some time later; see url.
func (r *replica) start(t *testing.T) {
	t.Helper()
	command := exec.Command(r.binary)
	if r.pod != nil {
		command = r.pod.Command(r.binary)
	}
	command.Dir, command.Env = r.folder, append(command.Env, r.env...)
	stderr, err := command.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, command.Start())
	r.mu.Lock()
	defer r.mu.Unlock()
	r.process, r.exited, r.asked = command.Process, make(chan struct{}), false
	go r.watch(command, stderr, r.exited)
}

// watch reads the process's log to its end, and then waits for the process.
func (r *replica) watch(command *exec.Cmd, stderr io.Reader, exited chan struct{}) {
	lines := bufio.NewReader(stderr)
	for {
		line, err := lines.ReadString('\n')
		fmt.Fprint(r.log, line)
		r.read(line)
		if err != nil {
			break
		}
	}
	err := command.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.exit, r.address, r.process = err, "", nil
	if !r.asked {
		r.wrong = append(r.wrong, r.violation(soundProcess, "ended by itself: %v", err))
	}
	close(exited)
}

// read finds the address and unexpected errors in a line of the log.
func (r *replica) read(line string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, sign := range []string{"WARNING: DATA RACE", `"msg":"panic"`, "panic: ", "fatal error: "} {
		if strings.Contains(line, sign) {
			r.wrong = append(r.wrong, r.violation(soundProcess, "logged: %s", strings.TrimSpace(line)))
		}
	}
	var record struct{ Msg, Address string }
	if json.Unmarshal([]byte(line), &record) == nil && record.Msg == "serving" && !r.asked {
		r.address = record.Address
		r.back()
		r.back = func() {}
	}
}

// url returns the URL of the replica, or "".
func (r *replica) url() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.address == "" {
		return ""
	}
	return "http://" + r.address
}

// signal sends s to the process, if there is one.
func (r *replica) signal(s syscall.Signal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.process == nil {
		return
	}
	r.asked = true
	if s == syscall.SIGKILL {
		r.address = ""
	}
	r.back()
	r.back = r.away.begin()
	_ = r.process.Signal(s) // it may have ended
}

// freeze suspends the process until thaw. It returns false if there is none.
func (r *replica) freeze() (thaw func(), ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.address == "" {
		return nil, false
	}
	process, end := r.process, r.away.begin()
	_ = process.Signal(syscall.SIGSTOP)
	return func() {
		_ = process.Signal(syscall.SIGCONT) // it may have been killed
		end()
	}, true
}

// violate records something that the replica did and that no fault excuses.
func (r *replica) violate(rule historytest.Rule, format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wrong = append(r.wrong, r.violation(rule, format, args...))
}

func (r *replica) violation(rule historytest.Rule, format string, args ...any) historytest.Violation {
	return historytest.Violation{Rule: rule, Detail: r.name + ": " + fmt.Sprintf(format, args...)}
}

// wait waits for the process to end, and returns its result.
func (r *replica) wait() error {
	r.mu.Lock()
	exited := r.exited
	r.mu.Unlock()
	if exited == nil {
		return nil
	}
	<-exited
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.exit
}

// kill kills the process.
func (r *replica) kill() {
	r.signal(syscall.SIGKILL)
	_ = r.wait()
}

// violations returns what its processes did that no fault excuses.
func (r *replica) violations() []historytest.Violation {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.wrong
}

// tail returns the end of the log.
func (r *replica) tail() string {
	const most = 3000 // bytes
	text, err := os.ReadFile(r.log.Name())
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-most):])
}
