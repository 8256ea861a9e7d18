package docs

import (
	"bytes"
	"fmt"
	"maps"
	"net/http"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/internal/checkouttest"
	"example.com/invoices/internal/docstest"
	"example.com/invoices/internal/porttest"
)

// patience is a limit for operations that take seconds on an idle machine.
const patience = 5 * time.Minute

// TestNewcomer does what a reader of each page does: it runs the shell blocks that need no cluster in a fresh clone,
// made by a git that is configured as on Windows, with a new make run in another terminal.
func TestNewcomer(t *testing.T) {
	clone := t.TempDir()
	require.NoError(t, checkouttest.Clone(repository, t.TempDir(), clone))

	t.Run("no line ends in a carriage return", func(t *testing.T) {
		for line := range strings.Lines(run(t, clone, nil, "git", "ls-files", "--eol")) {
			assert.Regexp(t, `w/(lf|-text|none) `, line)
		}
	})

	for _, line := range []string{"./deploy.sh", "make test", "make run", "./test.sh"} {
		assert.Regexp(t, "(?m)^```sh[^`]*^"+regexp.QuoteMeta(line)+`\b`, read(t, "README.md"), "the README does not show it")
	}

	pages := docstest.Pages(t, clone)
	for _, file := range slices.Sorted(maps.Keys(pages)) {
		blocks := slices.DeleteFunc(pages[file].Blocks, func(b docstest.Block) bool { return !b.Is() })
		if len(blocks) == 0 {
			continue
		}
		t.Run(file, func(t *testing.T) {
			run(t, clone, nil, "make", "reset")
			address := makeRun(t, clone)
			// A page must not touch a cluster or the Docker of the machine that runs this test.
			environment := append(inFolder(t, clone, nil, "sh").Env, "INVOICE_APP_URL=http://"+address,
				"DOCKER_HOST=unix:///nonexistent", "KUBECONFIG=/dev/null")
			replace := map[string]string{"localhost:8081": address, "make run": ": it runs"}
			for _, b := range blocks {
				b.Run(t, clone, environment, replace, false)
			}
		})
	}
}

// makeRun starts both services and returns the address of invoice-app.
func makeRun(t *testing.T, clone string) string {
	invoiceApp, paymentProvider := porttest.Free(t), porttest.Free(t)
	address := fmt.Sprintf("localhost:%d", invoiceApp)
	start(t, clone, []string{
		fmt.Sprintf("INVOICE_APP_PORT=%d", invoiceApp), fmt.Sprintf("PAYMENT_PROVIDER_PORT=%d", paymentProvider),
	}, "make", "run")
	require.Eventually(t, func() bool {
		response, err := http.Get("http://" + address + "/readyz")
		if err != nil {
			return false
		}
		response.Body.Close()
		return response.StatusCode == http.StatusOK
	}, patience, 100*time.Millisecond, "invoice-app does not become ready")
	return address
}

// run returns the standard output of a command.
func run(t *testing.T, folder string, environment []string, name string, arguments ...string) string {
	t.Helper()
	command := inFolder(t, folder, environment, name, arguments...)
	var stderr bytes.Buffer
	command.Stderr = &stderr
	stdout, err := command.Output()
	require.NoError(t, err, "%v:\n%s%s", command.Args, stdout, stderr.Bytes())
	return string(stdout)
}

// start runs a command until the end of the test, and then interrupts it like Ctrl-C.
func start(t *testing.T, folder string, environment []string, name string, arguments ...string) {
	t.Helper()
	command := inFolder(t, folder, environment, name, arguments...)
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // as a terminal does
	command.Cancel = func() error { return syscall.Kill(-command.Process.Pid, syscall.SIGINT) }
	command.WaitDelay = patience
	var output bytes.Buffer
	command.Stdout, command.Stderr = &output, &output
	require.NoError(t, command.Start())
	t.Cleanup(func() {
		_ = command.Wait() // the test's context has ended; an interrupted make fails
		assert.Contains(t, output.String(), "all services are stopped")
		if t.Failed() {
			t.Logf("%v:\n%s", command.Args, output.Bytes())
		}
	})
}

func inFolder(t *testing.T, folder string, environment []string, name string, arguments ...string) *exec.Cmd {
	command := exec.CommandContext(t.Context(), name, arguments...)
	command.Dir = folder
	command.Env = append(checkouttest.Environment(), environment...)
	return command
}
