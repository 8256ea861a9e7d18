package service

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"example.com/invoices/workspace/kubectl"
	"example.com/invoices/workspace/process"
)

// Live is a service that `tilt up` runs.
type Live struct {
	Service   string
	Folder    string // what is delivered is in Folder/Service, which the pods see as /live
	Debug     bool   // for a debugger, which is put beside the program; every change restarts the pod
	Cluster   kubectl.Context
	Namespace string
	Out       io.Writer
}

// Build builds the service as Folder/Service/Service, where every pod of it sees that it is new. What has not changed
// is not replaced, and what does not compile replaces nothing. After a change of migrations the pods are restarted one
// by one: their init container alone may change the schema.
func (l Live) Build(ctx context.Context, architecture string) error {
	pods := filepath.Join(l.Folder, l.Service)
	program := filepath.Join(pods, l.Service)
	if err := os.MkdirAll(pods, 0o755); err != nil {
		return err
	}
	if err := os.Chmod(pods, 0o755); err != nil { // whatever the umask is: the pods have users of their own
		return err
	}
	// The time of this file is when the build began: the supervisor shows how long it took.
	if err := os.WriteFile(program+".begun", []byte(time.Now().Format(time.RFC3339Nano)+"\n"), 0o644); err != nil {
		return err
	}
	// Linking is most of a build, and what is left out here is not linked.
	flag := "-ldflags=-s -w"
	if l.Debug {
		flag = "-gcflags=example.com/invoices/...=-N -l" // our own code as it is written
		debugger := filepath.Join(pods, "dlv")
		if err := compile(ctx, "tools/delve", "github.com/go-delve/delve/cmd/dlv", debugger, architecture,
			"-ldflags=-s -w"); err != nil {
			return err
		}
		if err := os.Chmod(debugger, 0o755); err != nil {
			return err
		}
	}
	source := filepath.Join(l.Folder, l.Service+".source")
	if err := copySource(source, l.Service); err != nil {
		return err
	}
	built := filepath.Join(l.Folder, l.Service+".new")
	if err := compile(ctx, source, "./"+l.Service, built, architecture, noSQLite, flag); err != nil {
		return err
	}

	restart := program + ".restart"
	same, err := sameContent(built, program)
	switch {
	case err != nil:
		return err
	case same:
		if err := os.Remove(built); err != nil {
			return err
		}
		fmt.Fprintln(l.Out, "nothing has changed in", l.Service)
	default:
		if err := errors.Join(os.Chmod(built, 0o755), os.Rename(built, program)); err != nil {
			return err
		}
		fmt.Fprintln(l.Out, l.Service, "is delivered to its pods")
	}

	migrations, err := sumOf(filepath.Join(l.Service, "store", "migrations", "postgres"))
	if err != nil {
		return err
	}
	// Without a known state there are no pods yet, or pods that Tilt is about to replace.
	known, _ := os.ReadFile(program + ".migrations")
	migrated := len(known) > 0 && string(known) != migrations
	if l.Debug && !same || migrated {
		if err := os.WriteFile(restart, nil, 0o644); err != nil { // until it was done
			return err
		}
	}
	if err := os.WriteFile(program+".migrations", []byte(migrations), 0o644); err != nil {
		return err
	}
	if _, err := os.Stat(restart); err != nil {
		return nil
	}
	if err := l.restart(ctx); err != nil {
		return err
	}
	return os.Remove(restart)
}

// copySource copies what a service is built from, so that it is built from a copy in which nothing is saved meanwhile:
// Go looks up what it has compiled by what a file held when the build began. A save before the file is compiled would
// be kept under the old content's name, and come back with an undo.
func copySource(to, service string) error {
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	if err := os.Mkdir(to, 0o755); err != nil {
		return err
	}
	for _, part := range []string{"go.mod", "go.sum", "internal", service} {
		err := filepath.WalkDir(part, func(path string, entry fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case entry.IsDir() && entry.Name() == "testdata":
				return fs.SkipDir
			case entry.IsDir():
				return os.Mkdir(filepath.Join(to, path), 0o755)
			case strings.HasSuffix(path, "_test.go"):
				return nil
			}
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(to, path), content, 0o644)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// sameContent tells whether two files have the same content. One that is not there has none.
func sameContent(path, other string) (bool, error) {
	a, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer a.Close()
	b, err := os.Open(other)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	defer b.Close()
	ofA, ofB := make([]byte, 1<<20), make([]byte, 1<<20)
	for { // programs of one service differ in their first bytes, if they do, and often not in their size
		n, errA := io.ReadFull(a, ofA)
		m, errB := io.ReadFull(b, ofB)
		if !bytes.Equal(ofA[:n], ofB[:m]) {
			return false, nil
		}
		for _, err := range []error{errA, errB} {
			if err == io.EOF || err == io.ErrUnexpectedEOF {
				return true, nil
			} else if err != nil {
				return false, err
			}
		}
	}
}

// sumOf is a checksum of the files in a folder, by the order of their names.
func sumOf(folder string) (string, error) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return "", err
	}
	sum := sha256.New()
	for _, entry := range entries {
		content, err := os.ReadFile(filepath.Join(folder, entry.Name()))
		if err != nil {
			return "", err
		}
		fmt.Fprintf(sum, "%s %d\n%s", entry.Name(), len(content), content)
	}
	return fmt.Sprintf("%x\n", sum.Sum(nil)), nil
}

// restart replaces the service's pods one by one, if it has any.
func (l Live) restart(ctx context.Context) error {
	namespace := "--namespace=" + l.Namespace
	deployment, err := process.Output(l.Cluster.Command(ctx, namespace, "get", "deployment", l.Service,
		"--ignore-not-found", "--output=name"))
	if err != nil || deployment == "" {
		return err
	}
	said, err := process.Output(l.Cluster.Command(ctx, namespace, "rollout", "restart", deployment))
	if err == nil {
		fmt.Fprintln(l.Out, said)
	}
	return err
}
