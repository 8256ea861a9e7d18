package tools

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/workspace/paths"
	"example.com/invoices/workspace/process"
	"example.com/invoices/workspace/processtest"
)

func TestMain(m *testing.M) { processtest.Main(m) }

// machine has fake tools of given versions on PATH, and a fake go that writes a file for each program it should build.
type machine struct {
	paths   paths.Paths
	console *process.Console
	golang  *processtest.Program
	fail    bool // go build
}

func newMachine(t *testing.T, onPath map[string]string) *machine {
	folder := filepath.Join(t.TempDir(), "späte & |Rechnungen|")
	m := &machine{paths: paths.Paths{Root: folder + "/clone", Cache: folder + "/cache"}}
	m.console = &process.Console{Out: io.Discard, Logs: m.paths.Logs(), Every: time.Hour}
	for _, name := range []string{"cluster/go.mod", "cluster/go.sum", "cluster/tilt-page/index.html", "minikube/go.mod"} {
		write(t, filepath.Join(m.paths.Root, "tools", name), "")
	}
	write(t, folder+"/tilt/pkg/assets/build/index.html", "")
	t.Setenv("PATH", t.TempDir()) // without this machine's tools
	m.golang = processtest.Put(t, "go", func(call processtest.Call) processtest.Answer {
		switch args := strings.Join(call.Args, " "); {
		case strings.Contains(args, "{{.Dir}}"):
			return processtest.Answer{Stdout: folder + "/tilt"}
		case strings.Contains(args, " build "):
			if m.fail {
				return processtest.Answer{Code: 1}
			}
			for i, arg := range call.Args {
				if arg == "-o" {
					for _, program := range call.Args[i+2:] {
						write(t, call.Args[i+1]+filepath.Base(program), "compiled")
					}
				}
			}
		}
		return processtest.Answer{}
	})
	processtest.Put(t, "cc", func(processtest.Call) processtest.Answer { return processtest.Answer{} })
	for name, version := range onPath {
		processtest.Put(t, name, func(call processtest.Call) processtest.Answer {
			want := "version"
			if name == "kubectl" {
				want = "version --client"
			}
			assert.Equal(t, want, strings.Join(call.Args, " "))
			return processtest.Answer{Stdout: name + " v" + version + ", built yesterday 1.0.0\n"}
		})
	}
	return m
}

func write(t *testing.T, name, content string) {
	require.NoError(t, os.MkdirAll(filepath.Dir(name), 0o755))
	require.NoError(t, os.WriteFile(name, []byte(content), 0o755))
}

func (m *machine) ensure(t *testing.T, products ...string) error {
	folder, err := Ensure(t.Context(), m.console, m.paths, products...)
	if err == nil {
		assert.Equal(t, m.paths.Cache+"/bin", folder)
	}
	return err
}

// compiled returns the tools that go was told to build, in order.
func (m *machine) compiled() string {
	var names []string
	for _, call := range m.golang.Calls() {
		if strings.Contains(call, " build ") {
			_, programs, _ := strings.Cut(call, "/bin/ ")
			for _, program := range strings.Fields(programs) {
				names = append(names, filepath.Base(program))
			}
		}
	}
	return strings.Join(names, " ")
}

func (m *machine) content(t *testing.T, tool string) string {
	content, err := os.ReadFile(filepath.Join(m.paths.Bin(), tool))
	require.NoError(t, err)
	return string(content)
}

func TestMissingToolsAreCompiledOnce(t *testing.T) {
	m := newMachine(t, nil)
	require.NoError(t, m.ensure(t))
	assert.Equal(t, "ctlptl kind kubectl tilt", m.compiled())
	require.NoError(t, m.ensure(t))
	assert.Equal(t, "ctlptl kind kubectl tilt", m.compiled())

	require.NoError(t, m.ensure(t, "kind"))
	assert.NoFileExists(t, m.paths.Bin()+"/minikube")
	require.NoError(t, m.ensure(t, "minikube"))
	assert.Equal(t, "ctlptl kind kubectl tilt minikube", m.compiled())

	require.NoError(t, os.Remove(m.paths.Bin()+"/kind"))
	require.NoError(t, m.ensure(t, "minikube"))
	assert.Equal(t, "ctlptl kind kubectl tilt minikube kind", m.compiled())
}

