package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// project creates a folder with a module and makes it the working directory.
func project(t *testing.T) {
	t.Helper()
	folder := filepath.Join(t.TempDir(), "a project & ü")
	for file, content := range map[string]string{
		"go.mod":           "module example.com/shop\n\ngo 1.26\n",
		"internal/name.go": "package internal\n\nconst Name = \"first\"\n",
		"internal/not.go":  "//go:build !cluster\n\npackage internal\n\nthis is not Go\n",
		"till/main.go": "package main\n\nimport \"example.com/shop/internal\"\n\n" +
			"func main() { println(internal.Name) }\n",
		"till/migrations/1.sql": "CREATE TABLE t ()",
		"other/main.go":         "package main\n\nthis is not Go\n",
	} {
		write(t, filepath.Join(folder, file), content)
	}
	t.Chdir(folder)
}

func write(t *testing.T, file, content string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
	require.NoError(t, os.WriteFile(file, []byte(content), 0o644))
}

func read(t *testing.T, file string) string {
	t.Helper()
	content, err := os.ReadFile(file)
	require.NoError(t, err)
	return string(content)
}

// till returns the build of the program till into the folder live.
func till() build {
	return build{
		name: "till", folder: "live", module: ".", pkg: "./till", sources: []string{"go.mod", "internal", "till"},
		flags: []string{"-tags=cluster"}, restartOn: []string{"till/migrations"}, architecture: runtime.GOARCH,
		context: "the-cluster", namespace: "shop",
	}
}

func (b build) save(ctx context.Context) (said string, err error) {
	var out bytes.Buffer
	b.out = &out
	err = b.run(ctx)
	return out.String(), err
}

func saved(t *testing.T) string {
	t.Helper()
	said, err := till().save(t.Context())
	require.NoError(t, err)
	return said
}

// kubectl installs a fake kubectl that prints a text, or fails if the file kubectl.fails exists. It returns the calls.
func kubectl(t *testing.T, get string) (calls func() []string) {
	t.Helper()
	folder := t.TempDir()
	log := filepath.Join(folder, "log")
	write(t, filepath.Join(folder, "kubectl"), "#!/bin/sh\necho \"$*\" >>'"+log+"'\n"+
		"case $* in *get*) echo '"+get+"' ;; *) [ ! -e kubectl.fails ] || { echo connection refused >&2; exit 1; }; echo '"+
		get+" restarted' ;; esac\n")
	require.NoError(t, os.Chmod(filepath.Join(folder, "kubectl"), 0o755))
	t.Setenv("PATH", folder+string(os.PathListSeparator)+os.Getenv("PATH"))
	return func() []string {
		said, _ := os.ReadFile(log)
		return strings.Split(strings.TrimSuffix(string(said), "\n"), "\n")[:strings.Count(string(said), "\n")]
	}
}

const (
	program    = "live/till/till"
	deployment = "deployment.apps/till"
)

func TestASaveIsDelivered(t *testing.T) {
	project(t)
	calls := kubectl(t, deployment)
	umask := syscall.Umask(0o077) // the pods run as other users
	defer syscall.Umask(umask)

	assert.Equal(t, "till is delivered to its pods\n", saved(t))
	for _, path := range []string{program, filepath.Dir(program)} {
		info, err := os.Stat(path)
		require.NoError(t, err)
		assert.Equal(t, os.FileMode(0o755), info.Mode().Perm(), path)
	}
	assert.FileExists(t, program+".begun")
	first, err := os.Stat(program)
	require.NoError(t, err)

	assert.Equal(t, "nothing has changed in till\n", saved(t))
	second, err := os.Stat(program)
	require.NoError(t, err)
	assert.True(t, os.SameFile(first, second), "it is not replaced")
	assert.Equal(t, first.ModTime(), second.ModTime())
	begun, err := os.Stat(program + ".begun")
	require.NoError(t, err)
	assert.True(t, begun.ModTime().After(second.ModTime()), "it has the time of the latest build")

	write(t, "internal/name.go", "package internal\n\nconst Name = \"second\"\n")
	assert.Equal(t, "till is delivered to its pods\n", saved(t))
	third, err := os.Stat(program)
	require.NoError(t, err)
	assert.False(t, os.SameFile(second, third), "a running program is not written to")
	assert.NoFileExists(t, "live/till.new")
	assert.Empty(t, calls())
}

