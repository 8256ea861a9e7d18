// Package tools provides the programs that manage a cluster: tilt, ctlptl, kind and kubectl, and minikube on request.
package tools

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"example.com/invoices/workspace/compile"
	"example.com/invoices/workspace/paths"
	"example.com/invoices/workspace/process"
)

// tool is a program and the oldest version known to work.
type tool struct{ name, oldest string }

// set is a set of tools that are compiled from one go.mod.
type set struct {
	module compile.Module
	stamp  string // the file that records what the compiled tools were made from
	tools  []tool
}

var (
	always = set{compile.Cluster, ".inputs", []tool{
		{"tilt", "0.37.3"}, {"ctlptl", "0.9.0"}, {"kind", "0.30.0"}, {"kubectl", "1.35.0"},
	}}
	forProduction = set{compile.Cluster, ".inputs", always.tools[1:]} // Tilt is for development
	forMinikube   = set{compile.Minikube, ".minikube-inputs", []tool{{"minikube", "1.38.0"}}}
)

// Ensure provides the tools that all clusters need and those for the given products (production needs fewer), and
// returns their folder, for PATH. If PATH already has a recent enough version of a tool, the folder gets a link to it;
// otherwise the pinned version is compiled.
func Ensure(ctx context.Context, console *process.Console, p paths.Paths, products ...string) (string, error) {
	folder := p.Bin()
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return "", err
	}
	lock, err := console.Lock(ctx, filepath.Join(p.Cache, "tools.lock"))
	if err != nil {
		return "", err
	}
	defer lock.Close()
	sets := []set{always}
	if slices.Contains(products, "production") {
		sets[0] = forProduction
	}
	if slices.Contains(products, "minikube") {
		sets = append(sets, forMinikube)
	}
	for _, s := range sets {
		if err := s.ensure(ctx, console, p); err != nil {
			return "", err
		}
	}
	return folder, nil
}

func (s set) ensure(ctx context.Context, console *process.Console, p paths.Paths) error {
	inputs, err := s.module.Inputs(ctx, p)
	if err != nil {
		return err
	}
	stamp := filepath.Join(p.Bin(), s.stamp)
	made, _ := os.ReadFile(stamp)
	var missing []string
	for _, tool := range s.tools {
		found, err := tool.find(ctx, p.Bin(), string(made) == inputs)
		if err != nil {
			return err
		}
		if !found {
			missing = append(missing, tool.name)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	compiler := compile.Compiler{Console: console, Paths: p, OS: runtime.GOOS, Arch: runtime.GOARCH}
	if err := compiler.Programs(ctx, s.module, p.Bin(), missing...); err != nil {
		return err
	}
	return os.WriteFile(stamp, []byte(inputs), 0o644)
}

// find reports whether the folder has a usable version of the tool: a link to one on PATH, which it creates if
// necessary, or one compiled from the current pins. Anything else is removed, lest go build write through a link.
func (t tool) find(ctx context.Context, folder string, upToDate bool) (bool, error) {
	ours := filepath.Join(folder, t.name)
	linked, _ := os.Readlink(ours)
	switch found := t.onPath(ctx, folder); {
	case found != "" && found == linked:
		return true, nil
	case found != "" && !same(found, ours):
		if err := os.RemoveAll(ours); err != nil {
			return false, err
		}
		return true, os.Symlink(found, ours)
	case linked == "" && upToDate && same(ours, ours), linked != "" && t.usable(ctx, ours):
		return true, nil
	case ctx.Err() != nil: // an interrupted check says nothing about the tool
		return false, ctx.Err()
	}
	return false, os.RemoveAll(ours)
}

// onPath returns the path of a usable version on PATH outside our folder, or "".
func (t tool) onPath(ctx context.Context, ours string) string {
	for _, folder := range filepath.SplitList(os.Getenv("PATH")) {
		path := filepath.Join(folder, t.name)
		if !filepath.IsAbs(path) || filepath.Clean(folder) == ours {
			continue
		}
		if _, err := exec.LookPath(path); err == nil {
			if t.usable(ctx, path) {
				return path
			}
			return "" // later ones on PATH are hidden by this one
		}
	}
	return ""
}

// same reports whether two paths refer to the same existing file: PATH may have a link to our tool.
func same(a, b string) bool {
	of, err := os.Stat(a)
	if err != nil {
		return false
	}
	with, err := os.Stat(b)
	return err == nil && os.SameFile(of, with)
}

// usable reports whether a program exists, runs and is recent enough.
func (t tool) usable(ctx context.Context, path string) bool {
	args := []string{"version"}
	if t.name == "kubectl" {
		args = append(args, "--client")
	}
	said, err := process.Output(process.Command(ctx, path, args...))
	return err == nil && !older(regexp.MustCompile(`\d+\.\d+\.\d+`).FindString(said), t.oldest)
}

// older reports whether a version such as 1.2.3 is older than another.
func older(version, than string) bool {
	return slices.Compare(numbers(version), numbers(than)) < 0
}

func numbers(version string) []int {
	var all []int
	for part := range strings.SplitSeq(version, ".") {
		number, _ := strconv.Atoi(part)
		all = append(all, number)
	}
	return all
}
