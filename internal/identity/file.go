package identity

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
)

// files caches what was parsed from the files with these names in one folder, and reads all of them again when
// one is replaced. A check takes a microsecond or two per file, so every use checks: there is no watcher, no timer,
// and no moment at which a new key, token or certificate exists but is not known yet. Content that cannot be parsed
// is not read again until it changes.
//
// The kubelet replaces the files of a folder by swapping one symbolic link, so a reader sees the old file or the new
// one, never a part. Of several files it may see some old and some new ones: parse must notice if that matters, and
// the next use reads them again.
type files[T any] struct {
	folder string
	names  []string
	parse  func(contents [][]byte) (T, error)

	mu    sync.Mutex
	seen  []fs.FileInfo // of the contents behind value and err; nil before the first read
	value T
	err   error
}

// one returns the files for a single path.
func one[T any](path string, parse func([]byte) (T, error)) *files[T] {
	return &files[T]{folder: filepath.Dir(path), names: []string{filepath.Base(path)},
		parse: func(contents [][]byte) (T, error) { return parse(contents[0]) }}
}

func (f *files[T]) read() (T, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	value, err := f.look()
	if errors.Is(err, fs.ErrNotExist) { // it may just have been replaced
		value, err = f.look()
	}
	return value, err
}

func (f *files[T]) look() (none T, err error) {
	now := make([]fs.FileInfo, len(f.names))
	changed := f.seen == nil
	for n, name := range f.names {
		if now[n], err = os.Stat(filepath.Join(f.folder, name)); err != nil {
			return none, err
		}
		changed = changed || !os.SameFile(f.seen[n], now[n]) || !f.seen[n].ModTime().Equal(now[n].ModTime()) ||
			f.seen[n].Size() != now[n].Size()
	}
	if !changed {
		return f.value, f.err
	}
	// If a file is replaced before it is read here, it is read once too often.
	contents := make([][]byte, len(f.names))
	for n, name := range f.names {
		if contents[n], err = os.ReadFile(filepath.Join(f.folder, name)); err != nil {
			return none, err
		}
	}
	f.seen = now
	if f.value, f.err = f.parse(contents); f.err != nil {
		where := f.folder
		if len(f.names) == 1 {
			where = filepath.Join(f.folder, f.names[0])
		}
		f.err = fmt.Errorf("%s: %w", where, f.err)
	}
	return f.value, f.err
}
