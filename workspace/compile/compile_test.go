package compile

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/workspace/paths"
	"example.com/invoices/workspace/process"
	"example.com/invoices/workspace/processtest"
)

func TestMain(m *testing.M) { processtest.Main(m) }

// clone creates a clone with only the files that these tests need, in a folder with an awkward name.
func clone(t *testing.T) (Compiler, *bytes.Buffer) {
	folder := filepath.Join(t.TempDir(), "späte & |Rechnungen|")
	p := paths.Paths{Root: folder + "/clone", Cache: folder + "/cache"}
	for name, content := range map[string]string{
		"clone/tools/cluster/go.mod":               "module cluster\n",
		"clone/tools/cluster/go.sum":               "",
		"clone/tools/cluster/tilt-page/index.html": "our page",
		"tilt/pkg/assets/build/index.html":         "no page",
		"tilt/main.go":                             "package main",
	} {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(folder, name)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(folder, name), []byte(content), 0o444))
	}
	out := &bytes.Buffer{}
	console := &process.Console{Out: out, Logs: p.Logs(), Every: time.Hour}
	return Compiler{Console: console, Paths: p, OS: "plan9", Arch: "mips"}, out
}

// fake returns a fake go.
func fake(c Compiler) func(processtest.Call) processtest.Answer {
	return func(call processtest.Call) processtest.Answer {
		args := strings.Join(call.Args, " ")
		switch {
		case strings.Contains(args, "{{.Version}}"):
			return processtest.Answer{Stdout: "v1.2.3\n"}
		case strings.Contains(args, "{{.Dir}}"):
			return processtest.Answer{Stdout: filepath.Join(filepath.Dir(c.Paths.Root), "tilt") + "\n"}
		case strings.Contains(args, " list -deps "):
			return processtest.Answer{Stdout: "stale: not installed but available in build cache\nstale: stale dependency\n\n" +
				"stale: build ID mismatch\n"}
		case strings.Contains(args, " build "):
			return processtest.Answer{Stderr: "package/one\npackage/two\n"}
		}
		return processtest.Answer{}
	}
}

func calls(program *processtest.Program, word string) []string {
	var found []string
	for _, call := range program.Calls() {
		if strings.Contains(call, " "+word+" ") {
			found = append(found, call)
		}
	}
	return found
}

func TestPrograms(t *testing.T) {
	c, _ := clone(t)
	var environments [][]string
	golang := processtest.Put(t, "go", func(call processtest.Call) processtest.Answer {
		if strings.Contains(strings.Join(call.Args, " "), " build ") {
			environments = append(environments, call.Env)
		}
		return fake(c)(call)
	})
	processtest.Put(t, "cc", func(processtest.Call) processtest.Answer { return processtest.Answer{} })
	folder := c.Paths.Cache + "/bin"
	require.NoError(t, c.Programs(t.Context(), Cluster, folder, "tilt", "kubectl", "kind"))

	builds := calls(golang, "build")
	require.Len(t, builds, 2)
	in := "-C " + c.Paths.Root + "/tools/cluster build -v -trimpath -buildvcs=false -tags=seccomp,no_btrfs,no_devmapper," +
		"no_zfs,netgo,osusergo -ldflags=-s -w -X k8s.io/component-base/version.gitVersion=v1.2.3 " +
		"-X k8s.io/client-go/pkg/version.gitVersion=v1.2.3 " +
		"-ldflags=github.com/tilt-dev/tilt/cmd/tilt=-s -w -X main.version=1.2.3 "
	assert.Equal(t, in+"-o "+folder+"/ k8s.io/kubernetes/cmd/kubectl sigs.k8s.io/kind", builds[0])
	assert.Equal(t, in+"-modfile="+c.Paths.Cache+"/tilt.mod -o "+folder+"/ github.com/tilt-dev/tilt/cmd/tilt", builds[1])
	for i, cgo := range []string{"CGO_ENABLED=0", "CGO_ENABLED=1"} {
		assert.Subset(t, environments[i], []string{"GOOS=plan9", "GOARCH=mips", cgo})
	}

	page, err := os.ReadFile(c.Paths.Cache + "/tilt/pkg/assets/build/index.html")
	require.NoError(t, err)
	assert.Equal(t, "our page", string(page))
	assert.FileExists(t, c.Paths.Cache+"/tilt.sum")
	assert.Contains(t, golang.Calls(), "mod edit -replace=github.com/tilt-dev/tilt="+c.Paths.Cache+"/tilt "+
		c.Paths.Cache+"/tilt.mod")
}

// The copy starts over, in case the last one was interrupted.
func TestTiltIsCopiedFromScratch(t *testing.T) {
	c, _ := clone(t)
	processtest.Put(t, "go", fake(c))
	require.NoError(t, os.MkdirAll(c.Paths.Cache+"/tilt/old", 0o755))
	for range 2 {
		_, err := c.tiltWithPage(t.Context(), Cluster)
		require.NoError(t, err)
		assert.NoDirExists(t, c.Paths.Cache+"/tilt/old")
	}
}

