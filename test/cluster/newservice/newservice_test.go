// Package newservice follows docs/adding-a-service.md in a clone, on a cluster made by ./deploy.sh that must be named:
// see package target. It leaves the cluster unchanged.
package newservice

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/internal/checkouttest"
	"example.com/invoices/internal/docstest"
	"example.com/invoices/internal/porttest"
	"example.com/invoices/test/cluster/target"
	"example.com/invoices/workspace/services"
)

const (
	repository = "../../.."
	page       = "docs/adding-a-service.md"
	added      = "reporting" // the service, and its team

	// enough is a generous limit for everything that must happen.
	enough = 5 * time.Minute
)

func TestThePageAddsAService(t *testing.T) {
	cluster, err := target.FromEnvironment(repository)
	require.NoError(t, err)
	known, err := services.Read(repository)
	require.NoError(t, err)
	c := clone{
		T: t, cluster: cluster, product: known.Product, folder: t.TempDir(),
		blocks: docstest.Pages(t, repository)[page].Blocks,
	}
	require.NoError(t, checkouttest.Commit(repository, c.folder))
	before, pods := c.objects(), c.pods()
	list := c.read(services.File)

	c.Run("the files", func(t *testing.T) {
		c := c.in(t)
		for _, block := range c.blocks {
			switch key, name, _ := strings.Cut(strings.Join(block.Marks, " "), "="); key {
			case "file":
				require.NoFileExists(t, c.path(name))
				c.write(name, block.Code)
			case "add-to":
				c.write(name, c.read(name)+block.Code)
			}
		}
		c.do("generate")
		assert.Len(t, c.changed(), 14, "as the page says: %v", c.changed())
	})
	c.Run("the checks pass", func(t *testing.T) {
		c := c.in(t)
		assert.Equal(t, "make check\n", c.block("check")) // the following are the parts that could fail
		c.run("gofmt", "-d", added)
		c.run("go", "vet", "./"+added)
		c.run("workspace/run", "generate", "--check")
		c.run("go", "-C", "test/cluster", "test", "-count=1", "./manifests", "./access")
	})
	if t.Failed() {
		return
	}
	t.Cleanup(func() { // if the test does not get to the page's own removal
		_ = c.kubectl("delete", "namespace", added, "--ignore-not-found").Run()
	})
	c.Run("deploying leaves the other services alone", func(t *testing.T) {
		c := c.in(t)
		c.do("deploy")
		for name, uid := range c.pods() {
			if !strings.HasPrefix(name, added+"/") {
				assert.Equal(t, pods[name], uid, "%s was replaced", name)
			}
		}
	})
	c.Run("the service responds", func(t *testing.T) {
		c := c.in(t)
		total := func() json.Number {
			var totals map[string]json.Number
			require.NoError(t, json.Unmarshal([]byte(c.do("call")), &totals))
			return totals["EUR"]
		}
		require.Empty(t, total(), "deploying has paid all invoices")
		body := fmt.Sprintf(`{"InvoiceId": "reporting-%d", "Value": 12.34, "Currency": "EUR"}`, time.Now().UnixNano())
		response, err := http.Post(c.cluster.InvoiceApp+"/invoices", "application/json", strings.NewReader(body))
		require.NoError(t, err)
		response.Body.Close()
		require.Equal(t, http.StatusCreated, response.StatusCode)
		assert.EqualValues(t, "12.34", total())
	})
	c.Run("the policies apply to it", func(t *testing.T) {
		// Its network edges, the permissions of its team, and the admission policies.
		const tests = "^(TestNetworkEdges|TestAccess|TestTeamsKubeconfig|TestAdmission)$/" + added
		said := c.in(t).run("go", "-C", "test/cluster", "test", "-count=1", "-v", "-run="+tests, "./e2e")
		for _, test := range []string{"TestNetworkEdges/" + added, "TestNetworkEdges/stranger_in_" + added,
			"TestAccess/team-" + added, "TestTeamsKubeconfig/team-" + added, "TestAdmission/" + added} {
			assert.Contains(t, said, "--- PASS: "+test+" ")
		}
	})
	c.Run("a save is live", func(t *testing.T) { c.in(t).save() })
	c.Run("the service is removed", func(t *testing.T) {
		c := c.in(t)
		c.write(services.File, list)
		c.do("remove")
		assert.Empty(t, c.changed(), "the clone is as before")
		c.do("remove-from-cluster")
		assert.Equal(t, before, c.objects())
	})
}

// clone is a copy of the checkout.
type clone struct {
	*testing.T
	cluster target.Target
	product string // part of the usual cluster's name
	folder  string
	blocks  []docstest.Block
}

// in returns the same clone for a subtest.
func (c clone) in(t *testing.T) clone {
	c.T = t
	return c
}

// block returns the commands of the block that is marked with newservice and this word.
func (c clone) block(mark string) string {
	c.Helper()
	i := slices.IndexFunc(c.blocks, func(b docstest.Block) bool { return b.Is("newservice", mark) })
	require.GreaterOrEqual(c, i, 0, "%s has no block %s", page, mark)
	return c.blocks[i].Code
}

