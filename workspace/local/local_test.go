package local

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/workspace/process"
	"example.com/invoices/workspace/services"
)

// patient is the timeout for steps that take milliseconds on an idle machine.
const patient = time.Minute

// TestMain also runs the program itself, so that tests have a process to kill.
func TestMain(m *testing.M) {
	switch {
	case len(os.Args) == 3 && os.Args[1] == "mind":
		code, err := Mind(os.Args[2])
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
		os.Exit(code)
	case len(os.Args) == 2 && os.Args[1] == "run":
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
		defer stop()
		if err := running(os.Stdout).Run(ctx); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	default:
		os.Exit(m.Run())
	}
}

func running(out io.Writer) Services {
	program, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return Services{
		List: services.List{Services: []services.Service{
			{Name: "invoice-app", Calls: []string{"payment-provider"}, Database: true, Public: true},
			{Name: "payment-provider", Database: true},
		}},
		Ports: map[string]string{
			"invoice-app": os.Getenv("INVOICE_APP_PORT"), "payment-provider": os.Getenv("PAYMENT_PROVIDER_PORT"),
		},
		Programs:   filepath.Join(os.Getenv("CLONE"), "bin"),
		Out:        out,
		Minder:     []string{program, "mind"},
		WithParent: os.Getenv("MAKELEVEL") != "",
	}
}

// service is a program that responds with its environment, and prints the signal that stops it.
const service = `package main

import (
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGTERM, os.Interrupt)
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "%q", os.Environ()) })
	http.HandleFunc("/crash", func(http.ResponseWriter, *http.Request) { os.Exit(3) })
	go func() { panic(http.ListenAndServe(os.Getenv("LISTEN_ADDR"), nil)) }()
	fmt.Println("ended by", <-told, len(told))
}
`

// clone creates a folder with both services and makes it the working directory.
func clone(t *testing.T) (invoiceApp, paymentProvider string) {
	t.Helper()
	folder := filepath.Join(t.TempDir(), "a clone & ü")
	for _, name := range []string{"invoice-app", "payment-provider"} {
		require.NoError(t, os.MkdirAll(filepath.Join(folder, name), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(folder, name, "main.go"), []byte(service), 0o644))
	}
	module := []byte("module example.com/invoices\n\ngo 1.26\n")
	require.NoError(t, os.WriteFile(filepath.Join(folder, "go.mod"), module, 0o644))
	t.Chdir(folder)
	t.Setenv("CLONE", folder)
	t.Setenv("MAKELEVEL", "")
	t.Setenv("GOWORK", "off")
	invoiceApp, paymentProvider = freePort(t), freePort(t)
	t.Setenv("INVOICE_APP_PORT", invoiceApp)
	t.Setenv("PAYMENT_PROVIDER_PORT", paymentProvider)
	return invoiceApp, paymentProvider
}

func freePort(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	_, port, err := net.SplitHostPort(listener.Addr().String())
	require.NoError(t, err)
	return port
}

// buffer is a buffer for concurrent reads and writes.
type buffer struct {
	lock sync.Mutex
	data bytes.Buffer
}

func (b *buffer) Write(data []byte) (int, error) {
	b.lock.Lock()
	defer b.lock.Unlock()
	return b.data.Write(data)
}

func (b *buffer) String() string {
	b.lock.Lock()
	defer b.lock.Unlock()
	return b.data.String()
}

// start starts a program in a separate process group, as a terminal does.
func start(t *testing.T, name string, args ...string) (*exec.Cmd, *buffer) {
	t.Helper()
	output := &buffer{}
	command := exec.Command(name, args...)
	command.Stdout, command.Stderr = output, output
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	command.WaitDelay = patient // processes that are left running keep the output open
	require.NoError(t, command.Start())
	t.Cleanup(func() {
		if command.ProcessState == nil {
			_ = syscall.Kill(-command.Process.Pid, syscall.SIGKILL)
			_ = command.Wait()
		}
		if t.Failed() {
			t.Logf("%v:\n%s", command.Args, output)
		}
	})
	return command, output
}

