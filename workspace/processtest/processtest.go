// Package processtest puts programs on PATH that record what they are asked and answer as a test says: docker,
// kubectl and the others, where a test is about what is asked of them and what is done with their failures.
package processtest

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// Call is one start of a program.
type Call struct {
	Args  []string // without the program's name
	Env   []string
	Dir   string
	Stdin string
}

// Answer is what a program does then.
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

const address = "PROCESSTEST_ADDRESS"

// Main is a TestMain's: in a process that is one of the programs it is that, and does not return.
func Main(m *testing.M) {
	if to := os.Getenv(address); to != "" && filepath.Base(os.Args[0]) != filepath.Base(os.Getenv("PROCESSTEST_TEST")) {
		os.Exit(ask(to))
	}
	os.Exit(m.Run())
}

// ask is what the program does: it asks the test.
func ask(to string) int {
	stdin := ""
	if info, err := os.Stdin.Stat(); err == nil && info.Mode()&os.ModeCharDevice == 0 {
		data, _ := io.ReadAll(os.Stdin)
		stdin = string(data)
	}
	dir, _ := os.Getwd()
	connection, err := net.Dial("unix", filepath.Join(to, filepath.Base(os.Args[0])+".sock"))
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

// Put puts a program first on PATH for as long as the test takes. Its calls are answered one after the other.
func Put(t *testing.T, name string, answer func(Call) Answer) *Program {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	folder, err := os.MkdirTemp("", "p") // a socket's path is short
	require.NoError(t, err)
	if earlier := os.Getenv(address); earlier != "" { // one folder for all programs of a test
		require.NoError(t, os.Remove(folder))
		folder = earlier
	} else {
		t.Cleanup(func() { _ = os.RemoveAll(folder) })
		t.Setenv(address, folder)
		t.Setenv("PROCESSTEST_TEST", self)
		t.Setenv("GORACE", "atexit_sleep_ms=0") // with the race detector each program would take a second to end
		t.Setenv("PATH", folder+string(os.PathListSeparator)+os.Getenv("PATH"))
	}
	require.NoError(t, os.Symlink(self, filepath.Join(folder, name)))
	listener, err := net.Listen("unix", filepath.Join(folder, name+".sock"))
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })

	program := &Program{answer: answer}
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			program.serve(connection)
		}
	}()
	return program
}

func (p *Program) serve(connection net.Conn) {
	defer connection.Close()
	var call Call
	if json.NewDecoder(connection).Decode(&call) != nil {
		return
	}
	p.lock.Lock()
	defer p.lock.Unlock()
	p.calls = append(p.calls, call)
	_ = json.NewEncoder(connection).Encode(p.answer(call))
}

// Calls are those so far, the words of each in one line.
func (p *Program) Calls() []string {
	p.lock.Lock()
	defer p.lock.Unlock()
	var lines []string
	for _, call := range p.calls {
		lines = append(lines, strings.Join(call.Args, " "))
	}
	return lines
}

// Last is the latest call.
func (p *Program) Last() Call {
	p.lock.Lock()
	defer p.lock.Unlock()
	if len(p.calls) == 0 {
		return Call{}
	}
	return p.calls[len(p.calls)-1]
}