func TestWhatDoesNotCompileReplacesNothing(t *testing.T) {
	project(t)
	saved(t)
	good := read(t, program)
	write(t, "till/main.go", "this is not Go")
	said, err := till().save(t.Context())
	assert.ErrorContains(t, err, "go build")
	assert.Empty(t, said)
	assert.Equal(t, good, read(t, program))

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = till().save(ctx)
	assert.ErrorIs(t, err, context.Canceled)
	assert.Equal(t, good, read(t, program))
}

// A deleted file is also removed from the copy.
func TestACopyHasWhatTheSourceHas(t *testing.T) {
	project(t)
	write(t, "till/main_test.go", "this is not Go")
	write(t, "internal/testdata/x/y.txt", "not part of a program")
	write(t, "till/extra.go", "package main\n\nfunc init() { println(\"extra\") }\n")
	saved(t)
	require.NoError(t, os.Remove("till/extra.go"))
	assert.Equal(t, "till is delivered to its pods\n", saved(t))
	assert.NoFileExists(t, "live/invoice-app.source/till/extra.go")
	assert.NoFileExists(t, "live/invoice-app.source/till/main_test.go")
	assert.NoDirExists(t, "live/till.source/internal/testdata")
}

func TestSameContent(t *testing.T) {
	const some = 1 << 20
	for name, files := range map[string]struct {
		a, b string
		same bool
	}{
		"empty":            {"", "", true},
		"one is empty":     {"", "a", false},
		"short":            {"a", "a", true},
		"short, differs":   {"a", "b", false},
		"a part":           {strings.Repeat("a", some), strings.Repeat("a", some), true},
		"more than a part": {strings.Repeat("a", some+1), strings.Repeat("a", some+1), true},
		"at its end":       {strings.Repeat("a", some) + "a", strings.Repeat("a", some) + "b", false},
		"longer":           {strings.Repeat("a", some), strings.Repeat("a", some) + "a", false},
		"shorter":          {strings.Repeat("a", some) + "a", strings.Repeat("a", some), false},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b")
			write(t, a, files.a)
			write(t, b, files.b)
			same, err := sameContent(a, b)
			require.NoError(t, err)
			assert.Equal(t, files.same, same)
		})
	}
}

const restart = "--context=the-cluster --namespace=shop rollout restart deployment.apps/till"

func TestAMigrationRestartsThePods(t *testing.T) {
	project(t)
	calls := kubectl(t, deployment)
	saved(t)
	assert.Empty(t, calls(), "there are no pods yet")

	write(t, "till/migrations/2.sql", "ALTER TABLE t ADD c int")
	assert.Equal(t, "nothing has changed in till\ndeployment.apps/till restarted\n", saved(t))
	assert.Equal(t, []string{
		"--context=the-cluster --namespace=shop get deployment till --ignore-not-found --output=name", restart,
	}, calls())

	saved(t)
	assert.Len(t, calls(), 2, "once")
	migrations := "till/migrations/"
	require.NoError(t, os.Rename(migrations+"2.sql", migrations+"0.sql"))
	saved(t)
	assert.Len(t, calls(), 4, "their order has changed")
}

func TestThereAreNoPodsToRestart(t *testing.T) {
	project(t)
	calls := kubectl(t, "")
	saved(t)
	write(t, "till/migrations/2.sql", "ALTER TABLE t ADD c int")
	saved(t)
	assert.Len(t, calls(), 1)
	assert.NoFileExists(t, program+".restart")
}

