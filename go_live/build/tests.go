package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// tests is the state of the tests of the programs' packages.
type tests struct {
	stale     bool // code or tests have changed in this round
	due       bool // they have not run since
	followers int  // how many clients run them
	last      testRun
}

// testRun is one completed run.
type testRun struct {
	Passed  bool    `json:"passed"`
	Seconds float64 `json:"seconds"`
	Error   string  `json:"error,omitempty"` // the first line that names a file and a line
}

// runTests runs the tests once no program is being built, and again after every save that interrupts them. They are
// killed at a save, because they would slow the build down and test old code: Go remembers those that have passed. It
// reports whether they passed.
func (e *engine) runTests(ctx context.Context, out io.Writer, flags []string) (bool, error) {
	e.change(func() { e.tests.followers++ })
	defer e.change(func() { e.tests.followers-- })
	for {
		if err := e.await(ctx, func() bool { return !e.busy }); err != nil {
			return false, err
		}
		e.change(func() { e.tests.due = false })
		run, interrupt := context.WithCancel(ctx)
		go func() {
			if e.await(run, func() bool { return e.busy }) == nil {
				interrupt()
			}
		}()
		began, said := time.Now(), &tail{}
		err := e.goTest(run, io.MultiWriter(out, said), flags)
		interrupted := run.Err() != nil
		interrupt()
		if interrupted {
			if ctx.Err() != nil {
				return false, ctx.Err()
			}
			fmt.Fprintln(out, "put aside: there is a newer save")
			e.change(func() { e.tests.due = true })
			continue
		}
		result := testRun{Passed: err == nil, Seconds: time.Since(began).Seconds()}
		if err != nil {
			fmt.Fprintln(out, "go_live:", err)
			result.Error = cmp.Or(errorIn(said.String()), err.Error())
		}
		e.change(func() { e.tests.last = result })
		return err == nil, nil
	}
}

// goTest runs the tests of all packages that the programs consist of. They are killed with everything that they have
// started, and their temporary files are removed.
func (e *engine) goTest(ctx context.Context, out io.Writer, flags []string) error {
	// Always the same, because Go does not reuse a result under other variables.
	temporary := filepath.Join(os.TempDir(), "go_live-"+filepath.Base(e.folder))
	if err := os.Mkdir(temporary, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	defer os.RemoveAll(temporary)
	if err := os.Chmod(temporary, 0o755); err != nil { // for servers that tests start as other users
		return err
	}
	e.mu.Lock()
	packages := map[string]map[string]bool{} // by module
	for _, t := range e.targets {
		if packages[t.Module] == nil {
			packages[t.Module] = map[string]bool{}
		}
		for _, tested := range t.in.tested {
			packages[t.Module][tested] = true
		}
	}
	e.mu.Unlock()
	for module, tested := range packages {
		args := append(append([]string{"go", "test"}, flags...), slices.Sorted(maps.Keys(tested))...)
		command := exec.CommandContext(ctx, "nice", args...)
		command.Dir = module
		command.Env = append(os.Environ(), "PWD="+module, "GOWORK="+workOf(module), "TMPDIR="+temporary)
		command.Stdout, command.Stderr = out, out
		command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		command.Cancel = func() error { return syscall.Kill(-command.Process.Pid, syscall.SIGKILL) }
		command.WaitDelay = patience
		if err := command.Run(); err != nil {
			return fmt.Errorf("go test: %w", err)
		}
	}
	return nil
}

// workOf returns GOWORK for a module: its own go.work, never one of a parent folder.
func workOf(module string) string {
	work := filepath.Join(module, "go.work")
	if _, err := os.Stat(work); err != nil {
		return "off"
	}
	return work
}

// tail keeps the end of what is written to it.
type tail struct{ text []byte }

func (t *tail) Write(p []byte) (int, error) {
	const most = 1 << 20
	t.text = append(t.text, p...)
	t.text = t.text[max(0, len(t.text)-most):]
	return len(p), nil
}

func (t *tail) String() string { return string(t.text) }
