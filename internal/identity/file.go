package identity

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
)

// file is what a file means, read again as soon as it is another one. To look
// costs a microsecond or two, so each use looks: there is no watcher, no timer,
// and no moment in which a new key or token is there and not known yet. Content
// that makes no sense is not read again until it changes, however many ask.
//
// The kubelet replaces a file by swapping a symbolic link: a reader sees the
// old one or the new one, never a part.
type file[T any] struct {
	path  string
	parse func([]byte) (T, error)

	mu    sync.Mutex
	seen  fs.FileInfo // whose content value and err are; nil if there is none
	value T
	err   error
}

func (f *file[T]) read() (T, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	value, err := f.look()
	if errors.Is(err, fs.ErrNotExist) { // replaced while it was being opened?
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
	// If it is replaced before the next line, it is read once too often.
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
