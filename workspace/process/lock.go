package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Lock is a file lock that child processes inherit: it is held until it is closed, or, if this process is killed,
// until the children it started have exited as well, so that nobody else repeats work they are still doing.
// (Lock libraries do not let children inherit the file.)
type Lock struct{ file *os.File }

// Close releases the lock.
func (l *Lock) Close() error {
	_ = unix.Flock(int(l.file.Fd()), unix.LOCK_UN) // also for children that still have the file open
	return l.file.Close()
}

// KeepToSelf stops processes started from now on from inheriting the lock.
func (l *Lock) KeepToSelf() { unix.CloseOnExec(int(l.file.Fd())) }

// TryLock locks the file at path, or returns nil if another process holds the lock.
func TryLock(path string) (*Lock, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	for range 5 { // Held takes the lock for a moment
		if err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	if err == nil {
		// Go opens files close-on-exec.
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

// Held reports whether another process holds a lock on the file at path, and returns the file's content if so.
func Held(path string) (content []byte, held bool, err error) {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	} else if err != nil {
		return nil, false, err
	}
	defer file.Close() // which also releases the lock
	err = unix.Flock(int(file.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	switch {
	case err == nil:
		return nil, false, nil
	case errors.Is(err, unix.EWOULDBLOCK):
		content, err = io.ReadAll(file)
		return content, true, err
	}
	return nil, false, fmt.Errorf("lock %s: %w", path, err)
}

// Lock locks the file at path, and reports that it is waiting if another process holds the lock.
func (c *Console) Lock(ctx context.Context, path string) (*Lock, error) {
	lock, err := TryLock(path)
	if lock != nil || err != nil {
		return lock, err
	}
	err = c.Step(ctx, "waiting for another run to finish", "wait-"+filepath.Base(path),
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
