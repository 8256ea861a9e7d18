package process_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/workspace/process"
)

// TestMain, if HOLD_LOCK is set, takes that lock, starts a child and kills itself.
func TestMain(m *testing.M) {
	if path := os.Getenv("HOLD_LOCK"); path != "" {
		lock, err := process.TryLock(path)
		if err != nil || lock == nil {
			os.Exit(3)
		}
		left := exec.Command("sh", "-c", "echo ready; read line")
		left.Stdin, left.Stdout = os.Stdin, os.Stdout
		_ = left.Start()
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}
	os.Exit(m.Run())
}

func gone(pid int) bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }

func TestCancelTerminatesChildren(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pid")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- process.Run(process.Command(ctx, "sh", "-c", `sleep 1000 & echo $! >"$0.new"; mv "$0.new" "$0"; wait`, file))
	}()
	require.Eventually(t, func() bool { _, err := os.Stat(file); return err == nil }, time.Minute, 10*time.Millisecond)
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	child, err := strconv.Atoi(strings.TrimSpace(string(data)))
	require.NoError(t, err)
	require.False(t, gone(child))

	cancel()

	require.Error(t, <-done)
	assert.Eventually(t, func() bool { return gone(child) }, time.Minute, 10*time.Millisecond)
}

func TestErrorIncludesCommandAndStderr(t *testing.T) {
	said, err := process.Output(process.Command(t.Context(), "sh", "-c", "echo out; echo 'no such thing' >&2; exit 3"))
	assert.Equal(t, "out", said)
	require.ErrorContains(t, err, "sh -c 'echo out; ")
	require.ErrorContains(t, err, "exit status 3: no such thing")
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)

	require.EqualError(t, process.Run(process.Command(t.Context(), "no-such-program")), "no-such-program is not on PATH")
}

func TestWordsSurviveTheShell(t *testing.T) {
	for _, args := range [][]string{
		{"plain", "--flag=a/b:c,d@e%f+g~h"}, {"", "a b", "it's", `"$HOME" & | ; \ *`, "ä", "line\nline"},
	} {
		said, err := exec.Command("sh", "-c", `printf '%s\0' `+process.Words(args)).Output()
		require.NoError(t, err)
		assert.Equal(t, strings.Join(args, "\x00")+"\x00", string(said))
	}
}

func console(t *testing.T) (*process.Console, *bytes.Buffer) {
	var out bytes.Buffer
	return &process.Console{Out: &out, Logs: t.TempDir(), Every: 20 * time.Second}, &out
}

// The clock of these tests stands still while a command runs.
func TestStepReportsProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, out := console(t)
		var log string
		err := c.Step(t.Context(), "making it", "make", func(ctx context.Context, step *process.Step) error {
			log = step.Log()
			command := process.Command(ctx, "sh", "-c", "echo first; echo second >&2")
			command.Env = append(os.Environ(), "WITH=a b")
			err := step.Run(command)
			time.Sleep(50 * time.Second)
			return err
		})
		require.NoError(t, err)
		assert.Equal(t, "making it ...\n  0m20s second\n  0m40s second\n  done in 0m50s\n", out.String())
		kept, err := os.ReadFile(log)
		require.NoError(t, err)
		assert.Equal(t, "$ WITH='a b' sh -c 'echo first; echo second >&2'\nfirst\nsecond\n", string(kept))
	})
}

func TestFailedStepShowsEndOfLog(t *testing.T) {
	c, out := console(t)
	err := c.Step(t.Context(), "making it", "make", func(ctx context.Context, step *process.Step) error {
		return step.Run(process.Command(ctx, "sh", "-c", "for n in $(seq 1 100); do echo line-$n; done; exit 7"))
	})
	require.ErrorContains(t, err, "making it: failed: sh -c ")
	require.ErrorContains(t, err, "exit status 7\nsee the full log: "+filepath.Join(c.Logs, "make.log"))
	assert.Contains(t, out.String(), "line-71\n")
	assert.Contains(t, out.String(), "line-100\n")
	assert.NotContains(t, out.String(), "line-70\n")
}

func TestStepIsInterrupted(t *testing.T) {
	c, _ := console(t)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(100*time.Millisecond, cancel)
	err := c.Step(ctx, "making it", "make", func(ctx context.Context, step *process.Step) error {
		return step.Run(process.Command(ctx, "sleep", "1000"))
	})
	require.ErrorIs(t, err, context.Canceled)
}

func TestLockIsExclusive(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "it.lock")
	first, err := process.TryLock(path)
	require.NoError(t, err)
	require.NotNil(t, first)
	second, err := process.TryLock(path)
	require.NoError(t, err)
	require.Nil(t, second)

	synctest.Test(t, func(t *testing.T) {
		c, out := console(t)
		time.AfterFunc(300*time.Millisecond, func() { _ = first.Close() })
		second, err = c.Lock(t.Context(), path)
		require.NoError(t, err)
		assert.Contains(t, out.String(), "waiting for another run to finish ...")
		require.NoError(t, second.Close())

		third, err := process.TryLock(path)
		require.NoError(t, err)
		require.NotNil(t, third)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(100*time.Millisecond, cancel)
		_, err = c.Lock(ctx, path)
		require.ErrorIs(t, err, context.Canceled)
	})
}

func TestWhoHoldsALockIsSaid(t *testing.T) {
	path := filepath.Join(t.TempDir(), "it.lock")
	_, held, err := process.Held(path)
	require.NoError(t, err)
	assert.False(t, held, "there is no file")
	assert.NoFileExists(t, path)

	lock, err := process.TryLock(path)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, []byte("me"), 0o644))
	content, held, err := process.Held(path)
	require.NoError(t, err)
	assert.True(t, held)
	assert.Equal(t, "me", string(content))

	require.NoError(t, lock.Close())
	_, held, err = process.Held(path)
	require.NoError(t, err)
	assert.False(t, held, "the file is left behind")
	_, _, err = process.Held(filepath.Join(path, "below a file"))
	require.Error(t, err)
}

// Asking who holds a lock takes it for a moment, in which nobody else must fail.
func TestAskingForALockKeepsNobodyFromIt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "it.lock")
	require.NoError(t, os.WriteFile(path, nil, 0o644))
	ctx, stop := context.WithCancel(t.Context())
	var asking sync.WaitGroup
	asking.Go(func() {
		for ctx.Err() == nil {
			_, _, _ = process.Held(path)
		}
	})
	for range 1000 {
		lock, err := process.TryLock(path)
		require.NoError(t, err)
		require.NotNil(t, lock)
		require.NoError(t, lock.Close())
	}
	stop()
	asking.Wait()
}

// The children of a killed process may still be doing the work that the lock protects.
func TestChildrenInheritLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "it.lock")
	self, err := os.Executable()
	require.NoError(t, err)
	owner := exec.Command(self)
	owner.Env = append(os.Environ(), "HOLD_LOCK="+path)
	end, err := owner.StdinPipe()
	require.NoError(t, err)
	out, err := owner.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, owner.Start())
	_, err = out.Read(make([]byte, 16)) // the child is running
	require.NoError(t, err)
	_, err = owner.Process.Wait()
	require.NoError(t, err)

	lock, err := process.TryLock(path)
	require.NoError(t, err)
	require.Nil(t, lock)

	require.NoError(t, end.Close())
	require.Eventually(t, func() bool {
		lock, err := process.TryLock(path)
		return err == nil && lock != nil
	}, time.Minute, 10*time.Millisecond)
}
