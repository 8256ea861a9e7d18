package main

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestMain also runs the test's binary as kubectl proxy, and as what go build runs in place of its tools.
func TestMain(m *testing.M) {
	if api := os.Getenv("API"); api != "" {
		proxyTo(api)
		return
	}
	if len(os.Args) > 1 && os.Args[1] == "record" {
		main()
	}
	os.Exit(m.Run())
}

func proxyTo(api string) {
	for _, argument := range os.Args {
		if socket, is := strings.CutPrefix(argument, "--unix-socket="); is {
			listener, err := net.Listen("unix", socket)
			if err != nil {
				panic(err)
			}
			to, _ := url.Parse(api)
			panic(http.Serve(listener, httputil.NewSingleHostReverseProxy(to)))
		}
	}
}

// enough only ends a test that hangs.
const enough = time.Minute

// fixture is a project with two programs, the watcher that builds them, and a cluster that answers as the test wants.
type fixture struct {
	*testing.T
	*server
	cluster *cluster
	context string // kubectl's
	end     func()
}

// cluster is an API server. Its pods run what was delivered, unless they do something else.
type cluster struct {
	mu         sync.Mutex
	folder     string
	command    string         // of the Deployments' container
	pods       []string       // their names
	failed     string         // what the pods say of a new program
	behind     bool           // the pods do not run the program
	status     map[string]any // of the pods
	calls      []string       // what was changed
	deployment bool
	generation int    // of the Deployment
	observed   int    // by its controller, when it is asked for the second time
	asked      bool   // for the first time
	rollout    func() // what happens then
}

func (c *cluster) set(do func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	do()
}

func (c *cluster) changes() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]string{}, c.calls...)
}

func (c *cluster) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	path := strings.Trim(r.URL.Path, "/")
	if r.Method == http.MethodPatch {
		body, _ := io.ReadAll(r.Body)
		c.calls = append(c.calls, path+" "+string(body))
		c.generation, c.asked = c.generation+1, false
	}
	var pods []any
	for _, name := range c.pods {
		pods = append(pods, map[string]any{"metadata": map[string]any{"name": name}, "status": c.status})
	}
	var said any
	switch {
	case strings.HasSuffix(path, "/proxy"):
		said = answer{Serves: !c.behind && c.failed == "", Failed: c.failed}
	case strings.Contains(path, "/deployments/") && c.deployment:
		if r.Method == http.MethodGet {
			if c.asked && c.observed < c.generation {
				c.observed = c.generation
				if c.rollout != nil {
					c.rollout()
				}
			}
			c.asked = true
		}
		said = map[string]any{"metadata": map[string]any{"generation": c.generation}, "status": map[string]any{
			"observedGeneration": c.observed, "replicas": len(c.pods), "updatedReplicas": len(c.pods),
			"availableReplicas": len(c.pods),
		}, "spec": map[string]any{
			"replicas": len(c.pods),
			"selector": map[string]any{"matchLabels": map[string]any{"app": "till"}},
			"template": map[string]any{"spec": map[string]any{"containers": []any{
				map[string]any{"command": []string{c.command}},
			}}},
		}}
	case strings.HasSuffix(path, "/pods"):
		said = map[string]any{"items": pods}
	default:
		http.NotFound(w, r)
		return
	}
	_ = json.NewEncoder(w).Encode(said)
}

// shop creates a project and starts its watcher.
func shop(t *testing.T) *fixture {
	t.Helper()
	folder, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	folder = filepath.Join(folder, "a project & ü")
	for file, content := range map[string]string{
		"go.mod":           "module example.com/shop\n\ngo 1.26\n",
		"internal/name.go": "package internal\n\nconst Name = \"first\"\n",
		"internal/not.go":  "//go:build !cluster\n\npackage internal\n\nthis is not Go\n",
		"till/main.go": "package main\n\nimport \"example.com/shop/internal\"\n\n" +
			"func main() { println(internal.Name) }\n",
		"till/migrations/1.sql": "CREATE TABLE t ()",
		"door/main.go":          "package main\n\nfunc main() { println(\"door\") }\n",
		"other/main.go":         "package main\n\nthis is not Go\n",
		"live/till/.keep":       "", // of an earlier session
	} {
		write(t, filepath.Join(folder, file), content)
	}
	t.Chdir(folder)
	f := &fixture{T: t, cluster: &cluster{
		command: "/supervisor", pods: []string{"a", "b"}, deployment: true, folder: filepath.Join(folder, "live"),
	}}
	api := httptest.NewServer(f.cluster)
	t.Cleanup(api.Close)
	bin := t.TempDir()
	write(t, filepath.Join(bin, "kubectl"), fmt.Sprintf("#!/bin/sh\necho \"$@\" >>%q/kubectl.log\n"+
		"[ \"$1\" != proxy ] || API=%s exec %q \"$@\"\n", bin, api.URL, os.Args[0]))
	write(t, filepath.Join(bin, "tilt"), "#!/bin/sh\necho \"$@\" >>\""+bin+"\"/tilt.log\n")
	for _, program := range []string{"kubectl", "tilt"} {
		require.NoError(t, os.Chmod(filepath.Join(bin, program), 0o755))
	}
	t.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
	f.watch("the-cluster")
	return f
}

// watch starts the watcher for a kubectl context.
func (f *fixture) watch(kubeContext string, change ...func(*engine)) {
	f.Helper()
	f.context = kubeContext
	state, err := f.run("state")
	require.NoError(f, err)
	state = strings.TrimSpace(state)
	f.Cleanup(func() { assert.NoError(f, os.RemoveAll(state)) })
	e := newEngine(state, kubeContext, f.Output())
	for _, do := range change {
		do(e)
	}
	ctx, cancel := context.WithCancel(context.Background())
	project, err := os.Getwd()
	require.NoError(f, err)
	f.server = &server{engine: e, project: project, locks: map[string]*os.File{}}
	s, ended := f.server, make(chan error)
	go func() { ended <- s.serve(ctx) }()
	f.end = sync.OnceFunc(func() { cancel(); assert.NoError(f, <-ended) })
	f.Cleanup(f.end)
}

