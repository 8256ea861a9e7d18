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
	"regexp"
	"runtime"
	"slices"
	"strings"
)

// program is what the Tiltfile says of one program. Paths are on this machine, and absolute.
type program struct {
	Name         string
	Folder       string // shared with the node; the program is Folder/Name/Name, and its pods see Folder/Name
	Module       string // the folder of go.mod or go.work
	Package      string // relative to Module
	Flags        []string
	RestartOn    []string // files and folders
	Debugger     string   // the folder of delve's module, or ""; with a debugger, every change restarts the pods
	Race         bool
	Architecture string
	Namespace    string
	StatusPort   string // of the supervisor
}

// file is where the pods look for the program.
func (p program) file() string { return filepath.Join(p.Folder, p.Name, p.Name) }

// built is where the compiler writes it.
func (p program) built() string { return filepath.Join(p.Folder, p.Name+".new") }

// restarting exists while the pods must restart to run the program. Supervisors leave it to new pods then.
func (p program) restarting() string { return p.file() + ".restart" }

func (p program) cgo() string {
	if p.Race {
		return "1" // the race detector is written in C
	}
	return "0"
}

// listFlags returns the flags that decide which files belong to the program.
func (p program) listFlags() []string {
	flags := slices.Clone(p.Flags)
	if p.Race {
		flags = append(flags, "-race")
	}
	return flags
}

// buildFlags returns the flags of go build.
func (p program) buildFlags() []string {
	flags, link := []string{"-trimpath", "-buildvcs=false"}, "-ldflags="
	if p.Debugger != "" {
		flags = append(flags, "-gcflags=./...=-N -l") // no optimizations in the module's own code
	} else {
		// Linking takes most of the time, and is faster without symbols and with nothing to leave out. A build ID would
		// be that of one go build (see direct.go).
		flags, link = append(flags, "-gcflags=all=-dwarf=false"), link+"-s -w -buildid="
	}
	if p.Race {
		link += " -linkmode=external -extldflags=-static" // the image has no libc
	}
	return append(append(flags, link), p.listFlags()...)
}

// prepare creates the folder that the pods see, with the debugger if there is one.
func (p program) prepare(ctx context.Context, out io.Writer) error {
	if host := runtime.GOOS + "/" + runtime.GOARCH; p.Race && host != "linux/"+p.Architecture {
		return fmt.Errorf("--race needs a C compiler and libc of the node, which runs on linux/%s, "+
			"but this machine is %s: run the program's tests with go test -race instead", p.Architecture, host)
	}
	pods := filepath.Dir(p.file())
	if err := os.Mkdir(pods, 0o755); err == nil {
		// Running pods see the deleted one, if there was one.
		if err := os.WriteFile(p.restarting(), nil, 0o644); err != nil {
			return err
		}
	} else if !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := os.Chmod(pods, 0o755); err != nil { // regardless of the umask, because the pods run as other users
		return err
	}
	if p.Debugger == "" {
		return nil
	}
	flags := []string{"-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", filepath.Join(pods, "dlv")}
	return p.goBuild(ctx, p.Debugger, nil, out, append(flags, "github.com/go-delve/delve/cmd/dlv")...)
}

// goBuild runs go build in a folder, with more environment variables, and writes what it says to out.
func (p program) goBuild(ctx context.Context, folder string, env []string, out io.Writer, args ...string) error {
	command := exec.CommandContext(ctx, "go", append([]string{"build"}, args...)...)
	command.Dir = folder
	command.Env = append(append(os.Environ(), p.environment(folder)...), env...)
	command.Stdout, command.Stderr = out, out
	command.Cancel = func() error { return command.Process.Signal(os.Interrupt) } // so that it removes its files
	command.WaitDelay = patience
	if err := command.Run(); err != nil {
		return errors.Join(ctx.Err(), fmt.Errorf("go build: %w", err))
	}
	return nil
}

// deliver replaces the program in the shared folder if the built one differs. It returns the program's SHA-256, and
// whether the pods must restart to run it.
func (p program) deliver() (sum string, changed, restart bool, err error) {
	built, err := os.ReadFile(p.built())
	if err != nil {
		return "", false, false, err
	}
	old, err := os.ReadFile(p.file())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", false, false, err
	}
	if err := os.Chmod(p.built(), 0o755); err != nil { // regardless of the umask
		return "", false, false, err
	}
	changed = !bytes.Equal(built, old)
	// First, so that the running supervisors leave the program to new pods.
	if restart, err = p.mustRestart(changed); err != nil {
		return "", false, false, err
	}
	if changed {
		err = os.Rename(p.built(), p.file())
	} else {
		err = os.Remove(p.built())
	}
	return fmt.Sprintf("%x", sha256.Sum256(built)), changed, restart, err // last, because it takes a while
}

// mustRestart reports whether the pods must restart: a file in RestartOn has changed since they were last restarted, or
// the program runs under a debugger, which cannot replace it.
func (p program) mustRestart(changed bool) (bool, error) {
	sum, err := sumOf(p.RestartOn)
	if err != nil {
		return false, err
	}
	// Without a recorded sum there are no pods yet, or only pods that Tilt is about to replace.
	recorded := p.file() + ".restart-on"
	known, _ := os.ReadFile(recorded)
	if p.Debugger != "" && changed || len(known) > 0 && string(known) != sum {
		if err := os.WriteFile(p.restarting(), nil, 0o644); err != nil { // until the restart has succeeded
			return false, err
		}
	}
	if err := os.WriteFile(recorded, []byte(sum), 0o644); err != nil {
		return false, err
	}
	_, err = os.Stat(p.restarting())
	return err == nil, nil
}

// sumOf returns a checksum of the names and contents of files, including the files in folders.
func sumOf(paths []string) (string, error) {
	sum := sha256.New()
	for _, path := range paths {
		if err := walkOther(path, func(path string) error {
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

var fileAndLine = regexp.MustCompile(`(?m)^\s*(vet: )?[^:\n]+:\d+(:\d+)?: .*`)

// errorIn returns the first line of a compiler's or a test's output that names a file and a line.
func errorIn(output string) string { return strings.TrimSpace(fileAndLine.FindString(output)) }

// buildsWith reports whether one go build can build both.
func (p program) buildsWith(other program) bool {
	return p.Module == other.Module && p.Folder == other.Folder && p.Architecture == other.Architecture &&
		p.Race == other.Race && p.Debugger == other.Debugger && slices.Equal(p.Flags, other.Flags)
}
