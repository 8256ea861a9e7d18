package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/internal/server"
)

const marker = "\nversion="

// TestMain lets this test's binary be all three: the test, the supervisor, and
// the service that the supervisor runs.
func TestMain(m *testing.M) {
	switch {
	case os.Getenv("LISTEN_FD") != "":
		service()
	case os.Getenv("SUPERVISE") != "":
		os.Args = append(os.Args[:1], strings.Fields(os.Getenv("SUPERVISE"))...)
		os.Unsetenv("SUPERVISE")
		main()
	case len(os.Args) == 3 && os.Args[1] == "say":
		fmt.Println(os.Args[2])
	default:
		os.Exit(m.Run())
	}
}

// service answers with its version: what follows the program in its own file.
func service() {
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		panic(err)
	}
	version := string(self[bytes.LastIndex(self, []byte(marker))+len(marker):])
	switch version {
	case "crash":
		panic("this build is no good")
	case "never ready":
		select {}
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	s := server.New(slog.New(slog.DiscardHandler), prometheus.NewRegistry(), nil, func(context.Context) error { return nil })
	s.Router.GET("/", func(c *gin.Context) { c.String(http.StatusOK, "%s %d", version, os.Getpid()) })
	if err := s.Run(ctx, os.Getenv("LISTEN_ADDR"), 10*time.Second, func() {}); err != nil {
		panic(err)
	}
}

type fixture struct {
	*testing.T
	program, address string
	supervisor       *exec.Cmd
	log              *buffer
}

// buffer is what a process writes to while a test reads it.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) { b.mu.Lock(); defer b.mu.Unlock(); return b.b.Write(p) }
func (b *buffer) String() string              { b.mu.Lock(); defer b.mu.Unlock(); return b.b.String() }

func supervise(t *testing.T) fixture {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, free.Close())
	f := fixture{T: t, program: filepath.Join(t.TempDir(), "service"), address: free.Addr().String(), log: &buffer{}}
	f.deliver("1")
	f.supervisor = exec.Command(os.Args[0])
	f.supervisor.Env = append(os.Environ(), "SUPERVISE="+f.program, "LISTEN_ADDR="+f.address)
	f.supervisor.Stdout, f.supervisor.Stderr = f.log, f.log
	require.NoError(t, f.supervisor.Start())
	t.Cleanup(func() {
		_ = f.supervisor.Process.Signal(syscall.SIGTERM)
		_ = f.supervisor.Wait()
		if t.Failed() {
			t.Log(f.log)
		}
	})
	f.awaitVersion("1")
	return f
}

// deliver does what the builder does.
func (f fixture) deliver(version string) {
	f.Helper()
	require.NoError(f, os.WriteFile(f.program+".begun", nil, 0o644))
	self, err := os.ReadFile(os.Args[0])
	require.NoError(f, err)
	require.NoError(f, os.WriteFile(f.program+".new", append(self, marker+version...), 0o755))
	require.NoError(f, os.Rename(f.program+".new", f.program))
}

// ask opens a connection of its own.
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
	version, number, _ := strings.Cut(string(body), " ")
	pid, err = strconv.Atoi(number)
	return version, pid, err
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

func TestUpdatesFailNoRequest(t *testing.T) {
	f := supervise(t)
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
		f.deliver(strconv.Itoa(version))
		f.awaitVersion(strconv.Itoa(version))
	}
	stop()
	load.Wait()
	f.awaitLog("updated: compile ")
	assert.Contains(t, f.log.String(), ", first answer ")
}

func TestABuildThatFailsNeverTakesOver(t *testing.T) {
	f := supervise(t)
	f.deliver("crash")
	f.awaitLog("this build is no good")
	f.awaitLog("ended before it was ready (exit status 2)")
	f.awaitVersion("1")
	f.deliver("never ready")
	f.awaitVersion("1")
	f.deliver("2")
	f.awaitLog("there is a newer build")
	f.awaitVersion("2")
}

func TestWhatCrashesIsRestarted(t *testing.T) {
	f := supervise(t)
	f.deliver("crash")
	f.awaitLog("ended before it was ready")
	_, pid, err := f.ask()
	require.NoError(t, err)
	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	version, restarted, err := f.ask() // the socket stays open
	require.NoError(t, err)
	assert.Equal(t, "1", version, "the last one that was good")
	assert.NotEqual(t, pid, restarted)
	assert.Contains(t, f.log.String(), "crashed (killed)")
}

func TestSIGTERMIsPassedOn(t *testing.T) {
	f := supervise(t)
	_, pid, err := f.ask()
	require.NoError(t, err)
	require.NoError(t, f.supervisor.Process.Signal(syscall.SIGTERM))
	require.NoError(t, f.supervisor.Wait(), "%s", f.log)
	assert.ErrorIs(t, syscall.Kill(pid, 0), syscall.ESRCH)
}

func TestArgumentsAreForTheProgram(t *testing.T) {
	command := exec.Command(os.Args[0])
	command.Env = append(os.Environ(), "SUPERVISE="+os.Args[0]+" say hello")
	output, err := command.CombinedOutput()
	require.NoError(t, err, "%s", output)
	assert.Equal(t, "hello\n", string(output))
}
