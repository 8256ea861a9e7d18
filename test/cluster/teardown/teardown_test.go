// Package teardown removes a test's cluster, and sees that nothing of it is left, and nothing else gone.
package teardown

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	inventories "example.com/invoices/test/cluster/inventory"
	"example.com/invoices/test/cluster/target"
)

// TestNothingIsLeft removes the cluster that package target finds, and sees that those whose names begin
// like its own are as they were: one of the same product, NEIGHBOUR, is removed only then. BEFORE is what
// package inventory listed before the cluster was made, when NEIGHBOUR was there already.
func TestNothingIsLeft(t *testing.T) {
	before, name, neighbour := lines(os.Getenv("BEFORE")), os.Getenv("CLUSTER_NAME"), os.Getenv("NEIGHBOUR")
	require.NotEmpty(t, neighbour, "NEIGHBOUR is not set: test/cluster/run sets it")
	cluster, err := target.FromEnvironment("../../..")
	require.NoError(t, err)

	require.Contains(t, names(inventory(t)), "container /"+cluster.Node, "the cluster is there")
	destroy(t, name)
	after := inventory(t)
	assert.Subset(t, names(before), names(after), "left behind (or made by somebody else meanwhile)")
	assert.GreaterOrEqual(t, len(of(neighbour, before)), 3, "a container, a network and a context")
	assert.Subset(t, after, of(name, before), "another cluster was touched")
	destroy(t, name) // again, with nothing there

	destroy(t, neighbour)
	assert.Empty(t, of(neighbour, inventory(t)), "left behind")
}

// destroy says what a user says.
func destroy(t *testing.T, name string) {
	t.Helper()
	run(t, "env", "CLUSTER_NAME="+name, "./deploy.sh", "--destroy")
}

func inventory(t *testing.T) []string {
	t.Helper()
	taken, err := inventories.Take()
	require.NoError(t, err)
	return taken
}

// names are the lines of an inventory without the states.
func names(inventory []string) (names []string) {
	for _, line := range inventory {
		fields := strings.Fields(line)
		names = append(names, strings.Join(fields[:min(2, len(fields))], " "))
	}
	return names
}

// of are the lines of an inventory that are about a cluster.
func of(cluster string, inventory []string) (found []string) {
	for _, line := range inventory {
		if strings.Contains(line, cluster) {
			found = append(found, line)
		}
	}
	return found
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
