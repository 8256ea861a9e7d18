package service

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

	"example.com/invoices/workspace/processtest"
)

// build builds invoice-app into the folder live, as a save does.
func build(t *testing.T, ctx context.Context, debug bool) (said string, err error) {
	t.Helper()
	var out bytes.Buffer
	live := Live{
		Service: "invoice-app", Folder: "live", Debug: debug,
		Cluster: "the-cluster", Namespace: "invoicing", Out: &out,
	}
	err = live.Build(ctx, runtime.GOARCH)
	return out.String(), err
}

func saved(t *testing.T) string {
	t.Helper()
	said, err := build(t, t.Context(), false)
	require.NoError(t, err)
	return said
}

func deployed(t *testing.T) *processtest.Program {
	t.Helper()
	return processtest.Put(t, "kubectl", func(call processtest.Call) processtest.Answer {
		if strings.Contains(strings.Join(call.Args, " "), " get ") {
			return processtest.Answer{Stdout: "deployment.apps/invoice-app\n"}
		}
		return processtest.Answer{Stdout: "deployment.apps/invoice-app restarted\n"}
	})
}

const program = "live/invoice-app/invoice-app"

func TestASaveIsDelivered(t *testing.T) {
	clone(t)
	kubectl := deployed(t)
	umask := syscall.Umask(0o077) // the pods have users of their own
	defer syscall.Umask(umask)

	assert.Equal(t, "invoice-app is delivered to its pods\n", saved(t))
	for _, path := range []string{program, filepath.Dir(program)} {
		info, err := os.Stat(path)
		require.NoError(t, err)
		assert.Equal(t, os.FileMode(0o755), info.Mode().Perm(), path)
	}
	assert.FileExists(t, program+".begun")
	first, err := os.Stat(program)
	require.NoError(t, err)

	assert.Equal(t, "nothing has changed in invoice-app\n", saved(t))
	second, err := os.Stat(program)
	require.NoError(t, err)
	assert.True(t, os.SameFile(first, second), "it is not replaced")
	assert.Equal(t, first.ModTime(), second.ModTime())
	begun, err := os.Stat(program + ".begun")
	require.NoError(t, err)
	assert.True(t, begun.ModTime().After(second.ModTime()), "it tells of the latest build")

	write(t, "internal/name/name.go", "package name\n\nconst Of = \"second\"\n")
	assert.Equal(t, "invoice-app is delivered to its pods\n", saved(t))
	third, err := os.Stat(program)
	require.NoError(t, err)
	assert.False(t, os.SameFile(second, third), "a program that runs is not written to")
	assert.NoFileExists(t, "live/invoice-app.new")
	assert.Empty(t, kubectl.Calls())
}

func TestWhatDoesNotCompileReplacesNothing(t *testing.T) {
	clone(t)
	saved(t)
	good := read(t, program)
	write(t, "invoice-app/main.go", "this is not Go")
	said, err := build(t, t.Context(), false)
	assert.ErrorContains(t, err, "go build")
	assert.Empty(t, said)
	assert.Equal(t, good, read(t, program))

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = build(t, ctx, false)
	assert.ErrorIs(t, err, context.Canceled)
	assert.Equal(t, good, read(t, program))
}

