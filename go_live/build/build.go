package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// build builds one program that pods run. Its paths are on the developer's machine.
type build struct {
	name         string
	folder       string // the program is folder/name/name; the pods see folder/name
	module       string
	pkg          string
	sources      []string // in module
	flags        []string
	restartOn    []string
	debugger     string // the folder of delve's module, or ""; with a debugger, every change restarts the pods
	race         bool   // build with the race detector
	architecture string
	context      string
	namespace    string
	out          io.Writer
}

// run replaces the program in the shared folder, where each pod notices it. It replaces nothing if the program is
// unchanged or does not compile. It restarts the pods if a file in restartOn has changed.
func (b build) run(ctx context.Context) error {
	pods := filepath.Join(b.folder, b.name)
	program := filepath.Join(pods, b.name)
	if err := os.MkdirAll(pods, 0o755); err != nil {
		return err
	}
	if err := os.Chmod(pods, 0o755); err != nil { // regardless of the umask, because the pods run as other users
		return err
	}
	// This file's modification time is the start of the build, from which the supervisor reports the duration.
	if err := os.WriteFile(program+".begun", []byte(time.Now().Format(time.RFC3339Nano)+"\n"), 0o644); err != nil {
		return err
	}
	const noSymbols = "-ldflags=-s -w"
	link, flags := noSymbols, []string(nil) // linking takes most of the time, and is faster without symbols
	if b.debugger != "" {
		debugger := filepath.Join(pods, "dlv")
		if err := b.compile(ctx, "0", b.debugger, "github.com/go-delve/delve/cmd/dlv", debugger, noSymbols); err != nil {
			return err
		}
		if err := os.Chmod(debugger, 0o755); err != nil {
			return err
		}
		link, flags = "-ldflags=", []string{"-gcflags=./...=-N -l"} // no optimizations in the module's own code
	}
	cgo := "0"
	if b.race {
		if host := runtime.GOOS + "/" + runtime.GOARCH; host != "linux/"+b.architecture {
			return fmt.Errorf("--race needs a C compiler and libc of the node, which runs on linux/%s, "+
				"but this machine is %s: run the program's tests with go test -race instead", b.architecture, host)
		}
		cgo, flags = "1", append(flags, "-race")
		link += " -linkmode=external -extldflags=-static" // the image has no libc
	}
	source := filepath.Join(b.folder, b.name+".source")
	if err := b.copySources(source); err != nil {
		return err
	}
	built := filepath.Join(b.folder, b.name+".new")
	if err := b.compile(ctx, cgo, source, b.pkg, built, slices.Concat(flags, []string{link}, b.flags)...); err != nil {
		return err
	}

	same, err := sameContent(built, program)
	switch {
	case err != nil:
		return err
	case same:
		if err := os.Remove(built); err != nil {
			return err
		}
		fmt.Fprintln(b.out, "nothing has changed in", b.name)
	default:
		if err := errors.Join(os.Chmod(built, 0o755), os.Rename(built, program)); err != nil {
			return err
		}
		fmt.Fprintln(b.out, b.name, "is delivered to its pods")
	}

	sum, err := sumOf(b.restartOn)
	if err != nil {
		return err
	}
	// Without a recorded sum there are no pods yet, or only pods that Tilt is about to replace.
	known, _ := os.ReadFile(program + ".restart-on")
	restart := program + ".restart"
	if b.debugger != "" && !same || len(known) > 0 && string(known) != sum {
		if err := os.WriteFile(restart, nil, 0o644); err != nil { // exists until the restart has succeeded
			return err
		}
	}
	if err := os.WriteFile(program+".restart-on", []byte(sum), 0o644); err != nil {
		return err
	}
	if _, err := os.Stat(restart); err != nil {
		return nil
	}
	if err := b.restart(ctx); err != nil {
		return err
	}
	return os.Remove(restart)
}

// compile builds a package of the module in a folder, for Linux, without paths and version control state.
func (b build) compile(ctx context.Context, cgo, module, pkg, program string, flags ...string) error {
	program, err := filepath.Abs(program)
	if err != nil {
		return err
	}
	work, err := filepath.Abs(filepath.Join(module, "go.work")) // never one of a parent folder
	if err != nil {
		return err
	}
	if _, err := os.Stat(work); err != nil {
		work = "off"
	}
	args := slices.Concat([]string{"build", "-trimpath", "-buildvcs=false"}, flags, []string{"-o", program, pkg})
	command := exec.CommandContext(ctx, "go", args...)
	command.Dir = module
	command.Env = append(os.Environ(), "CGO_ENABLED="+cgo, "GOOS=linux", "GOARCH="+b.architecture, "GOWORK="+work)
	command.Stdout, command.Stderr = os.Stdout, os.Stderr
	if err := command.Run(); err != nil {
		return errors.Join(ctx.Err(), fmt.Errorf("go build %s: %w", pkg, err))
	}
	return nil
}

// copySources copies the sources, so that no file changes during the build. Go's cache identifies a compiled package by
// the files' content at the start of the build. If a file were saved before it is compiled, the result would be cached
// for the old content, and an undo would bring it back.
func (b build) copySources(to string) error {
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	shared, err := filepath.Abs(b.folder)
	if err != nil {
		return err
	}
	for _, source := range b.sources {
		within, err := filepath.Rel(b.module, source)
		if err != nil {
			return err
		}
		if !filepath.IsLocal(within) {
			return fmt.Errorf("%s must be in the module's folder %s", source, b.module)
		}
		if err := filepath.WalkDir(source, func(path string, entry fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			within, err := filepath.Rel(b.module, path)
			if err != nil {
				return err
			}
			if !entry.IsDir() {
				return copyFile(path, filepath.Join(to, within))
			}
			path, err = filepath.Abs(path)
			if path == shared || slices.Contains([]string{"testdata", "node_modules", ".git"}, entry.Name()) {
				return fs.SkipDir
			}
			return err
		}); err != nil {
			return err
		}
	}
	return nil
}

// copyFile copies a file, unless Go ignores it in a build. A missing file was an editor's temporary file.
func copyFile(from, to string) error {
	info, err := os.Stat(from)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.Mode().IsRegular() || strings.HasSuffix(from, "_test.go") {
		return nil
	}
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return os.WriteFile(to, content, 0o644)
}

// sameContent reports whether two files have the same content. The second one may be missing.
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
	for { // different builds usually differ in the first bytes, but often have the same size
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

// sumOf returns a checksum of the names and contents of files, including the files in folders.
func sumOf(paths []string) (string, error) {
	sum := sha256.New()
	for _, path := range paths {
		if err := filepath.WalkDir(path, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(sum, "%s %d\n%s", path, len(content), content)
			return nil
		}); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%x\n", sum.Sum(nil)), nil
}

// restart replaces the pods one by one, if there are any.
func (b build) restart(ctx context.Context) error {
	deployment, err := b.kubectl(ctx, "get", "deployment", b.name, "--ignore-not-found", "--output=name")
	if err != nil || deployment == "" {
		return err
	}
	said, err := b.kubectl(ctx, "rollout", "restart", deployment)
	if err == nil {
		fmt.Fprintln(b.out, said)
	}
	return err
}

func (b build) kubectl(ctx context.Context, args ...string) (string, error) {
	args = append([]string{"--context=" + b.context, "--namespace=" + b.namespace}, args...)
	command := exec.CommandContext(ctx, "kubectl", args...)
	var stderr bytes.Buffer
	command.Stderr = &stderr
	said, err := command.Output()
	if err != nil {
		return "", fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return strings.TrimSpace(string(said)), nil
}