// do runs the commands of a block, with the name of this cluster.
func (c clone) do(mark string) string {
	c.Helper()
	return c.run("sh", "-ec", strings.ReplaceAll(c.block(mark), "kind-"+c.product, c.cluster.Context))
}

// run runs a command in the clone, and returns its standard output.
func (c clone) run(name string, args ...string) string {
	c.Helper()
	began := time.Now()
	command := exec.CommandContext(c.Context(), name, args...)
	command.Dir = c.folder
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	require.NoError(c, command.Run(), "%v:\n%s%s", command.Args, &stdout, &stderr)
	c.Logf("%v took %s", command.Args, time.Since(began).Round(100*time.Millisecond))
	return stdout.String()
}

func (c clone) kubectl(args ...string) *exec.Cmd {
	return exec.Command("kubectl", append([]string{"--context=" + c.cluster.Context}, args...)...)
}

func (c clone) get(args ...string) string {
	c.Helper()
	said, err := c.kubectl(append([]string{"get"}, args...)...).Output()
	require.NoError(c, err)
	return string(said)
}

func (c clone) path(name string) string { return filepath.Join(c.folder, name) }

func (c clone) read(name string) string {
	c.Helper()
	content, err := os.ReadFile(c.path(name))
	require.NoError(c, err)
	return string(content)
}

func (c clone) write(name, content string) {
	c.Helper()
	require.NoError(c, os.MkdirAll(filepath.Dir(c.path(name)), 0o755))
	require.NoError(c, os.WriteFile(c.path(name), []byte(content), 0o644))
}

// changed returns the files that differ from the commit.
func (c clone) changed() []string {
	c.Helper()
	return strings.FieldsFunc(c.run("git", "status", "--porcelain", "--untracked-files=all"),
		func(r rune) bool { return r == '\n' })
}

// objects lists the product's objects.
func (c clone) objects() string {
	c.Helper()
	const kinds = "namespaces,persistentvolumes,persistentvolumeclaims,deployments,statefulsets,services,configmaps," +
		"serviceaccounts,networkpolicies,poddisruptionbudgets,resourcequotas,limitranges,roles,rolebindings"
	return c.get(kinds, "--all-namespaces", "--selector=app.kubernetes.io/part-of",
		"--output=custom-columns=:.kind,:.metadata.namespace,:.metadata.name")
}

// pods returns the UIDs of the services' pods, by namespace and name.
func (c clone) pods() map[string]string {
	c.Helper()
	found := map[string]string{}
	said := c.get("pods", "--all-namespaces", "--selector=app.kubernetes.io/name", "--no-headers",
		"--output=custom-columns=:.metadata.namespace,:.metadata.name,:.metadata.uid")
	for line := range strings.Lines(said) {
		fields := strings.Fields(line)
		found[fields[0]+"/"+fields[1]] = fields[2]
	}
	return found
}

// save changes the program while tilt up is running, and waits until every pod runs the new version.
func (c clone) save() {
	port := strconv.Itoa(porttest.Free(c))
	var said bytes.Buffer
	tilt := exec.Command("tilt", "up", "--stream", "--context", c.cluster.Context, "--port", port, added)
	tilt.Dir, tilt.Stdout, tilt.Stderr = c.folder, &said, &said
	tilt.WaitDelay = 10 * time.Second // for child processes that have its output open
	require.NoError(c, tilt.Start())
	defer func() {
		_ = tilt.Process.Signal(os.Interrupt)
		_ = tilt.Wait() // an error, since it was interrupted
		if c.Failed() {
			c.Logf("output of tilt up:\n%s", &said)
		}
	}()

	live := func(version string) func() bool {
		return func() bool {
			names, err := c.kubectl("--namespace="+added, "get", "pods", "--output=jsonpath={.items[*].metadata.name}").Output()
			if err != nil || len(strings.Fields(string(names))) != 3 {
				return false
			}
			for _, name := range strings.Fields(string(names)) {
				description, err := c.kubectl("get", "--raw",
					"/api/v1/namespaces/"+added+"/pods/"+name+":8083/proxy/openapi.yaml").Output()
				if err != nil || !strings.Contains(string(description), version) {
					return false
				}
			}
			return true
		}
	}
	name := added + "/main.go"
	code := c.read(name)
	require.Contains(c, code, `version: "1"`)
	// The image of tilt up's pods is the supervisor's, and Tilt builds the program.
	require.Eventually(c, func() bool {
		images, err := c.kubectl("--namespace="+added, "get", "pods",
			"--output=jsonpath={.items[*].spec.containers[*].image}").Output()
		return err == nil && strings.Count(string(images), "supervisor") == 3 && !strings.Contains(string(images), "/"+added)
	}, enough, time.Second, "tilt up has replaced the pods")
	require.Eventually(c, live(`version: "1"`), enough, time.Second, "three pods respond")
	saved := time.Now()
	c.write(name, strings.Replace(code, `version: "1"`, `version: "saved"`, 1))
	require.Eventually(c, live(`version: "saved"`), enough, 100*time.Millisecond, "the save is live")
	c.Logf("the save was live in three pods after %s", time.Since(saved).Round(100*time.Millisecond))
}
