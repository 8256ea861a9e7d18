package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestMain also runs the test's binary as the supervisor.
func TestMain(m *testing.M) {
	if os.Getenv("SUPERVISE") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// A program may support either of the two protocols, both, or none.
const (
	plain  = ""
	notify = "notify"
	socket = "socket"
	both   = "socket,notify"
)

var builds = map[string]func() (string, error){}

func init() {
	for _, tags := range []string{plain, notify, socket, both} {
		builds[tags] = sync.OnceValues(func() (string, error) {
			folder, err := os.MkdirTemp("", "")
			if err != nil {
				return "", err
			}
			defer os.RemoveAll(folder)
			program := filepath.Join(folder, "service")
			output, err := exec.Command("go", "build", "-tags="+tags, "-o", program, "./testservice").CombinedOutput()
			if err != nil {
				return "", fmt.Errorf("%w: %s", err, output)
			}
			content, err := os.ReadFile(program)
			return string(content), err
		})
	}
}

type fixture struct {
	*testing.T
	program, address string
	supervisor       *exec.Cmd
	log              *buffer
}

// buffer is a buffer that a process writes to while a test reads it.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) { b.mu.Lock(); defer b.mu.Unlock(); return b.b.Write(p) }
func (b *buffer) String() string              { b.mu.Lock(); defer b.mu.Unlock(); return b.b.String() }

// supervise starts the supervisor with a service of version 1.
func supervise(t *testing.T, tags string, arguments ...string) fixture {
	f := fixture{T: t, program: filepath.Join(t.TempDir(), "service"), address: freeAddress(t), log: &buffer{}}
	f.deliver(tags, "1")
	f.start(append([]string{"--listen", f.address, f.program}, arguments...)...)
	f.awaitVersion("1")
	f.awaitLog("serves")
	return f
}

func freeAddress(t *testing.T) string {
	t.Helper()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, free.Close())
	return free.Addr().String()
}

func (f *fixture) start(arguments ...string) {
	f.supervisor = exec.Command(os.Args[0], arguments...)
	f.supervisor.Env = append(os.Environ(), "SUPERVISE=yes", "ADDRESS="+f.address)
	f.supervisor.Stdout, f.supervisor.Stderr = f.log, f.log
	require.NoError(f, f.supervisor.Start())
	f.Cleanup(func() {
		_ = f.supervisor.Process.Signal(syscall.SIGTERM)
		_ = f.supervisor.Wait()
		if f.Failed() {
			f.Log(f.log)
		}
	})
}

// deliver replaces the program as the builder does.
func (f fixture) deliver(tags, version string) {
	f.Helper()
	service, err := builds[tags]()
	require.NoError(f, err)
	require.NoError(f, os.WriteFile(f.program+".new", []byte(service+"\nversion="+version), 0o755))
	require.NoError(f, os.Rename(f.program+".new", f.program))
}

// ask sends a request on a new connection.
func (f fixture) ask() (version string, pid int, err error) {
	request, err := http.NewRequest(http.MethodGet, "http://"+f.address+"/", nil)
	require.NoError(f, err)
	request.Close = true
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", 0, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return "", 0, err
	}
	fields := strings.SplitN(string(body), " ", 3)
	pid, err = strconv.Atoi(fields[1])
	return fields[0], pid, err
}

func (f fixture) awaitVersion(want string) {
	f.Helper()
	require.Eventually(f, func() bool {
		version, _, err := f.ask()
		return err == nil && version == want
	}, time.Minute, 10*time.Millisecond, "version %s\n%s", want, f.log)
}

func (f fixture) awaitLog(want string) {
	f.Helper()
	require.Eventually(f, func() bool { return strings.Contains(f.log.String(), want) },
		time.Minute, 10*time.Millisecond, "%q in the log", want)
}

func (f fixture) awaitServing(times int) {
	f.Helper()
	require.Eventually(f, func() bool { return strings.Count(f.log.String(), " serves after ") >= times },
		time.Minute, 10*time.Millisecond, "%d processes have served, says the log", times)
}

func TestUpdatesFailNoRequest(t *testing.T) {
	for _, tags := range []string{both, socket} {
		t.Run(tags, func(t *testing.T) {
			f := supervise(t, tags)
			ctx, stop := context.WithCancel(t.Context())
			var load sync.WaitGroup
			for range 4 {
				load.Go(func() {
					for ctx.Err() == nil {
						if _, _, err := f.ask(); !assert.NoError(t, err) {
							return
						}
					}
				})
			}
			for version := 2; version <= 6; version++ {
				f.deliver(tags, strconv.Itoa(version))
				f.awaitVersion(strconv.Itoa(version))
				f.awaitServing(version) // and the old one is told to end
			}
			stop()
			load.Wait()
		})
	}
}

func TestABuildThatFailsNeverTakesOver(t *testing.T) {
	f := supervise(t, both)
	f.deliver(both, "crash")
	f.awaitLog("this build is no good")
	f.awaitLog("ended before it was ready (exit status 2)")
	f.awaitVersion("1")
	f.deliver(both, "never ready")
	f.awaitVersion("1")
	f.deliver(both, "2")
	f.awaitLog("there is a newer build")
	f.awaitVersion("2")
}

func TestWhatCrashesIsRestarted(t *testing.T) {
	f := supervise(t, both)
	f.deliver(both, "crash")
	f.awaitLog("ended before it was ready")
	_, pid, err := f.ask()
	require.NoError(t, err)
	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	version, restarted, err := f.ask() // the socket stays open
	require.NoError(t, err)
	assert.Equal(t, "1", version, "the last good build")
	assert.NotEqual(t, pid, restarted)
	assert.Contains(t, f.log.String(), "crashed (killed)")
}

