// Package limits runs each service as its manifest does, with the memory that
// it has there, and lets hostile clients at it: what anybody sends may be
// refused, but takes no replica out.
package limits

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

// moduleRoot is where this package's module begins.
const moduleRoot = "../.."

// programs is the folder of the two services' binaries.
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
	// As an image's: without the race detector, which takes ten times the memory.
	build := exec.Command("go", "build", "-tags=nosqlite", "-o", folder+"/", "./invoice-app", "./payment-provider")
	build.Dir = moduleRoot
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n%s", build, err, out)
		return 1
	}
	programs = folder
	return m.Run()
}

// manifest is what a service's Deployment says about its memory.
type manifest struct {
	memory     int64 // bytes
	goMemLimit string
}

func readManifest(t *testing.T, service string) manifest {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(moduleRoot, "k8s", service, "deployment.yaml"))
	require.NoError(t, err)
	var deployment struct {
		Spec struct {
			Template struct {
				Spec struct {
					Containers []struct {
						Env       []struct{ Name, Value string }
						Resources struct{ Limits struct{ Memory string } }
					}
				}
			}
		}
	}
	require.NoError(t, yaml.Unmarshal(content, &deployment))
	container := deployment.Spec.Template.Spec.Containers[0]
	mebibytes, err := strconv.ParseInt(strings.TrimSuffix(container.Resources.Limits.Memory, "Mi"), 10, 64)
	require.NoError(t, err, "a memory limit in Mi")
	found := manifest{memory: mebibytes << 20}
	for _, variable := range container.Env {
		if variable.Name == "GOMEMLIMIT" {
			found.goMemLimit = variable.Value
		}
	}
	return found
}

// process is a service that runs, and what it may not survive.
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
	limits := readManifest(t, service)
	command := exec.Command(filepath.Join(programs, service))
	if group := memoryGroup(t, limits.memory); group != "" {
		command = exec.Command("sh", "-c", `echo $$ > "$0/cgroup.procs" && exec "$1"`, group, command.Path)
	}
	command.Dir = t.TempDir() // no .env file is found there
	command.Env = append(env, "LISTEN_ADDR=127.0.0.1:0", "GOMEMLIMIT="+limits.goMemLimit)
	stderr, err := command.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, command.Start())
	p := &process{memory: limits.memory, pid: command.Process.Pid, exited: make(chan struct{}), log: &bytes.Buffer{}}
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

// memoryGroup returns the folder of a control group of that size, or "" where
// none can be made; peak is compared all the same.
func memoryGroup(t *testing.T, limit int64) string {
	t.Helper()
	for _, kind := range []struct{ root, limit string }{
		{"/sys/fs/cgroup", "memory.max"}, // version 2
		{"/sys/fs/cgroup/memory", "memory.limit_in_bytes"},
	} {
		group := filepath.Join(kind.root, fmt.Sprintf("invoices-limits-%d-%d", os.Getpid(), time.Now().UnixNano()))
		if os.Mkdir(group, 0o755) != nil {
			continue
		}
		t.Cleanup(func() { _ = os.Remove(group) })                                 // after the process in it has ended
		file, err := os.OpenFile(filepath.Join(group, kind.limit), os.O_WRONLY, 0) // the kernel has made it
		if err != nil {
			continue
		}
		defer file.Close()
		if _, err := fmt.Fprint(file, limit); err == nil {
			t.Logf("in %s, with %d MiB", group, limit>>20)
			return group
		}
	}
	t.Log("no control group can be made here: only the process's peak is compared")
	return ""
}

// requireAlive fails if the process has ended, or would have in a pod.
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
