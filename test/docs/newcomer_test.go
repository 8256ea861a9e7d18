package docs

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/internal/checkouttest"
	"example.com/invoices/internal/porttest"
)

// patience is for what takes seconds on a machine that has nothing else to do.
const patience = 5 * time.Minute

// TestNewcomer does what the README's first screen says, in a fresh clone made by a git that is set up
// as on Windows. What needs a cluster is asked for its help only: test/cluster/run is its real run.
func TestNewcomer(t *testing.T) {
	clone := t.TempDir()
	require.NoError(t, checkouttest.Clone(repository, t.TempDir(), clone))

	t.Run("no line ends in a carriage return", func(t *testing.T) {
		for line := range strings.Lines(run(t, clone, nil, "git", "ls-files", "--eol")) {
			assert.Regexp(t, `w/(lf|-text|none) `, line)
		}
	})

	targets := run(t, clone, nil, "make", "help")
	covered := map[string]bool{}
	for _, line := range commands(t) {
		covered[line] = true
		words := strings.Fields(line)
		t.Run(line, func(t *testing.T) {
			switch {
			case words[0] == "make" && len(words) == 2:
				assert.Contains(t, targets, "  "+line+" ", "make help does not list it")
				run(t, clone, nil, "make", "--dry-run", words[1])
			case strings.HasPrefix(words[0], "./"):
				assert.NotEmpty(t, run(t, clone, []string{"XDG_CACHE_HOME=" + t.TempDir()}, words[0], "--help"))
			default:
				assert.Fail(t, "this test does not know how to try it")
			}
		})
	}
	for _, line := range []string{"./deploy.sh", "make test", "make run", "./test.sh"} {
		require.True(t, covered[line], "the README does not say %s", line)
	}

	t.Run("make run, then test.sh", func(t *testing.T) {
		invoiceApp, paymentProvider := porttest.Free(t), porttest.Free(t)
		address := fmt.Sprintf("http://127.0.0.1:%d", invoiceApp)
		start(t, clone, []string{
			fmt.Sprintf("INVOICE_APP_PORT=%d", invoiceApp), fmt.Sprintf("PAYMENT_PROVIDER_PORT=%d", paymentProvider),
		}, "make", "run")
		require.Eventually(t, func() bool {
			response, err := http.Get(address + "/readyz")
			if err != nil {
				return false
			}
			response.Body.Close()
			return response.StatusCode == http.StatusOK
		}, patience, 100*time.Millisecond, "invoice-app does not get ready")
		var paid []struct {
			InvoiceID string `json:"InvoiceId"`
			IsPaid    bool   `json:"IsPaid"`
		}
		require.NoError(t, json.Unmarshal([]byte(run(t, clone, []string{"INVOICE_APP_URL=" + address}, "./test.sh")), &paid))
		require.Len(t, paid, 3)
		for _, invoice := range paid {
			assert.True(t, invoice.IsPaid, invoice.InvoiceID)
		}
	})
}

// commands are the lines of the README's blocks of shell, without comments.
func commands(t *testing.T) []string {
	var lines []string
	for _, b := range readPage(read(t, "README.md")).blocks {
		if b.language != "sh" {
			continue
		}
		for line := range strings.Lines(b.code) {
			line, _, _ = strings.Cut(line, "#")
			if line = strings.TrimSpace(line); line != "" {
				lines = append(lines, line)
			}
		}
	}
	return lines
}

// run returns what a command prints to its standard output.
func run(t *testing.T, folder string, environment []string, name string, arguments ...string) string {
	t.Helper()
	command := inFolder(t, folder, environment, name, arguments...)
	var stderr bytes.Buffer
	command.Stderr = &stderr
	stdout, err := command.Output()
	require.NoError(t, err, "%v:\n%s%s", command.Args, stdout, stderr.Bytes())
	return string(stdout)
}

// start runs a command until the end of the test, and ends it as Ctrl-C does.
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
		_ = command.Wait() // the test's context has ended; make counts being interrupted as a failure
		assert.Contains(t, output.String(), "both are stopped")
		if t.Failed() {
			t.Logf("%v:\n%s", command.Args, output.Bytes())
		}
	})
}

func inFolder(t *testing.T, folder string, environment []string, name string, arguments ...string) *exec.Cmd {
	command := exec.CommandContext(t.Context(), name, arguments...)
	command.Dir = folder
	// Not what a make or a git that started this test has told it.
	command.Env = append(slices.DeleteFunc(os.Environ(), func(variable string) bool {
		return strings.HasPrefix(variable, "MAKE") || strings.HasPrefix(variable, "GIT_")
	}), environment...)
	return command
}
