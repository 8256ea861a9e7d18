// Package limits runs each service as its manifest does, with the same memory, and lets hostile
// clients attack it: any request may be rejected, but none takes a replica down.
package limits

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/internal/podtest"
)

// moduleRoot is the root of this package's module.
const moduleRoot = "../.."

// programs is the folder of the programs of both services.
var programs string

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	folder, err := os.MkdirTemp("", "limits-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(folder)
	if err := podtest.Build(moduleRoot, folder, "invoice-app", "payment-provider"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	programs = folder
	return m.Run()
}

// process is a running service, and what it must survive.
type process struct {
	address string
	memory  int64
	pid     int
	exited  chan struct{} // closed when it has ended
	log     *bytes.Buffer // complete when it has ended
}

// start runs a service with the environment env until the test ends.
func start(t *testing.T, service string, env ...string) *process {
	t.Helper()
	pod := podtest.New(t, moduleRoot, service)
	command := pod.Command(filepath.Join(programs, service))
	command.Dir = t.TempDir() // no .env file is found there
	command.Env = append(append(command.Env, env...), "LISTEN_ADDR=127.0.0.1:0")
	stderr, err := command.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, command.Start())
	p := &process{memory: pod.Memory, pid: command.Process.Pid, exited: make(chan struct{}), log: &bytes.Buffer{}}
	address := make(chan string, 1)
	go func() {
		defer close(p.exited)
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			var line struct{ Msg, Address, Level string }
			_ = json.Unmarshal(lines.Bytes(), &line)
			if line.Msg == "serving" {
				address <- line.Address
			}
			if p.log.Len() < 1<<20 && line.Level != "INFO" {
				fmt.Fprintln(p.log, lines.Text())
			}
		}
		fmt.Fprintln(p.log, command.Wait())
	}()
	t.Cleanup(func() {
		_ = command.Process.Signal(syscall.SIGKILL)
		<-p.exited
	})
	select {
	case p.address = <-address:
	case <-p.exited:
		require.FailNow(t, "the program ended", "%s", p.log)
	case <-time.After(time.Minute):
		require.FailNow(t, "the program does not serve")
	}
	return p
}

// requireAlive fails if the process has ended, or would have been killed in a pod.
func (p *process) requireAlive(t *testing.T) {
	t.Helper()
	select {
	case <-p.exited:
		require.FailNow(t, "the program was killed", "%s", p.log)
	default:
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.pid))
	require.NoError(t, err)
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	kibibytes, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
	require.NoError(t, err)
	t.Logf("peak so far: %d MiB", kibibytes>>10)
	assert.Less(t, kibibytes<<10, p.memory, "the process's peak")
}