func write(t testing.TB, file, content string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
	require.NoError(t, os.WriteFile(file, []byte(content), 0o644))
}

func read(t testing.TB, file string) string {
	t.Helper()
	content, err := os.ReadFile(file)
	require.NoError(t, err)
	return string(content)
}

// run runs a command as Tilt does, and returns what it prints.
func (f *fixture) run(args ...string) (string, error) {
	f.Helper()
	ctx, cancel := context.WithTimeout(f.Context(), enough)
	defer cancel()
	command := rootCommand()
	command.SetArgs(slices.Concat(args[:1], []string{"--context", f.context}, args[1:]))
	var out bytes.Buffer
	command.SetOut(&out)
	err := command.ExecuteContext(ctx)
	require.NotErrorIs(f, err, context.DeadlineExceeded)
	return out.String(), err
}

func till(more ...string) []string {
	return append([]string{"program", "--name=till", "--folder=live", "--package=./till", "--flag=-tags=cluster",
		"--restart-on=till/migrations", "--namespace=shop", "--status-port=1"}, more...)
}

func door() []string {
	return []string{"program", "--name=door", "--folder=live", "--package=./door", "--flag=-tags=cluster",
		"--namespace=shop", "--status-port=1"}
}

const file = "live/till/till"

// await waits until the watcher has reacted to a save.
func (f *fixture) await(what string, done func() bool) {
	f.Helper()
	require.Eventually(f, done, enough, 10*time.Millisecond, what)
}

// said returns the output of the last update of a program, once it was completed.
func (f *fixture) said(name string) string {
	f.Helper()
	_, err := f.settle(f.Context())
	require.NoError(f, err)
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.targets[name].said
}

func named(name string) string { return "package internal\n\nconst Name = \"" + name + "\"\n" }

func TestASaveIsDelivered(t *testing.T) {
	f := shop(t)
	umask := syscall.Umask(0o077) // the pods run as other users
	defer syscall.Umask(umask)
	said, err := f.run(till()...)
	require.NoError(t, err, said)
	assert.Equal(t, "till is built: its pods start with it\n", said)
	for _, path := range []string{file, filepath.Dir(file)} {
		info, err := os.Stat(path)
		require.NoError(t, err)
		assert.Equal(t, os.FileMode(0o755), info.Mode().Perm(), path)
	}
	first, err := os.Stat(file)
	require.NoError(t, err)

	write(t, "internal/name.go", "package internal\n\nconst Name = \"first\" // said otherwise\n")
	assert.Equal(t, "nothing has changed in till\n", f.said("till"))
	second, err := os.Stat(file)
	require.NoError(t, err)
	assert.True(t, os.SameFile(first, second), "it is not replaced")

	write(t, "internal/name.go", named("wanted"))
	assert.Contains(t, f.said("till"), "till is live in 2 pods ")
	third, err := os.Stat(file)
	require.NoError(t, err)
	assert.False(t, os.SameFile(second, third), "a running program is not written to")
	assert.True(t, strings.Contains(read(t, file), "wanted"))
	left, err := filepath.Glob("live/*")
	require.NoError(t, err)
	assert.ElementsMatch(t, []string{"live/till", "live/lock"}, left)
	assert.Empty(t, f.cluster.changes())

	updates, err := f.run("updates")
	require.NoError(t, err)
	assert.Contains(t, updates, "1 updates, 0 of them failed")
}

func (f *fixture) builds(args ...[]string) {
	f.Helper()
	for _, program := range args {
		said, err := f.run(program...)
		require.NoError(f, err, said)
	}
}

func TestWhatDoesNotCompileReplacesNothing(t *testing.T) {
	f := shop(t)
	f.builds(till(), door())
	good := read(t, file)
	write(t, "till/main.go", "package main\n\nthis is not Go")
	write(t, "door/main.go", "package main\n\nfunc main() { println(\"open\") }\n")
	said := f.said("till")
	assert.Contains(t, said, "till/main.go:3:1: syntax error")
	assert.Contains(t, said, "go_live: go build: exit status 1")
	assert.True(t, good == read(t, file))
	assert.Contains(t, f.said("door"), "door is live", "one error does not hold up the others")

	said, err := f.run(till()...)
	assert.ErrorIs(t, err, errFailed)
	assert.Contains(t, said, "syntax error")
	said, err = f.run("wait")
	assert.ErrorIs(t, err, errFailed)
	assert.Contains(t, said, "till is not live: till/main.go:3:1: syntax error")
	said, err = f.run("wait", "--json")
	assert.ErrorIs(t, err, errFailed)
	var found report
	require.NoError(t, json.Unmarshal([]byte(said), &found))
	assert.False(t, found.Live)
	assert.Contains(t, found.Error, "till/main.go:3:1: syntax error")
}