// The next save retries a failed restart.
func TestARestartIsNotForgotten(t *testing.T) {
	project(t)
	calls := kubectl(t, deployment)
	saved(t)
	write(t, "till/migrations/2.sql", "ALTER TABLE t ADD c int")
	write(t, "kubectl.fails", "")
	_, err := till().save(t.Context())
	assert.ErrorContains(t, err, "connection refused")

	require.NoError(t, os.Remove("kubectl.fails"))
	saved(t)
	assert.Len(t, calls(), 4)
	assert.Equal(t, restart, calls()[3])
	saved(t)
	assert.Len(t, calls(), 4)
}

func TestUnderADebugger(t *testing.T) {
	project(t)
	write(t, "delve/go.mod", "module example.com/go_live/delve\n\ngo 1.26\n\n"+
		"require github.com/go-delve/delve v1.0.0\n\nreplace github.com/go-delve/delve => ../dlv\n")
	write(t, "dlv/go.mod", "module github.com/go-delve/delve\n\ngo 1.26\n")
	write(t, "dlv/cmd/dlv/main.go", "package main\n\nfunc main() {}\n")
	calls := kubectl(t, deployment)
	saved(t)
	plain := read(t, program)

	debugged := till()
	debugged.debugger = "delve"
	said, err := debugged.save(t.Context())
	require.NoError(t, err)
	assert.Equal(t, "till is delivered to its pods\ndeployment.apps/till restarted\n", said)
	assert.NotEqual(t, plain, read(t, program))
	assert.FileExists(t, "live/till/dlv")
	assert.Equal(t, restart, calls()[1])

	said, err = debugged.save(t.Context())
	require.NoError(t, err)
	assert.Equal(t, "nothing has changed in till\n", said)
	assert.Len(t, calls(), 2)
}

// By default the whole module is copied, except the shared folder.
func TestAWholeModule(t *testing.T) {
	project(t)
	require.NoError(t, os.RemoveAll("other"))
	write(t, "node_modules/x/x.js", "")
	write(t, ".git/config", "")
	whole := till()
	whole.sources = []string{"."}
	for range 2 {
		_, err := whole.save(t.Context())
		require.NoError(t, err)
	}
	assert.FileExists(t, "live/till.source/internal/name.go")
	assert.NoDirExists(t, "live/till.source/live")
	assert.NoDirExists(t, "live/till.source/node_modules")
	assert.NoDirExists(t, "live/till.source/.git")
}

func TestAWorkspaceOfModules(t *testing.T) {
	project(t)
	write(t, "go.work", "go 1.26\n\nuse (\n\t.\n\t./lib\n)\n")
	write(t, "lib/go.mod", "module example.com/lib\n\ngo 1.26\n")
	write(t, "lib/lib.go", "package lib\n\nconst Name = \"lib\"\n")
	write(t, "till/main.go", "package main\n\nimport \"example.com/lib\"\n\nfunc main() { println(lib.Name) }\n")
	b := till()
	b.sources = append(b.sources, "go.work", "lib")
	said, err := b.save(t.Context())
	require.NoError(t, err)
	assert.Equal(t, "till is delivered to its pods\n", said)
}

func TestWhatCannotBeBuilt(t *testing.T) {
	project(t)
	for want, change := range map[string]func(*build){
		"../elsewhere must be in the module's folder .": func(b *build) { b.sources = append(b.sources, "../elsewhere") },
		"nothing: no such file":                         func(b *build) { b.sources = append(b.sources, "nothing") },
		"migrations: no such file":                      func(b *build) { b.restartOn = []string{"migrations"} },
		"go build ./other":                              func(b *build) { b.pkg = "./other" },
	} {
		b := till()
		change(&b)
		_, err := b.save(t.Context())
		assert.ErrorContains(t, err, want)
	}
}