// A file that is deleted is gone from the copy, too.
func TestACopyHasWhatTheSourceHas(t *testing.T) {
	clone(t)
	write(t, "invoice-app/main_test.go", "this is not Go")
	write(t, "internal/name/testdata/x/y.txt", "no program has this")
	write(t, "invoice-app/extra.go", "package main\n\nfunc init() { println(\"extra\") }\n")
	saved(t)
	require.NoError(t, os.Remove("invoice-app/extra.go"))
	assert.Equal(t, "invoice-app is delivered to its pods\n", saved(t))
	assert.NoFileExists(t, "live/invoice-app.source/invoice-app/extra.go")
	assert.NoFileExists(t, "live/invoice-app.source/invoice-app/main_test.go")
	assert.NoDirExists(t, "live/invoice-app.source/internal/name/testdata")
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

const restart = "--context=the-cluster --namespace=invoicing rollout restart deployment.apps/invoice-app"

func TestAMigrationRestartsThePods(t *testing.T) {
	clone(t)
	kubectl := deployed(t)
	saved(t)
	assert.Empty(t, kubectl.Calls(), "there are no pods yet")

	write(t, "invoice-app/store/migrations/postgres/2.sql", "ALTER TABLE t ADD c int")
	assert.Equal(t, "nothing has changed in invoice-app\ndeployment.apps/invoice-app restarted\n", saved(t))
	assert.Equal(t, []string{
		"--context=the-cluster --namespace=invoicing get deployment invoice-app --ignore-not-found --output=name", restart,
	}, kubectl.Calls())

	saved(t)
	assert.Len(t, kubectl.Calls(), 2, "once")
	migrations := "invoice-app/store/migrations/postgres/"
	require.NoError(t, os.Rename(migrations+"2.sql", migrations+"0.sql"))
	saved(t)
	assert.Len(t, kubectl.Calls(), 4, "their order is another one")
}

func TestThereAreNoPodsToRestart(t *testing.T) {
	clone(t)
	kubectl := processtest.Put(t, "kubectl", func(processtest.Call) processtest.Answer { return processtest.Answer{} })
	saved(t)
	write(t, "invoice-app/store/migrations/postgres/2.sql", "ALTER TABLE t ADD c int")
	saved(t)
	assert.Len(t, kubectl.Calls(), 1)
	assert.NoFileExists(t, program+".restart")
}

// A restart that has failed is made up for by the next save.
func TestARestartIsNotForgotten(t *testing.T) {
	clone(t)
	fail := true
	kubectl := processtest.Put(t, "kubectl", func(call processtest.Call) processtest.Answer {
		if strings.Contains(strings.Join(call.Args, " "), " get ") {
			return processtest.Answer{Stdout: "deployment.apps/invoice-app\n"}
		}
		if fail {
			fail = false
			return processtest.Answer{Stderr: "connection refused", Code: 1}
		}
		return processtest.Answer{}
	})
	saved(t)
	write(t, "invoice-app/store/migrations/postgres/2.sql", "ALTER TABLE t ADD c int")
	_, err := build(t, t.Context(), false)
	assert.ErrorContains(t, err, "connection refused")

	saved(t)
	assert.Equal(t, restart, strings.Join(kubectl.Last().Args, " "))
	assert.Len(t, kubectl.Calls(), 4)
	saved(t)
	assert.Len(t, kubectl.Calls(), 4)
}

func TestUnderADebugger(t *testing.T) {
	clone(t)
	write(t, "tools/delve/go.mod", "module example.com/invoices/tools/delve\n\ngo 1.26\n\n"+
		"require github.com/go-delve/delve v1.0.0\n\nreplace github.com/go-delve/delve => ../other\n")
	write(t, "tools/other/go.mod", "module github.com/go-delve/delve\n\ngo 1.26\n")
	write(t, "tools/other/cmd/dlv/main.go", "package main\n\nfunc main() {}\n")
	kubectl := deployed(t)
	saved(t)
	plain := read(t, program)

	said, err := build(t, t.Context(), true)
	require.NoError(t, err)
	assert.Equal(t, "invoice-app is delivered to its pods\ndeployment.apps/invoice-app restarted\n", said)
	assert.NotEqual(t, plain, read(t, program))
	assert.FileExists(t, "live/invoice-app/dlv")
	assert.Equal(t, restart, strings.Join(kubectl.Last().Args, " "))

	said, err = build(t, t.Context(), true)
	require.NoError(t, err)
	assert.Equal(t, "nothing has changed in invoice-app\n", said)
	assert.Len(t, kubectl.Calls(), 2)
}