// The inputs are asked of Go.
func TestInputs(t *testing.T) {
	const user = "package main\n\nimport \"example.com/lib\"\n\nfunc main() { println(lib.Name) }\n"
	const module = "module example.com/lib\n\ngo 1.26\n"
	const requiring = "module example.com/shop\n\ngo 1.26\n\nrequire example.com/lib v1.0.0\n"
	const replacing = requiring + "\nreplace example.com/lib => ../lib\n"
	lib := func(name string) string { return "package lib\n\nconst Name = \"" + name + "\"\n" }
	for name, test := range map[string]struct {
		before, after map[string]string // "": deleted
		want          string
	}{
		"a new package": {after: map[string]string{
			"shared/x.go":  "package shared\n\nconst X = \"wanted\"\n",
			"till/main.go": "package main\n\nimport \"example.com/shop/shared\"\n\nfunc main() { println(shared.X) }\n",
		}},
		"a new file": {after: map[string]string{
			"internal/more.go": "package internal\n\nfunc init() { println(\"wanted\") }\n",
		}},
		"a deleted file": {
			before: map[string]string{"internal/more.go": "package internal\n\nfunc init() { panic(1) }\n"},
			after: map[string]string{
				"internal/more.go": "", "internal/name.go": named("wanted"),
			},
		},
		"a replaced module": {
			before: map[string]string{
				"go.mod":        replacing,
				"../lib/go.mod": module,
				"../lib/lib.go": lib("first"),
				"till/main.go":  user,
			},
			after: map[string]string{"../lib/lib.go": lib("wanted")},
		},
		"a module that becomes replaced": {
			before: map[string]string{
				"../lib/go.mod": module,
				"../lib/lib.go": lib("wanted"),
			},
			after: map[string]string{
				"till/main.go": user,
				"go.mod":       replacing,
			},
		},
		"a workspace": {
			before: map[string]string{
				"go.work": "go 1.26\n\nuse (\n\t.\n\t./lib\n)\n", "lib/go.mod": module,
				"lib/lib.go": lib("first"), "till/main.go": user,
			},
			after: map[string]string{"lib/lib.go": lib("wanted")},
		},
		"a module that becomes a workspace": {
			before: map[string]string{
				"go.mod":        replacing,
				"../lib/go.mod": module, "../lib/lib.go": lib("first"),
				"lib/go.mod": module, "lib/lib.go": lib("wanted"), "till/main.go": user,
			},
			after: map[string]string{
				"go.mod":  requiring,
				"go.work": "go 1.26\n\nuse (\n\t.\n\t./lib\n)\n",
			},
		},
		"vendored modules": {
			before: map[string]string{
				"go.mod":                        requiring,
				"vendor/modules.txt":            "# example.com/lib v1.0.0\n## explicit; go 1.26\nexample.com/lib\n",
				"vendor/example.com/lib/lib.go": lib("first"),
				"till/main.go":                  user,
			},
			after: map[string]string{"vendor/example.com/lib/lib.go": lib("wanted")},
		},
		"a module that becomes vendored": {
			before: map[string]string{
				"go.mod":        replacing,
				"../lib/go.mod": module, "../lib/lib.go": lib("first"), "till/main.go": user,
			},
			after: map[string]string{
				"go.mod":                        requiring,
				"vendor/modules.txt":            "# example.com/lib v1.0.0\n## explicit; go 1.26\nexample.com/lib\n",
				"vendor/example.com/lib/lib.go": lib("wanted"),
			},
		},
		"an embedded file": {
			before: map[string]string{
				"till/main.go": "package main\n\nimport _ \"embed\"\n\n//go:embed web/x.html\nvar x string\n\n" +
					"func main() { println(x) }\n",
				"till/web/x.html": "first",
			},
			after: map[string]string{"till/web/x.html": "wanted"},
		},
		"a new file for a pattern": {
			before: map[string]string{
				"till/main.go": "package main\n\nimport \"embed\"\n\n//go:embed web/*.html all:deep\nvar x embed.FS\n\n" +
					"func main() { println(x.ReadDir(\"web\")) }\n",
				"till/web/x.html": "first", "till/deep/er/.x": "x",
			},
			after: map[string]string{"till/deep/er/and/deeper/.y": "wanted"},
		},
		"a new pattern": {
			before: map[string]string{
				"till/main.go": "package main\n\nimport \"embed\"\n\n//go:embed a.txt\nvar x embed.FS\n\n" +
					"func main() { println(x.ReadDir(\".\")) }\n",
				"till/a.txt": "first", "till/b.txt": "wanted",
			},
			after: map[string]string{
				"till/main.go": "package main\n\nimport \"embed\"\n\n//go:embed *.txt\nvar x embed.FS\n\n" +
					"func main() { println(x.ReadDir(\".\")) }\n",
			},
		},
		"a new pattern in a group": {
			before: map[string]string{
				"till/main.go": "package main\n\nimport \"embed\"\n\nvar (\n\t//go:embed a.txt\n\tx embed.FS\n)\n\n" +
					"func main() { println(x.ReadDir(\".\")) }\n",
				"till/a.txt": "first", "till/b.txt": "wanted",
			},
			after: map[string]string{
				"till/main.go": "package main\n\nimport \"embed\"\n\nvar (\n\t//go:embed *.txt\n\tx embed.FS\n)\n\n" +
					"func main() { println(x.ReadDir(\".\")) }\n",
			},
		},
		"a constraint": {
			before: map[string]string{"till/x.go": "//go:build !cluster\n\npackage main\n\nconst x = \"wanted\"\n\n" +
				"func init() { println(x) }\n"},
			after: map[string]string{"till/x.go": "//go:build cluster\n\npackage main\n\nconst x = \"wanted\"\n\n" +
				"func init() { println(x) }\n"},
		},
		"a renamed package": {
			after: map[string]string{
				"internal/name.go": "", "internal/not.go": "", "named/name.go": "package named\n\nconst Name = \"wanted\"\n",
				"till/main.go": "package main\n\nimport \"example.com/shop/named\"\n\nfunc main() { println(named.Name) }\n",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := shop(t)
			change := func(files map[string]string) {
				for file, content := range files {
					if content == "" {
						require.NoError(t, os.Remove(file))
					} else {
						write(t, file, content)
					}
				}
			}
			change(test.before)
			said, err := f.run(till()...)
			require.NoError(t, err, said)
			require.False(t, strings.Contains(read(t, file), "wanted"))
			change(test.after)
			said = f.said("till")
			assert.Contains(t, said, "till is live in 2 pods")
			assert.True(t, strings.Contains(read(t, file), "wanted"), "the program has it")
			built := read(t, file)

			// The same command by hand gives the same bytes.
			byHand := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-gcflags=all=-dwarf=false",
				"-ldflags=-s -w -buildid=", "-tags=cluster",
				"-o", filepath.Join(t.TempDir(), "till"), "./till")
			byHand.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux")
			output, err := byHand.CombinedOutput()
			require.NoError(t, err, "%s", output)
			assert.True(t, built == read(t, byHand.Args[len(byHand.Args)-2]), "the bytes are the same")
		})
	}
}

