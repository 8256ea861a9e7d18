// Package rename changes the module path, the product and the teams of a clone with `workspace/run rename`, and runs
// the checks and the unit tests of the result.
package rename

import (
	"bytes"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/internal/checkouttest"
)

const repository = "../.."

// succeeded matches what go test prints of the packages that did not fail, which would hide the others.
var succeeded = regexp.MustCompile(`(?m)^(ok  |\?   )\t.*\n`)

func TestRename(t *testing.T) {
	clone := t.TempDir()
	require.NoError(t, checkouttest.Commit(repository, clone))
	run := func(name string, args ...string) {
		t.Helper()
		began := time.Now()
		output, err := inFolder(t, clone, name, args...).CombinedOutput()
		require.NoError(t, err, "%s %v:\n%s", name, args, succeeded.ReplaceAll(output, nil))
		t.Logf("%s %s took %s", name, strings.Join(args, " "), time.Since(began).Round(time.Second))
	}
	run("workspace/run", "rename", "--module=github.com/acme/billing", "--product=bills",
		"--team=invoicing=sales,payments=treasury")

	for name, pattern := range map[string]string{
		"the module": `example\.com/invoices`,
		"the product": `(kind|minikube)-invoices|invoices-(registry|test|bench)|invoices/[a-z-]+:(local|root)|` +
			`cache/invoices|=invoices\b`,
	} {
		assert.Empty(t, grep(t, clone, "-E", pattern), "%s still has its old name", name)
	}
	// Go code is excluded, since its tests name databases and variables like a team; payments is also the name of a table
	// and of a path.
	assert.Empty(t, grep(t, clone, "-w", "invoicing", "--", ":!*.go"))
	assert.Empty(t, grep(t, clone, "-E", `team-payments|payments\.svc|namespace[:= ]payments`, "--", ":!*.go"))

	run("make", "check")
	run("go", "test", "-count=1", "-run=Link|Command|Message", "./test/docs")
	run("sh", "-c", `go test $(go list ./... | grep -v /test/)`)
	run("go", "-C", "workspace", "test", "./...")
}

// grep returns the matching lines of the clone, except those of the code that renames and of its tests.
func grep(t *testing.T, clone string, args ...string) string {
	t.Helper()
	args = append([]string{"grep", "-nI", "--untracked"}, args...)
	if !strings.Contains(strings.Join(args, " "), " -- ") {
		args = append(args, "--")
	}
	args = append(args, ":!test/rename", ":!workspace/rename")
	var stderr bytes.Buffer
	command := inFolder(t, clone, "git", args...)
	command.Stderr = &stderr
	output, _ := command.Output() // git grep fails if nothing matches
	require.Empty(t, stderr.String())
	return string(output)
}

func inFolder(t *testing.T, folder, name string, args ...string) *exec.Cmd {
	command := exec.CommandContext(t.Context(), name, args...)
	command.Dir, command.Env = folder, checkouttest.Environment()
	return command
}
