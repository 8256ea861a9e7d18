package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Lock is held until it is closed, and the processes that were started meanwhile have ended: one that was killed
// does not leave the work that it began to a second one. (Libraries for locks let nobody else have the file.)
type Lock struct{ file *os.File }

// Close releases the lock.
func (l *Lock) Close() error {
	_ = unix.Flock(int(l.file.Fd()), unix.LOCK_UN) // for those, too, that still have the file open
	return l.file.Close()
}

// KeepToSelf keeps the lock to this process: those that it starts later do not have it.
func (l *Lock) KeepToSelf() { unix.CloseOnExec(int(l.file.Fd())) }

// TryLock takes the lock that is the file at path, or returns nil if another process has it.
func TryLock(path string) (*Lock, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	if err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == nil {
		// Go opens files so that no process that is started later has them.
		if _, err = unix.FcntlInt(file.Fd(), unix.F_SETFD, 0); err == nil {
			return &Lock{file}, nil
		}
	}
	_ = file.Close()
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, nil
	}
	return nil, fmt.Errorf("lock %s: %w", path, err)
}

// Lock waits for the lock that is the file at path, and says so when it has to.
func (c *Console) Lock(ctx context.Context, path string) (*Lock, error) {
	lock, err := TryLock(path)
	if lock != nil || err != nil {
		return lock, err
	}
	err = c.Step(ctx, "waiting for another run, which is at the same", "wait-"+filepath.Base(path),
		func(ctx context.Context, _ *Step) error {
			for lock == nil {
				select {
				case <-ctx.Done():
					return ctx.Err()
				case <-time.After(200 * time.Millisecond):
				}
				if lock, err = TryLock(path); err != nil {
					return err
				}
			}
			return nil
		})
	return lock, err
}