// What is no input builds nothing.
func TestLeftovers(t *testing.T) {
	f := shop(t)
	f.builds(till(), door())
	write(t, "internal/name.go", named("second"))
	f.said("till")
	f.mu.Lock()
	before := f.targets["till"].update
	f.mu.Unlock()
	stamp := func() string { return read(t, filepath.Join(f.folder, "till")) } // Tilt watches it
	stamped := stamp()
	for _, file := range []string{
		"till/till", "till/till.test", "till/__debug_bin123", "till/data.db", "till/data.db-wal", "till/.main.go.swp",
		"till/main.go~", "till/4913", "till/#main.go#", "till/.#main.go", "till/_x.go", "data/invoices.db", "new/x.txt",
		"new/new.go", "other/main.go", "till/cover.out", "live/x.go", "internal/README.md",
	} {
		write(t, file, "package x")
	}
	write(t, "internal/name_test.go", "package internal\n")
	_, err := f.settle(t.Context())
	require.NoError(t, err)
	f.mu.Lock()
	defer f.mu.Unlock()
	assert.Equal(t, before, f.targets["till"].update)
	assert.Equal(t, stamped, stamp(), "Tilt is told nothing")
}

// Whatever is saved while programs are being built, the last state on disk is what runs in the end, and Go's cache
// holds no result under the name of other content.
func TestSavesDuringABuild(t *testing.T) {
	t.Run("without go build", savesDuringABuild)
	t.Run("with go build", func(t *testing.T) {
		t.Setenv("GOFLAGS", "-toolexec=env") // go build cannot be recorded
		savesDuringABuild(t)
	})
}

func savesDuringABuild(t *testing.T) {
	f := shop(t)
	f.builds(till(), door())
	for round := range 5 {
		for i := range 10 {
			write(t, "internal/name.go", named(fmt.Sprintf("undone %d", i)))
			time.Sleep(time.Duration(round*i) * 5 * time.Millisecond)
		}
		last := fmt.Sprintf("done %d", round)
		write(t, "internal/name.go", named(last))
		assert.Contains(t, f.said("till"), "till is live in 2 pods")
		assert.True(t, strings.Contains(read(t, file), last))
	}
	for i := range 10 {
		undone := fmt.Sprintf("undone %d", i)
		write(t, "internal/name.go", named(undone))
		f.said("till")
		assert.True(t, strings.Contains(read(t, file), undone))
	}
}

// Editors save in different ways.
func TestEditors(t *testing.T) {
	f := shop(t)
	f.builds(till())
	for name, save := range map[string]func(content string) error{
		"in place": func(content string) error { return os.WriteFile("internal/name.go", []byte(content), 0o644) },
		"by rename": func(content string) error {
			return errors.Join(os.WriteFile("internal/.name.go.swx", []byte(content), 0o644),
				os.Rename("internal/.name.go.swx", "internal/name.go"))
		},
		"with a backup": func(content string) error {
			return errors.Join(os.Rename("internal/name.go", "internal/name.go~"),
				os.WriteFile("internal/name.go", []byte(content), 0o644), os.Remove("internal/name.go~"))
		},
		"truncated first": func(content string) error {
			err := os.WriteFile("internal/name.go", nil, 0o644)
			time.Sleep(100 * time.Millisecond) // a build of the empty file begins
			return errors.Join(err, os.WriteFile("internal/name.go", []byte(content), 0o644))
		},
		"through a link": func(content string) error {
			return errors.Join(os.WriteFile("elsewhere.txt", []byte(content), 0o644), os.RemoveAll("internal/name.go"),
				os.Symlink("../elsewhere.txt", "internal/name.go"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, save(named(name)))
			f.said("till")
			assert.True(t, strings.Contains(read(t, file), name))
		})
	}
}

// On some file systems, nothing tells of a save.
func TestWithoutEvents(t *testing.T) {
	f := shop(t)
	f.watch("without-events", func(e *engine) {
		require.NoError(t, e.watcher.Close())
		e.watcher = nil
	})
	f.builds(till())
	write(t, "internal/name.go", named("wanted"))
	f.await("the save is noticed", func() bool { return strings.Contains(read(t, file), "wanted") })
}

// Pods cannot see a folder that was created again.
func TestTheFolderIsDeleted(t *testing.T) {
	f := shop(t)
	f.builds(till())
	require.NoError(t, os.RemoveAll("live/till"))
	write(t, "internal/name.go", named("second"))
	assert.Contains(t, f.said("till"), "till is live in 2 pods")
	require.Len(t, f.cluster.changes(), 1, "they restart")
	write(t, "internal/name.go", named("third"))
	f.said("till")
	assert.Len(t, f.cluster.changes(), 1, "once")

	require.NoError(t, os.RemoveAll("live"))
	require.NoError(t, os.Mkdir("live", 0o755))
	write(t, "internal/name.go", named("fourth"))
	assert.Contains(t, f.said("till"), "live was deleted, and the node cannot see a new one until it restarts: stop")
}

func TestAFolderIsForOneWatcher(t *testing.T) {
	f := shop(t)
	f.builds(till())
	other := *f
	other.watch("another")
	_, err := other.run(till()...)
	assert.ErrorContains(t, err, fmt.Sprintf("the pods run what `tilt up` builds in %s (process %d): stop it",
		f.project, os.Getpid()))
	f.end()
	require.NoError(t, f.locks[f.cluster.folder].Close()) // as when the process ends
	other.builds(till())

	assert.ErrorContains(t, (&server{engine: other.engine, locks: map[string]*os.File{}}).serve(t.Context()), "stop it")
}