func startRun(t *testing.T) (*exec.Cmd, *buffer) {
	t.Helper()
	program, err := os.Executable()
	require.NoError(t, err)
	return start(t, program, "run")
}

// get returns the response of a service, or "" if there is none.
func get(port, path string) string {
	response, err := http.Get("http://127.0.0.1:" + port + path)
	if err != nil {
		return ""
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(response.Body)
	return string(body)
}

func serving(ports ...string) func() bool {
	return func() bool {
		for _, port := range ports {
			if get(port, "/") == "" {
				return false
			}
		}
		return true
	}
}

// unused reports whether no process listens on the ports.
func unused(ports ...string) func() bool {
	return func() bool {
		for _, port := range ports {
			listener, err := net.Listen("tcp", "127.0.0.1:"+port)
			if err != nil {
				return false
			}
			listener.Close()
		}
		return true
	}
}

func TestRunUntilCtrlC(t *testing.T) {
	invoiceApp, paymentProvider := clone(t)
	command, output := startRun(t)
	require.Eventually(t, serving(invoiceApp, paymentProvider), patient, 10*time.Millisecond)

	environment := get(invoiceApp, "/")
	assert.Contains(t, environment, `"PAYMENT_PROVIDER_URL=http://127.0.0.1:`+paymentProvider+`"`)
	assert.Contains(t, environment, `"DATABASE_URL=sqlite:data/invoice-app.db"`)
	assert.Contains(t, environment, `"SEED_INVOICES=true"`)
	assert.NotContains(t, get(paymentProvider, "/"), `"INVOICE_APP_URL=`)
	assert.Contains(t, get(paymentProvider, "/"), `"DATABASE_URL=sqlite:data/payment-provider.db"`)

	t.Run("a second one", func(t *testing.T) {
		assert.EqualError(t, running(io.Discard).Run(t.Context()),
			"make run is already running with this data: stop it first (Ctrl-C there)")
		assert.Error(t, running(io.Discard).Reset())
		assert.FileExists(t, "data/lock")
	})

	require.NoError(t, syscall.Kill(-command.Process.Pid, syscall.SIGINT))
	assert.NoError(t, command.Wait())
	assert.True(t, unused(invoiceApp, paymentProvider)())
	assert.Equal(t, 2, strings.Count(output.String(), "ended by terminated 0\n"), "each gets one signal")
	assert.Contains(t, output.String(), "invoice-app is at http://localhost:"+invoiceApp+
		"/invoices, payment-provider at http://localhost:"+paymentProvider+"\n")
	assert.Contains(t, output.String(),
		"pay everything, from another terminal: INVOICE_APP_URL=http://localhost:"+invoiceApp+" ./test.sh\n")
	assert.True(t, strings.HasSuffix(output.String(),
		"all services are stopped; data/ is kept (make reset deletes it)\n"))

	var out bytes.Buffer
	require.NoError(t, running(&out).Reset())
	assert.Equal(t, "data/ is deleted; make run starts over\n", out.String())
	assert.NoDirExists(t, "data")
}

func TestOneEndsByItself(t *testing.T) {
	invoiceApp, paymentProvider := clone(t)
	command, output := startRun(t)
	require.Eventually(t, serving(invoiceApp, paymentProvider), patient, 10*time.Millisecond)
	get(paymentProvider, "/crash")

	assert.Error(t, command.Wait())
	assert.Equal(t, 1, command.ProcessState.ExitCode())
	assert.Contains(t, output.String(), "a service ended unexpectedly")
	assert.True(t, unused(invoiceApp, paymentProvider)())
}

// If the program or its process group is killed, the services end too, and the next run starts.
func TestKilled(t *testing.T) {
	for name, kill := range map[string]func(t *testing.T, run int){
		"the program":       func(t *testing.T, run int) { require.NoError(t, syscall.Kill(run, syscall.SIGKILL)) },
		"its process group": func(t *testing.T, run int) { require.NoError(t, syscall.Kill(-run, syscall.SIGKILL)) },
	} {
		t.Run(name, func(t *testing.T) {
			invoiceApp, paymentProvider := clone(t)
			command, _ := startRun(t)
			require.Eventually(t, serving(invoiceApp, paymentProvider), patient, 10*time.Millisecond)
			kill(t, command.Process.Pid)
			assert.Eventually(t, unused(invoiceApp, paymentProvider), patient, 10*time.Millisecond)
			runsAgain(t, invoiceApp, paymentProvider)
		})
	}
}

func TestMakeIsKilled(t *testing.T) {
	invoiceApp, paymentProvider := clone(t)
	program, err := os.Executable()
	require.NoError(t, err)
	require.NoError(t, os.WriteFile("Makefile", []byte("run:\n\t@"+process.Quote(program)+" run\n"), 0o644))
	command, _ := start(t, "make", "run")
	require.Eventually(t, serving(invoiceApp, paymentProvider), patient, 10*time.Millisecond)

	require.NoError(t, command.Process.Kill())
	assert.Eventually(t, unused(invoiceApp, paymentProvider), patient, 10*time.Millisecond)
	runsAgain(t, invoiceApp, paymentProvider)
}

func runsAgain(t *testing.T, invoiceApp, paymentProvider string) {
	require.Eventually(t, func() bool { // the killed run may still be ending
		lock, err := running(io.Discard).lock()
		return err == nil && lock.Close() == nil
	}, patient, 10*time.Millisecond)
	again, _ := startRun(t)
	require.Eventually(t, serving(invoiceApp, paymentProvider), patient, 10*time.Millisecond)
	require.NoError(t, again.Process.Signal(os.Interrupt))
	assert.NoError(t, again.Wait())
}

func TestInterruptedWhileItBuilds(t *testing.T) {
	clone(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	assert.ErrorIs(t, running(io.Discard).Run(ctx), context.Canceled)
	assert.NoFileExists(t, "bin/invoice-app")
}

func TestWhatDoesNotCompileIsNotRun(t *testing.T) {
	clone(t)
	require.NoError(t, os.WriteFile("invoice-app/main.go", []byte("this is not Go"), 0o644))
	var out bytes.Buffer
	assert.ErrorContains(t, running(&out).Run(t.Context()), "go build")
	assert.NotContains(t, out.String(), "http://")
}

func TestPorts(t *testing.T) {
	invoiceApp, _ := clone(t)
	listener, err := net.Listen("tcp", "127.0.0.1:"+invoiceApp)
	require.NoError(t, err)
	defer listener.Close()
	assert.ErrorContains(t, running(io.Discard).Run(t.Context()), "port "+invoiceApp+" is taken by another program")
	assert.NoDirExists(t, "bin", "nothing was built")

	for _, port := range []string{"", "0", "-1", "65536", "http", "80 80"} {
		assert.ErrorContains(t, free("PORT", port), "PORT="+port+" is invalid")
	}
	for taken, other := range map[int]int{8081: 18081, 60000: 50000} {
		assert.Equal(t, other, another(taken))
	}
}

func TestMinderHasTheExitCode(t *testing.T) {
	program, err := os.Executable()
	require.NoError(t, err)
	for script, code := range map[string]int{"exit 7": 7, "kill -9 $$": 128 + 9, "exit 0": 0} {
		file := filepath.Join(t.TempDir(), "program")
		require.NoError(t, os.WriteFile(file, []byte("#!/bin/sh\n"+script+"\n"), 0o755))
		command := exec.Command(program, "mind", file)
		stdin, err := command.StdinPipe() // stays open
		require.NoError(t, err)
		_ = command.Run()
		stdin.Close()
		assert.Equal(t, code, command.ProcessState.ExitCode(), script)
	}
	_, err = Mind(filepath.Join(t.TempDir(), "missing"))
	assert.ErrorIs(t, err, os.ErrNotExist)
}
