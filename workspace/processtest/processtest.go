// Package processtest puts fake programs such as docker or kubectl on PATH, which record their calls and respond as
// a test wants, for tests of how programs are called and how their failures are handled.
package processtest

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// Call is one invocation of a program.
type Call struct {
	Args  []string // without the program's name
	Env   []string
	Dir   string
	Stdin string
}

// Answer is a program's response to a call.
type Answer struct {
	Stdout, Stderr string
	Code           int
}

// Program records the calls of one program.
type Program struct {
	lock   sync.Mutex
	calls  []Call
	answer func(Call) Answer
}

// Main implements TestMain. In a process that was started as one of the fake programs, it acts as that program and
// does not return.
func Main(m *testing.M) {
	if path, err := exec.LookPath(os.Args[0]); err == nil {
		if _, err := os.Stat(path + socket); err == nil {
			os.Exit(ask(path + socket))
		}
	}
	os.Exit(m.Run())
}

const socket = ".socket" // appended to a program's path: the test listens there

// ask is the body of a fake program: it asks the test how to respond.
func ask(test string) int {
	stdin := ""
	if info, err := os.Stdin.Stat(); err == nil && info.Mode()&os.ModeCharDevice == 0 {
		data, _ := io.ReadAll(os.Stdin)
		stdin = string(data)
	}
	dir, _ := os.Getwd()
	connection, err := net.Dial("unix", test)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 99
	}
	defer connection.Close()
	var answer Answer
	if json.NewEncoder(connection).Encode(Call{Args: os.Args[1:], Env: os.Environ(), Dir: dir, Stdin: stdin}) != nil ||
		json.NewDecoder(connection).Decode(&answer) != nil {
		return 99
	}
	fmt.Fprint(os.Stdout, answer.Stdout)
	fmt.Fprint(os.Stderr, answer.Stderr)
	return answer.Code
}

// Put puts a fake program first on PATH for the duration of the test. Calls to it are handled one at a time.
func Put(t *testing.T, name string, answer func(Call) Answer) *Program {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	folder, err := os.MkdirTemp("", "p") // the length of a socket's path is limited
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	program := filepath.Join(folder, name)
	require.NoError(t, os.Symlink(self, program))
	listener, err := net.Listen("unix", program+socket)
	require.NoError(t, err)
	t.Setenv("GORACE", "atexit_sleep_ms=0") // or with the race detector each program takes a second to exit
	t.Setenv("PATH", folder+string(os.PathListSeparator)+os.Getenv("PATH"))
	t.Cleanup(func() { _ = listener.Close() })

	put := &Program{answer: answer}
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			put.serve(connection)
		}
	}()
	return put
}

func (p *Program) serve(connection net.Conn) {
	defer connection.Close()
	var call Call
	if json.NewDecoder(connection).Decode(&call) != nil {
		return
	}
	// What a test changed before it started the program is seen here. The race detector can't follow that through
	// another process, but it knows the lock that every start of a process takes.
	syscall.ForkLock.RLock()
	p.lock.Lock()
	syscall.ForkLock.RUnlock()
	defer p.lock.Unlock()
	p.calls = append(p.calls, call)
	_ = json.NewEncoder(connection).Encode(p.answer(call))
}

// Calls returns the calls so far, each as its arguments joined by spaces.
func (p *Program) Calls() []string {
	p.lock.Lock()
	defer p.lock.Unlock()
	var lines []string
	for _, call := range p.calls {
		lines = append(lines, strings.Join(call.Args, " "))
	}
	return lines
}

// Last returns the latest call.
func (p *Program) Last() Call {
	p.lock.Lock()
	defer p.lock.Unlock()
	if len(p.calls) == 0 {
		return Call{}
	}
	return p.calls[len(p.calls)-1]
}