func TestTheWatcherIsGone(t *testing.T) {
	f := shop(t)
	f.end()
	_, err := f.run("wait")
	assert.ErrorContains(t, err, "nothing watches the code: start `tilt up`")
}

func TestWhatThePodsSay(t *testing.T) {
	for want, change := range map[string]func(*cluster){
		"pod a: process 7 ended before it was ready (exit status 2)": func(c *cluster) {
			c.failed = "process 7 ended before it was ready (exit status 2)"
		},
		"pod a: container migrate ended with exit code 3: see its log": func(c *cluster) {
			c.behind = true
			c.status = map[string]any{"initContainerStatuses": []any{map[string]any{
				"name": "migrate", "state": map[string]any{"terminated": map[string]any{"exitCode": 3}},
			}}}
		},
		"pod a: container migrate ended with exit code 1: the schema is another": func(c *cluster) {
			c.behind = true
			c.status = map[string]any{"initContainerStatuses": []any{map[string]any{
				"name":  "migrate",
				"state": map[string]any{"waiting": map[string]any{"reason": "CrashLoopBackOff"}},
				"lastState": map[string]any{
					"terminated": map[string]any{"exitCode": 1, "message": "starts\nthe schema is another\n"},
				},
			}}}
		},
		"pod a: container till: ErrImagePull: no such image": func(c *cluster) {
			c.behind = true
			c.status = map[string]any{"containerStatuses": []any{map[string]any{
				"name": "till", "state": map[string]any{"waiting": map[string]any{
					"reason": "ErrImagePull", "message": "no such image",
				}},
			}}}
		},
	} {
		t.Run(want, func(t *testing.T) {
			f := shop(t)
			f.builds(till())
			f.cluster.set(func() { change(f.cluster) })
			write(t, "internal/name.go", named("second"))
			assert.Contains(t, f.said("till"), "go_live: "+want)
			said, err := f.run("wait")
			assert.ErrorIs(t, err, errFailed)
			assert.Contains(t, said, "till is not live: "+want)
			f.cluster.set(func() { f.cluster.failed, f.cluster.behind, f.cluster.status = "", false, nil })
			write(t, "internal/name.go", named("third"))
			assert.Contains(t, f.said("till"), "till is live in 2 pods")
		})
	}
}

// After something else has deployed, Tilt deploys again.
func TestThePodsRunAnImage(t *testing.T) {
	for name, change := range map[string]func(*cluster){
		"an image":      func(c *cluster) { c.command = "/till" },
		"no Deployment": func(c *cluster) { c.deployment = false },
	} {
		t.Run(name, func(t *testing.T) {
			f := shop(t)
			f.builds(till())
			f.cluster.set(func() { change(f.cluster) })
			write(t, "internal/name.go", named("second"))
			f.await("the program asks Tilt", func() bool {
				f.mu.Lock()
				defer f.mu.Unlock()
				return strings.Contains(f.targets["till"].said, "asking Tilt to deploy it again")
			})
			f.cluster.set(func() { f.cluster.command, f.cluster.deployment = "/supervisor", true })
			assert.Contains(t, f.said("till"), "till is live in 2 pods")
			tilt, err := exec.LookPath("tilt")
			require.NoError(t, err)
			assert.Equal(t, "trigger till\n", read(t, tilt+".log"))
			kubectl, err := exec.LookPath("kubectl")
			require.NoError(t, err)
			assert.Equal(t, 2, strings.Count(read(t, kubectl+".log"),
				"--namespace=shop get persistentvolume/live-shop-till persistentvolumeclaim/till-live"))
		})
	}
}

func TestAMigrationRestartsThePods(t *testing.T) {
	f := shop(t)
	f.builds(till())
	write(t, "till/migrations/2.sql", "ALTER TABLE t ADD c int")
	f.cluster.set(func() { f.cluster.behind = true })
	f.await("the pods restart", func() bool { return len(f.cluster.changes()) == 1 })
	assert.Contains(t, f.cluster.changes()[0], "apis/apps/v1/namespaces/shop/deployments/till")
	assert.FileExists(t, file+".restart", "the supervisors wait")
	f.cluster.set(func() { f.cluster.behind = false })
	assert.Contains(t, f.said("till"), "till is live in 2 pods")
	assert.NoFileExists(t, file+".restart")

	write(t, "internal/name.go", named("second"))
	f.said("till")
	assert.Len(t, f.cluster.changes(), 1, "once")
	require.NoError(t, os.Rename("till/migrations/2.sql", "till/migrations/0.sql"))
	f.said("till")
	assert.Len(t, f.cluster.changes(), 2, "their order has changed")
}

func TestUnderADebugger(t *testing.T) {
	f := shop(t)
	write(t, "delve/go.mod", "module example.com/go_live/delve\n\ngo 1.26\n\n"+
		"require github.com/go-delve/delve v1.0.0\n\nreplace github.com/go-delve/delve => ../dlv\n")
	write(t, "dlv/go.mod", "module github.com/go-delve/delve\n\ngo 1.26\n")
	write(t, "dlv/cmd/dlv/main.go", "package main\n\nfunc main() {}\n")
	f.builds(till())
	plain := read(t, file)
	f.cluster.set(func() { f.cluster.command = "/live/dlv" })
	f.builds(till("--debugger=delve"))
	assert.False(t, plain == read(t, file))
	assert.FileExists(t, "live/till/dlv")
	write(t, "internal/name.go", named("second"))
	assert.Contains(t, f.said("till"), "till is live in")
	assert.NotEmpty(t, f.cluster.changes(), "restarted")
}

