// Package teardown removes a test's cluster, and checks that nothing of it is left behind, and nothing else is removed.
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

// TestDestroy removes the cluster found by package target, and checks that clusters with a common name
// prefix are unchanged. One of them, NEIGHBOUR, has the same product and is removed afterwards. BEFORE is
// the output of package inventory before the cluster was created, when NEIGHBOUR existed already.
func TestDestroy(t *testing.T) {
	before, name, neighbour := lines(os.Getenv("BEFORE")), os.Getenv("CLUSTER_NAME"), os.Getenv("NEIGHBOUR")
	require.NotEmpty(t, neighbour, "NEIGHBOUR is not set: test/cluster/run sets it")
	cluster, err := target.FromEnvironment("../../..")
	require.NoError(t, err)

	require.Contains(t, names(inventory(t)), "container /"+cluster.Node, "there is no cluster")
	destroy(t, name)
	after := inventory(t)
	assert.Subset(t, names(before), names(after), "left behind (or created by another process in the meantime)")
	assert.GreaterOrEqual(t, len(of(neighbour, before)), 3, "a container, a network and a context")
	assert.Subset(t, after, of(name, before), "another cluster was changed")
	destroy(t, name) // again, now that it does not exist

	destroy(t, neighbour)
	assert.Empty(t, of(neighbour, inventory(t)), "left behind")
}

// destroy removes a cluster as a user would.
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

// names returns the lines of an inventory without the states.
func names(inventory []string) (names []string) {
	for _, line := range inventory {
		fields := strings.Fields(line)
		names = append(names, strings.Join(fields[:min(2, len(fields))], " "))
	}
	return names
}

// of returns the lines of an inventory that belong to a cluster.
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
