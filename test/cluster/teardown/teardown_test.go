// Package teardown removes a test's cluster, and sees that nothing of it is left.
package teardown

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/test/cluster/target"
)

// TestNothingIsLeft removes the cluster that package target finds. BEFORE is what
// test/cluster/inventory.sh printed before the cluster was made.
func TestNothingIsLeft(t *testing.T) {
	before := os.Getenv("BEFORE")
	require.NotEmpty(t, before, "BEFORE is not set: test/cluster/run.sh sets it")
	cluster, err := target.FromEnvironment("../../..")
	require.NoError(t, err)

	require.Contains(t, inventory(t), "container "+cluster.Node, "the cluster is there")
	run(t, "./deploy.sh", "--destroy")
	assert.Subset(t, lines(before), inventory(t), "left behind (or made by somebody else meanwhile)")
	run(t, "./deploy.sh", "--destroy") // again, with nothing there
}

func inventory(t *testing.T) []string {
	t.Helper()
	return lines(run(t, "test/cluster/inventory.sh"))
}

func lines(text string) []string { return strings.Split(strings.TrimSpace(text), "\n") }

func run(t *testing.T, name string, arguments ...string) string {
	t.Helper()
	command := exec.Command(name, arguments...)
	command.Dir = "../../.."
	output, err := command.CombinedOutput()
	require.NoError(t, err, "%v:\n%s", command.Args, output)
	return string(output)
}
