package identity

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
)

// file caches the parsed content of a file, and reads the file again when it is replaced. A check
// takes a microsecond or two, so every use checks: there is no watcher, no timer, and no moment at
// which a new key or token exists but is not known yet. Content that cannot be parsed is not read
// again until it changes.
//
// The kubelet replaces a file by swapping a symbolic link, so a reader sees the old file or the
// new one, never a part.
type file[T any] struct {
	path  string
	parse func([]byte) (T, error)

	mu    sync.Mutex
	seen  fs.FileInfo // of the content behind value and err; nil before the first read
	value T
	err   error
}

func (f *file[T]) read() (T, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	value, err := f.look()
	if errors.Is(err, fs.ErrNotExist) { // it may just have been replaced
		value, err = f.look()
	}
	return value, err
}

func (f *file[T]) look() (none T, err error) {
	now, err := os.Stat(f.path)
	if err != nil {
		return none, err
	}
	if f.seen != nil && os.SameFile(f.seen, now) && f.seen.ModTime().Equal(now.ModTime()) && f.seen.Size() == now.Size() {
		return f.value, f.err
	}
	// If the file is replaced before the next line, it is read once too often.
	content, err := os.ReadFile(f.path)
	if err != nil {
		return none, err
	}
	f.seen = now
	if f.value, f.err = f.parse(content); f.err != nil {
		f.err = fmt.Errorf("%s: %w", f.path, f.err)
	}
	return f.value, f.err
}