func TestTests(t *testing.T) {
	f := shop(t)
	f.builds(till())
	write(t, "internal/name_test.go", "package internal\n\nimport \"testing\"\n\n"+
		"func TestName(t *testing.T) {\n\tif Name == \"bad\" {\n\t\tt.Error(\"is bad\")\n\t}\n}\n")
	stamp := func() string { content, _ := os.ReadFile(filepath.Join(f.folder, "tests")); return string(content) }
	f.await("Tilt runs the tests", func() bool { return stamp() != "" })
	said, err := f.run("test", "--", "-v", "-tags=cluster")
	require.NoError(t, err, said)
	assert.Contains(t, said, "--- PASS: TestName")
	said, err = f.run("wait")
	require.NoError(t, err, said)
	assert.Contains(t, said, "the tests passed in ")

	write(t, "internal/name.go", named("bad"))
	f.said("till")
	said, err = f.run("test", "--", "-tags=cluster")
	assert.ErrorIs(t, err, errFailed)
	assert.Contains(t, said, "name_test.go:7: is bad")
	said, err = f.run("wait")
	assert.ErrorIs(t, err, errFailed)
	assert.Contains(t, said, "the tests failed: name_test.go:7: is bad")

	// A save puts the tests aside.
	write(t, "internal/name_test.go", "package internal\n\nimport (\n\t\"testing\"\n\t\"time\"\n)\n\n"+
		"func TestName(t *testing.T) {\n\tif Name == \"slow\" {\n\t\ttime.Sleep(time.Hour)\n\t}\n}\n")
	write(t, "internal/name.go", named("slow"))
	f.said("till")
	type result struct {
		said string
		err  error
	}
	ended := make(chan result)
	go func() {
		said, err := f.run("test", "--", "-tags=cluster")
		ended <- result{said, err}
	}()
	time.Sleep(2 * time.Second) // until they hang, on a quiet machine; the test is right at any time
	write(t, "internal/name.go", named("quick"))
	tested := <-ended
	require.NoError(t, tested.err, tested.said)
	assert.Contains(t, tested.said, "ok")
	assert.NoDirExists(t, filepath.Join(os.TempDir(), "go_live-"+filepath.Base(f.folder)))
}

func TestUpdates(t *testing.T) {
	f := &fixture{T: t, context: "the-cluster"}
	t.Chdir(t.TempDir())
	folder, err := f.run("state")
	require.NoError(t, err)
	folder = strings.TrimSpace(folder)
	t.Cleanup(func() { assert.NoError(t, os.RemoveAll(folder)) })
	e := &engine{folder: folder, log: t.Output()}
	for i := range 150 {
		e.keep(update{Service: "till", Build: float64(i), Total: float64(i + 1)})
	}
	e.keep(update{Service: "till", Error: "till/main.go:3:1: syntax error"})
	file, err := os.OpenFile(updatesFile(folder), os.O_APPEND|os.O_WRONLY, 0o600)
	require.NoError(t, err)
	_, err = file.WriteString("{\"service\": \"ti") // the disk was full
	require.NoError(t, err)
	require.NoError(t, file.Close())

	picture := filepath.Join(folder, "picture.svg")
	said, err := f.run("updates", "--picture", picture)
	require.NoError(t, err)
	assert.Equal(t, "100 updates, 1 of them failed\n"+
		"seconds          p50       p95\n"+
		"wait            0.00      0.00\n"+
		"build         100.00    145.00\n"+
		"deliver         0.00      0.00\n"+
		"total         101.00    146.00\n", said)
	decoder := xml.NewDecoder(strings.NewReader(read(t, picture)))
	for {
		if _, err := decoder.Token(); errors.Is(err, io.EOF) {
			break
		} else {
			require.NoError(t, err)
		}
	}
	assert.Contains(t, read(t, picture), "p50 101.00 s, p95 146.00 s")
}

// What pods have refused is not live, however often it is built.
func TestWhatPodsRefusedStaysRefused(t *testing.T) {
	f := shop(t)
	f.builds(till())
	f.cluster.set(func() { f.cluster.failed = "process 7 crashed" })
	write(t, "internal/name.go", named("second"))
	assert.Contains(t, f.said("till"), "process 7 crashed")
	write(t, "internal/name.go", named("second")+"// said otherwise\n")
	assert.Contains(t, f.said("till"), "process 7 crashed")
	for range 2 {
		said, err := f.run(till()...)
		assert.ErrorIs(t, err, errFailed)
		assert.Contains(t, said, "process 7 crashed")
	}
}