func TestChangedPinsAreCompiled(t *testing.T) {
	m := newMachine(t, map[string]string{"kubectl": "1.40.0", "ctlptl": "0.9.0", "kind": "1.0.0"})
	require.NoError(t, m.ensure(t))
	write(t, m.paths.Root+"/tools/cluster/go.sum", "new pins")
	require.NoError(t, m.ensure(t))
	assert.Equal(t, "tilt tilt", m.compiled())
}

func TestToolsOnPathAreUsed(t *testing.T) {
	m := newMachine(t, map[string]string{
		"tilt": "0.37.3", "ctlptl": "0.10.1", "kind": "0.29.9", "kubectl": "2.0.0"})
	require.NoError(t, m.ensure(t))
	assert.Equal(t, "kind", m.compiled(), "only kind is too old")
	for _, tool := range []string{"tilt", "ctlptl", "kubectl"} {
		target, err := os.Readlink(filepath.Join(m.paths.Bin(), tool))
		require.NoError(t, err)
		assert.Equal(t, tool, filepath.Base(target))
	}
	require.NoError(t, m.ensure(t))
	assert.Equal(t, "kind", m.compiled())
}

// A link to a tool that is too old or gone is replaced, and its target left alone.
func TestCompilingDoesNotWriteThroughLinks(t *testing.T) {
	m := newMachine(t, map[string]string{"tilt": "0.37.3"})
	elsewhere := t.TempDir()
	write(t, elsewhere+"/kind", "#!/bin/sh\necho kind v0.1.0\n")
	require.NoError(t, os.MkdirAll(m.paths.Bin(), 0o755))
	require.NoError(t, os.Symlink(elsewhere+"/kind", m.paths.Bin()+"/kind"))
	require.NoError(t, os.Symlink(elsewhere+"/gone", m.paths.Bin()+"/kubectl"))
	require.NoError(t, m.ensure(t))
	assert.Equal(t, "ctlptl kind kubectl", m.compiled())
	assert.Equal(t, "compiled", m.content(t, "kind"))
	content, err := os.ReadFile(elsewhere + "/kind")
	require.NoError(t, err)
	assert.Contains(t, string(content), "echo")
	assert.NoFileExists(t, elsewhere+"/gone")
}

// PATH may include our folder, and another folder with a link to one of our tools.
func TestToolIsNotLinkedToItself(t *testing.T) {
	m := newMachine(t, nil)
	require.NoError(t, m.ensure(t))
	elsewhere := t.TempDir()
	ours := m.paths.Bin() + "/kind"
	write(t, ours, "#!/bin/sh\necho kind v1.0.0\n")
	require.NoError(t, os.Symlink(ours, elsewhere+"/kind"))
	t.Setenv("PATH", m.paths.Bin()+":"+elsewhere+":"+os.Getenv("PATH"))
	require.NoError(t, m.ensure(t))
	info, err := os.Lstat(ours)
	require.NoError(t, err)
	assert.True(t, info.Mode().IsRegular())
	assert.Equal(t, "ctlptl kind kubectl tilt", m.compiled())
}

func TestFailedCompilationIsRepeated(t *testing.T) {
	m := newMachine(t, nil)
	m.fail = true
	assert.ErrorContains(t, m.ensure(t), "compiling ctlptl kind kubectl: failed")
	m.fail = false
	require.NoError(t, m.ensure(t))
	assert.Equal(t, "ctlptl kind kubectl ctlptl kind kubectl tilt", m.compiled())
}

func TestInterrupted(t *testing.T) {
	m := newMachine(t, nil)
	require.NoError(t, m.ensure(t))
	ctx, stop := context.WithCancel(t.Context())
	stop()
	_, err := Ensure(ctx, m.console, m.paths)
	assert.ErrorIs(t, err, context.Canceled)
	assert.Equal(t, "compiled", m.content(t, "tilt"), "an interrupted check must not remove anything")
}

func TestTwoAtOnce(t *testing.T) {
	m := newMachine(t, nil)
	var both sync.WaitGroup
	for range 2 {
		both.Go(func() { assert.NoError(t, m.ensure(t)) })
	}
	both.Wait()
	assert.Equal(t, "ctlptl kind kubectl tilt", m.compiled())
}

func TestOlder(t *testing.T) {
	assert.True(t, older("0.9.22", "0.20.0"))
	assert.True(t, older("", "0.0.1"))
	assert.True(t, older("1.2.3", "1.10.0"))
	assert.False(t, older("1.10.0", "1.10.0"))
	assert.False(t, older("2.0.0", "1.10.0"))
}