func TestFailure(t *testing.T) {
	for _, failing := range []string{"list -m", "list -deps", "build"} {
		t.Run(failing, func(t *testing.T) {
			c, _ := clone(t)
			golang := processtest.Put(t, "go", func(call processtest.Call) processtest.Answer {
				if strings.Contains(strings.Join(call.Args, " "), failing) {
					return processtest.Answer{Stderr: "no such host\n", Code: 1}
				}
				return fake(c)(call)
			})
			err := c.Programs(t.Context(), Cluster, c.Paths.Cache+"/bin", "kind", "kubectl")
			assert.ErrorContains(t, err, failing)
			assert.Contains(t, golang.Calls()[len(golang.Calls())-1], failing, "nothing may run after a failure")
		})
	}
}

func TestInterrupted(t *testing.T) {
	for _, at := range []string{"list -deps", "build"} {
		t.Run(at, func(t *testing.T) {
			c, _ := clone(t)
			ctx, stop := context.WithCancel(t.Context())
			golang := processtest.Put(t, "go", func(call processtest.Call) processtest.Answer {
				if strings.Contains(strings.Join(call.Args, " "), at) {
					stop()
				}
				return fake(c)(call)
			})
			assert.ErrorIs(t, c.Programs(ctx, Cluster, c.Paths.Cache+"/bin", "kind", "kubectl"), context.Canceled)
			assert.Contains(t, golang.Calls()[len(golang.Calls())-1], at)
		})
	}
}

func TestWithoutGo(t *testing.T) {
	c, _ := clone(t)
	t.Setenv("PATH", t.TempDir())
	assert.EqualError(t, c.Programs(t.Context(), Cluster, c.Paths.Cache, "kind"),
		"this requires Go: see https://go.dev/dl")
}

func TestUnknownProgram(t *testing.T) {
	c, _ := clone(t)
	processtest.Put(t, "go", fake(c))
	assert.EqualError(t, c.Programs(t.Context(), Cluster, c.Paths.Cache, "helm"), "tools/cluster has no program helm")
}

func TestProgress(t *testing.T) {
	for _, test := range []struct {
		progress progress
		compiled int
		want     string
	}{
		{progress{total: 100}, 0, "0 of 100 packages"},
		{progress{total: 100}, 25, "25 of 100 packages, about 0m30s left"},
		{progress{total: 100, before: 50}, 25, "75 of 100 packages, about 0m10s left"},
		{progress{total: 100, before: 100}, 0, "100 of 100 packages"},
		{progress{total: 100}, 110, "110 of 110 packages"}, // the total is an estimate
	} {
		assert.Equal(t, test.want, test.progress.describe(test.compiled, 10*time.Second))
	}
}

// The programs are exactly the tools in go.mod.
func TestProgramsMatchGoMod(t *testing.T) {
	for _, module := range []Module{Cluster, Minikube, Crictl} {
		content, err := os.ReadFile("../../tools/" + module.name + "/go.mod")
		require.NoError(t, err)
		var pinned []string
		inBlock := false
		for line := range strings.Lines(string(content)) {
			line = strings.TrimSpace(line)
			switch tool, single := strings.CutPrefix(line, "tool "); {
			case line == "tool (":
				inBlock = true
			case line == ")":
				inBlock = false
			case inBlock:
				pinned = append(pinned, line)
			case single:
				pinned = append(pinned, tool)
			}
		}
		var compiled []string
		for _, program := range module.programs {
			if strings.HasPrefix(program.path, "./") {
				assert.DirExists(t, filepath.Join("../../tools", module.name, program.path))
				continue
			}
			compiled = append(compiled, program.path)
		}
		assert.ElementsMatch(t, pinned, compiled, module.name)
	}
}

func TestInputs(t *testing.T) {
	c, _ := clone(t)
	var version atomic.Value
	version.Store("go1.99")
	processtest.Put(t, "go", func(processtest.Call) processtest.Answer {
		return processtest.Answer{Stdout: version.Load().(string) + "\n"}
	})
	inputs := func(m Module) string {
		hash, err := m.Inputs(t.Context(), c.Paths)
		require.NoError(t, err)
		assert.NotContains(t, hash, "/", "a label with a slash means that the image was pulled")
		return hash
	}
	before := inputs(Cluster)
	assert.Equal(t, before, inputs(Cluster))
	other := Cluster
	other.flags = append([]string{"-race"}, Cluster.flags...)
	assert.NotEqual(t, before, inputs(other))
	version.Store("go1.100")
	assert.NotEqual(t, before, inputs(Cluster))
	version.Store("go1.99")
	require.NoError(t, os.Chmod(c.Paths.Root+"/tools/cluster/go.sum", 0o644))
	require.NoError(t, os.WriteFile(c.Paths.Root+"/tools/cluster/go.sum", []byte("another"), 0o644))
	assert.NotEqual(t, before, inputs(Cluster))
}