// Tilt deploys only after the first build has ended.
func TestASaveDuringTheFirstBuild(t *testing.T) {
	f := shop(t)
	f.cluster.set(func() { f.cluster.deployment = false })
	bin := t.TempDir()
	write(t, filepath.Join(bin, "kubectl"), "#!/bin/sh\ntouch '"+bin+"/asked'\n[ -e '"+bin+"/saved' ] || exec sleep 60\n")
	require.NoError(t, os.Chmod(filepath.Join(bin, "kubectl"), 0o755))
	t.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
	go func() {
		for {
			if _, err := os.Stat(bin + "/asked"); err == nil {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		write(t, bin+"/saved", "")
		write(t, "internal/name.go", named("second"))
	}()
	said, err := f.run(till()...)
	require.NoError(t, err)
	assert.Contains(t, said, "till is built: its pods start with it\n")
	assert.NotContains(t, said, "asking Tilt")
}

// Somebody is told when the inputs cannot be copied, and nothing is forgotten.
func TestTheCopyFails(t *testing.T) {
	f := shop(t)
	f.builds(till(), door())
	blocked := f.mirror.path(filepath.Join(f.project, "internal/name.go"))
	require.NoError(t, os.Remove(blocked))
	require.NoError(t, os.MkdirAll(blocked+"/x", 0o755)) // as when the disk is full
	for _, more := range []string{"1", "2", "3"} {
		write(t, "door/main.go", "package main\n\nfunc main() { println(\"open"+more+"\") }\n")
		write(t, "internal/name.go", named("wanted"+more))
		_, err := f.run("wait")
		assert.ErrorIs(t, err, errFailed)
	}
	require.NoError(t, os.RemoveAll(blocked))
	f.await("till", func() bool { return strings.Contains(read(t, file), "wanted3") })
	f.await("door", func() bool { return strings.Contains(read(t, "live/door/door"), "open3") })
	said, err := f.run("wait")
	require.NoError(t, err, said)
}

// A file that could not be read can be again, with the same content.
func TestAFileCannotBeRead(t *testing.T) {
	f := shop(t)
	f.builds(till())
	require.NoError(t, os.Rename("internal/name.go", "elsewhere"))
	require.NoError(t, os.Symlink("name.go", "internal/name.go"))
	said, err := f.run("wait")
	assert.ErrorIs(t, err, errFailed)
	assert.Contains(t, said, "too many")
	require.NoError(t, os.Rename("elsewhere", "internal/name.go"))
	said, err = f.run("wait")
	require.NoError(t, err, said)
}

// A save that is noticed because another program does not compile is not forgotten.
func TestASaveDuringABuildThatFails(t *testing.T) {
	f := shop(t)
	f.watch("without-events", func(e *engine) {
		require.NoError(t, e.watcher.Close())
		e.watcher = nil
	})
	f.builds(till(), door())
	compiler, err := exec.LookPath("go")
	require.NoError(t, err)
	bin := t.TempDir()
	write(t, filepath.Join(bin, "go"), fmt.Sprintf("#!/bin/sh\n[ \"$1\" != build ] || cp %q/saved %q/door/main.go\n"+
		"exec %q \"$@\"\n", bin, f.project, compiler))
	require.NoError(t, os.Chmod(filepath.Join(bin, "go"), 0o755))
	write(t, filepath.Join(bin, "saved"), "package main\n\nfunc main() { println(\"is ajar\") }\n")
	t.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
	write(t, "till/main.go", "package main\n\nthis is not Go")
	assert.Contains(t, f.said("till"), "syntax error")
	assert.True(t, strings.Contains(read(t, "live/door/door"), "is ajar"))
}

// What Go cannot say of one module does not hold up another one.
func TestOneModuleIsBroken(t *testing.T) {
	f := shop(t)
	write(t, "apart/go.mod", "module example.com/apart\n\ngo 1.26\n")
	write(t, "apart/main.go", "package main\n\nfunc main() {}\n")
	f.builds(till(), []string{"program", "--name=apart", "--folder=live", "--module=apart", "--namespace=shop",
		"--status-port=1"})
	write(t, "go.mod", "module example.com/shop\n\nthis is not a directive\n")
	assert.Contains(t, f.said("till"), "unknown directive")
	write(t, "apart/main.go", "package main\n\nimport \"os\"\n\nfunc main() { os.Exit(1) }\n")
	assert.Contains(t, f.said("apart"), "apart is live")
	said, err := f.run("wait")
	assert.ErrorIs(t, err, errFailed)
	assert.Contains(t, said, "till is not live: ")
	write(t, "go.mod", "module example.com/shop\n\ngo 1.26\n")
	said, err = f.run("wait")
	require.NoError(t, err, said)
}

// A package is often imported before it is written.
func TestAPackageIsWrittenAfterItsImport(t *testing.T) {
	for name, path := range map[string]string{"beside": "shared", "deep": "internal/very/deep"} {
		t.Run(name, func(t *testing.T) {
			f := shop(t)
			f.builds(till())
			write(t, "till/main.go", "package main\n\nimport \"example.com/shop/"+path+"\"\n\nfunc main() { println("+
				filepath.Base(path)+".X) }\n")
			assert.Contains(t, f.said("till"), "go_live: go build: exit status 1")
			write(t, path+"/x.go", "package "+filepath.Base(path)+"\n\nconst X = \"wanted\"\n")
			assert.Contains(t, f.said("till"), "till is live in 2 pods")
			assert.True(t, strings.Contains(read(t, file), "wanted"))
		})
	}
}

func TestASecondWatcherLeavesTheFirstAlone(t *testing.T) {
	f := shop(t)
	f.builds(till())
	_, err := f.run("watch")
	assert.ErrorContains(t, err, "stop it")
	write(t, "internal/name.go", named("second"))
	assert.Contains(t, f.said("till"), "till is live in 2 pods")
}

func TestTheCopyIsDeleted(t *testing.T) {
	f := shop(t)
	f.builds(till())
	require.NoError(t, os.RemoveAll(filepath.Join(f.folder, "source")))
	write(t, "internal/name.go", named("second"))
	assert.Contains(t, f.said("till"), "till is live in 2 pods")
}

func TestTheWatcherEndsDuringAnUpdate(t *testing.T) {
	f := shop(t)
	f.builds(till())
	f.cluster.set(func() { f.cluster.behind = true })
	write(t, "internal/name.go", named("second"))
	f.await("the update", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return !f.targets["till"].settled
	})
	go func() {
		f.await("a follower", func() bool {
			f.mu.Lock()
			defer f.mu.Unlock()
			return f.targets["till"].followers == 1
		})
		f.end()
	}()
	_, err := f.run(till()...)
	assert.Error(t, err)
}

func TestTestsFailWithoutALine(t *testing.T) {
	f := shop(t)
	f.builds(till())
	write(t, "internal/name_test.go", "package internal\n\nimport \"testing\"\n\n"+
		"func TestName(t *testing.T) { t.Fail() }\n")
	_, err := f.run("test", "--", "-tags=cluster")
	assert.ErrorIs(t, err, errFailed)
	said, err := f.run("wait")
	assert.ErrorIs(t, err, errFailed)
	assert.Contains(t, said, "the tests failed: go test: exit status 1")
}

func TestErrorIn(t *testing.T) {
	assert.Equal(t, "x_test.go:7: is bad", errorIn("2026/11/27 10:00:01 starts\n{\"time\":\"10:00\",\"msg\":\"x\"}\n"+
		"--- FAIL: TestX (0.00s)\n    x_test.go:7: is bad\n"))
	assert.Equal(t, "till/main.go:3:1: syntax error", errorIn("# example.com/shop/till\ntill/main.go:3:1: syntax error\n"))
}

// slow is a client that reads when it likes.
type slow struct {
	*httptest.ResponseRecorder
	wrote, goOn chan struct{}
	once        sync.Once
}

func (s *slow) WriteString(text string) (int, error) {
	if strings.Contains(text, "live in 2 pods") {
		s.once.Do(func() { close(s.wrote); <-s.goOn })
	}
	return s.ResponseRecorder.WriteString(text)
}

func TestAClientLeavesAtASave(t *testing.T) {
	f := shop(t)
	f.builds(till())
	f.mu.Lock()
	p := f.targets["till"].program
	f.mu.Unlock()
	body, err := json.Marshal(p)
	require.NoError(t, err)
	client := &slow{ResponseRecorder: httptest.NewRecorder(), wrote: make(chan struct{}), goOn: make(chan struct{})}
	f.cluster.set(func() { f.cluster.behind = true })
	write(t, "internal/name.go", named("second"))
	f.await("the update", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return !f.targets["till"].settled
	})
	left := make(chan struct{})
	go func() {
		f.server.build(client, httptest.NewRequest(http.MethodPost, "/build", bytes.NewReader(body)))
		close(left)
	}()
	f.await("the client", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.targets["till"].followers == 1
	})
	f.cluster.set(func() { f.cluster.behind = false })
	<-client.wrote
	stamp := func() string { return read(t, filepath.Join(f.folder, "till")) }
	before := stamp()
	write(t, "internal/name.go", named("third"))
	f.said("till")
	close(client.goOn)
	<-left
	assert.NotEqual(t, before, stamp(), "Tilt is told of the second update")
}