// Two processes cannot open the address themselves at the same time.
func TestAPlainProgramIsReplaced(t *testing.T) {
	for _, tags := range []string{plain, notify} {
		t.Run(tags, func(t *testing.T) {
			f := supervise(t, tags)
			f.deliver(tags, "2")
			f.awaitVersion("2")
			f.awaitServing(2)
			f.deliver(tags, "crash")
			f.awaitLog("ended before it was ready")
			f.awaitVersion("2")
			f.deliver(tags, "3")
			f.awaitVersion("3")
			f.awaitServing(4) // until then, a crash brings version 2 back
			_, pid, err := f.ask()
			require.NoError(t, err)
			require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
			f.awaitVersion("3")
		})
	}
}

func TestAProgramLearnsTheProtocols(t *testing.T) {
	f := supervise(t, plain)
	for i, tags := range []string{notify, both, socket, both} {
		version := strconv.Itoa(i + 2)
		f.deliver(tags, version)
		f.awaitVersion(version)
		f.awaitServing(i + 2)
	}
}

// The compiler drops unreachable code, and with it the names of the protocols' variables.
func TestAProgramThatForgetsTheSocketDoesNotTakeOver(t *testing.T) {
	for _, tags := range []string{plain, notify} {
		f := supervise(t, both)
		_, pid, err := f.ask()
		require.NoError(t, err)
		f.deliver(tags, "2")
		f.awaitLog("cannot take over")
		f.awaitLog("ended before it was ready")
		version, same, err := f.ask()
		require.NoError(t, err)
		assert.Equal(t, "1", version)
		assert.Equal(t, pid, same)
		f.deliver(both, "3")
		f.awaitVersion("3")
	}
}

func TestAProgramThatServesNothing(t *testing.T) {
	f := fixture{T: t, program: filepath.Join(t.TempDir(), "service"), address: "127.0.0.1:0", log: &buffer{}}
	f.deliver(plain, "1")
	f.start(f.program)
	f.awaitLog("serves")
	f.deliver(plain, "2")
	f.awaitServing(2)
}

// As on a node whose programs have used up inotify; here the folder does not exist yet, which fails the same way.
func TestABuildIsNoticedWithoutInotify(t *testing.T) {
	f := fixture{T: t, program: filepath.Join(t.TempDir(), "later", "service"), address: freeAddress(t), log: &buffer{}}
	f.start("--listen", f.address, f.program)
	f.awaitLog("a new build is noticed up to a second later: inotify: ")
	require.NoError(t, os.Mkdir(filepath.Dir(f.program), 0o755))
	for _, version := range []string{"1", "2"} {
		f.deliver(both, version)
		f.awaitVersion(version)
	}
	f.awaitServing(1 + 1)
	assert.Equal(t, 1, strings.Count(f.log.String(), "a second later"))
}

func TestSIGTERMIsPassedOn(t *testing.T) {
	for _, tags := range []string{plain, both} {
		f := supervise(t, tags)
		_, pid, err := f.ask()
		require.NoError(t, err)
		require.NoError(t, f.supervisor.Process.Signal(syscall.SIGTERM))
		require.NoError(t, f.supervisor.Wait(), "%s", f.log)
		assert.ErrorIs(t, syscall.Kill(pid, 0), syscall.ESRCH)
	}
}

func TestArgumentsAreForTheProgram(t *testing.T) {
	f := supervise(t, both, "--listen", "nowhere")
	response, err := http.Get("http://" + f.address)
	require.NoError(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	assert.Contains(t, string(body), "[--listen nowhere]")
}

func TestStatus(t *testing.T) {
	f := fixture{T: t, program: filepath.Join(t.TempDir(), "service"), log: &buffer{}}
	address := func() string {
		free, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		require.NoError(t, free.Close())
		return free.Addr().String()
	}
	f.address = address()
	status := address()
	sum := func() string {
		content, err := os.ReadFile(f.program)
		require.NoError(t, err)
		return fmt.Sprintf("%x", sha256.Sum256(content))
	}
	ask := func(program string) (said answer) {
		response, err := http.Get("http://" + status + "/?program=" + program)
		require.NoError(t, err)
		defer response.Body.Close()
		require.NoError(t, json.NewDecoder(response.Body).Decode(&said))
		return said
	}
	f.deliver(both, "1")
	f.start("--listen", f.address, "--status", status, f.program)
	f.awaitVersion("1")
	first := sum()
	assert.Equal(t, answer{Serves: true}, ask(first))
	f.deliver(both, "crash")
	assert.Equal(t, answer{Failed: "process ended before it was ready (exit status 2)"}, withoutPID(ask(sum())))
	assert.Equal(t, answer{Serves: true}, ask(first), "the last good one")
	f.deliver(both, "2")
	assert.Equal(t, answer{Serves: true}, ask(sum()), "as soon as it serves")
	assert.Equal(t, answer{}, ask(first))

	// A program that restarts the pods is left to new ones.
	require.NoError(t, os.WriteFile(f.program+".restart", nil, 0o644))
	f.deliver(both, "3")
	assert.Equal(t, answer{}, ask(sum()))
	version, _, err := f.ask()
	require.NoError(t, err)
	assert.Equal(t, "2", version)
	require.NoError(t, f.supervisor.Process.Signal(syscall.SIGTERM))
	_ = f.supervisor.Wait()
	f.start("--listen", f.address, "--status", status, f.program)
	f.awaitVersion("3")
}

func withoutPID(said answer) answer {
	said.Failed = regexp.MustCompile(`process \d+`).ReplaceAllString(said.Failed, "process")
	return said
}
