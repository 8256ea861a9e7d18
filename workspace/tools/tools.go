// Package tools makes sure that the programs are there which drive a cluster: tilt, ctlptl, kind and kubectl,
// and minikube where it is asked for.
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

// tool is a program, and the oldest version of it that is known to do.
type tool struct{ name, oldest string }

// set is the tools that are compiled from one go.mod.
type set struct {
	module compile.Module
	stamp  string // the file that says what those in the folder were compiled from
	tools  []tool
}

var (
	everybodys = set{compile.Cluster, ".inputs", []tool{
		{"tilt", "0.37.3"}, {"ctlptl", "0.9.0"}, {"kind", "0.30.0"}, {"kubectl", "1.35.0"},
	}}
	minikubes = set{compile.Minikube, ".minikube-inputs", []tool{{"minikube", "1.38.0"}}}
)

// Ensure returns the folder of the tools, for PATH. One of a good version that is on PATH already is used: the
// folder has a link to it. What is missing is compiled, once, as it is pinned. Of the products that a cluster is made
// with, minikube needs a tool more.
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
	sets := []set{everybodys}
	if slices.Contains(products, "minikube") {
		sets = append(sets, minikubes)
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
		there, err := tool.there(ctx, p.Bin(), string(made) == inputs)
		if err != nil {
			return err
		}
		if !there {
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

// there tells whether the folder has a good one: a link to one elsewhere, or one that was compiled from what is
// pinned now. One that is not is removed, so that nothing is compiled through a link into what it points to.
func (t tool) there(ctx context.Context, folder string, compiledNow bool) (bool, error) {
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
	case linked == "" && compiledNow && same(ours, ours), linked != "" && t.good(ctx, ours):
		return true, nil
	case ctx.Err() != nil: // then nothing was found out
		return false, ctx.Err()
	}
	return false, os.RemoveAll(ours)
}

// onPath is where PATH has a good one that is not in our folder.
func (t tool) onPath(ctx context.Context, ours string) string {
	for _, folder := range filepath.SplitList(os.Getenv("PATH")) {
		path := filepath.Join(folder, t.name)
		if !filepath.IsAbs(path) || filepath.Clean(folder) == ours {
			continue
		}
		if _, err := exec.LookPath(path); err == nil {
			if t.good(ctx, path) {
				return path
			}
			return "" // what PATH has behind it, nobody gets
		}
	}
	return ""
}

// same tells whether two paths lead to the same file: somebody may have a link to ours on PATH.
func same(a, b string) bool {
	of, err := os.Stat(a)
	if err != nil {
		return false
	}
	with, err := os.Stat(b)
	return err == nil && os.SameFile(of, with)
}

// good tells whether a program is there, runs and is new enough.
func (t tool) good(ctx context.Context, path string) bool {
	args := []string{"version"}
	if t.name == "kubectl" {
		args = append(args, "--client")
	}
	said, err := process.Output(process.Command(ctx, path, args...))
	return err == nil && !older(regexp.MustCompile(`\d+\.\d+\.\d+`).FindString(said), t.oldest)
}

// older tells whether a version, 1.2.3, is older than another one.
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