func TestTheProgramIsRegisteredOtherwise(t *testing.T) {
	f := shop(t)
	f.builds(till())
	f.cluster.set(func() { f.cluster.behind = true })
	write(t, "internal/name.go", named("second"))
	f.await("the update", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return !f.targets["till"].settled
	})
	ended := make(chan error)
	go func() {
		_, err := f.run(till()...)
		ended <- err
	}()
	f.await("a follower", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.targets["till"].followers == 1
	})
	f.cluster.set(func() { f.cluster.behind = false })
	f.builds(till("--flag=-tags=cluster,other"))
	assert.Error(t, <-ended)
}

func TestLeftInTheFolder(t *testing.T) {
	f := shop(t)
	write(t, "live/.new/door", "of a build that was killed")
	f.builds(till())
}

func TestAMajorVersion(t *testing.T) {
	f := shop(t)
	write(t, "go.mod", "module example.com/shop/v2\n\ngo 1.26\n")
	write(t, "main.go", "package main\n\nfunc main() {}\n")
	f.builds([]string{"program", "--name=till", "--folder=live", "--namespace=shop", "--status-port=1"})
}

func TestAnEditorLocksAMigration(t *testing.T) {
	f := shop(t)
	f.builds(till())
	require.NoError(t, os.Symlink("me@host.1", "till/migrations/.#1.sql"))
	write(t, "till/migrations/.1.sql.swp", "x")
	write(t, "till/migrations/1.sql~", "x")
	write(t, "internal/name.go", named("second"))
	assert.Contains(t, f.said("till"), "till is live in 2 pods")
	assert.Empty(t, f.cluster.changes(), "nothing restarts")
}

// kubectl may be a script, whose end does not end what it has started.
func TestTheProxyEnds(t *testing.T) {
	f := shop(t)
	f.builds(till())
	kubectl, err := exec.LookPath("kubectl")
	require.NoError(t, err)
	bin := t.TempDir()
	write(t, filepath.Join(bin, "kubectl"), fmt.Sprintf("#!/bin/sh\n%q \"$@\"\ntrue\n", kubectl))
	require.NoError(t, os.Chmod(filepath.Join(bin, "kubectl"), 0o755))
	t.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
	p := &pods{context: "x", socket: filepath.Join(f.folder, "other")}
	_, err = p.proxy(t.Context())
	require.NoError(t, err)
	p.close()
	f.await("its end", func() bool {
		connection, err := net.Dial("unix", p.socket)
		if err == nil {
			connection.Close()
		}
		return err != nil
	})
	_, err = p.proxy(t.Context())
	assert.Error(t, err, "nobody would end it")
}

// Before the first new pod exists, all pods may run the program already.
func TestAMigrationThatIsNotInTheProgram(t *testing.T) {
	f := shop(t)
	f.builds(till())
	f.cluster.set(func() {
		f.cluster.rollout = func() {
			f.cluster.behind = true
			f.cluster.status = map[string]any{"initContainerStatuses": []any{map[string]any{
				"name": "migrate", "state": map[string]any{"terminated": map[string]any{"exitCode": 3}},
			}}}
		}
	})
	write(t, "till/migrations/2.sql", "this is not SQL")
	assert.Contains(t, f.said("till"), "container migrate ended with exit code 3")
	assert.Len(t, f.cluster.changes(), 1)
}

func TestAFileBecomesAFolder(t *testing.T) {
	f := shop(t)
	write(t, "till/main.go", "package main\n\nimport \"embed\"\n\n//go:embed web\nvar x embed.FS\n\n"+
		"func main() { println(x.ReadDir(\"web\")) }\n")
	write(t, "till/web/x", "a file")
	f.builds(till())
	require.NoError(t, os.Remove("till/web/x"))
	write(t, "till/web/x/y", "now a folder")
	f.said("till")
	assert.True(t, strings.Contains(read(t, file), "now a folder"))
	require.NoError(t, os.RemoveAll("till/web/x"))
	write(t, "till/web/x", "a file again")
	f.said("till")
	assert.True(t, strings.Contains(read(t, file), "a file again"))
}
