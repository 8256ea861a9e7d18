// Package compile compiles Go programs in the versions pinned by the go.mod files in tools/.
package compile

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"example.com/invoices/workspace/debian"
	"example.com/invoices/workspace/paths"
	"example.com/invoices/workspace/process"
)

// Compiler compiles for one operating system and architecture, as named by Go.
type Compiler struct {
	Console  *process.Console
	Paths    paths.Paths
	OS, Arch string
}

// Inputs returns a hash of everything that a module's programs are made from.
func (m Module) Inputs(ctx context.Context, p paths.Paths) (string, error) {
	files, err := p.Hash("tools/" + m.name)
	if err != nil {
		return "", err
	}
	version, err := process.Output(process.Command(ctx, "go", "env", "GOVERSION"))
	if err != nil {
		return "", err
	}
	how := sha256.Sum256(fmt.Append(nil, m.programs, m.flags))
	return fmt.Sprintf("%s-%x-%s", files, how[:4], version), nil
}

// Version returns the pinned version of a Go module.
func (m Module) Version(ctx context.Context, p paths.Paths, module string) (string, error) {
	return process.Output(m.command(ctx, p, "list", "-m", "-f", "{{.Version}}", module))
}

// Files returns the folder with a Go module's files, and downloads them if necessary.
func (m Module) Files(ctx context.Context, p paths.Paths, module string) (string, error) {
	if err := process.Run(m.command(ctx, p, "mod", "download", module)); err != nil {
		return "", err
	}
	return process.Output(m.command(ctx, p, "list", "-m", "-f", "{{.Dir}}", module))
}

func (m Module) command(ctx context.Context, p paths.Paths, args ...string) *exec.Cmd {
	folder := filepath.Join(p.Root, "tools", m.name)
	return process.Command(ctx, "go", append([]string{"-C", folder}, args...)...)
}

// Programs compiles some of a module's programs into a folder.
func (c Compiler) Programs(ctx context.Context, m Module, folder string, names ...string) error {
	if _, err := exec.LookPath("go"); err != nil {
		return errors.New("this requires Go: see https://go.dev/dl")
	}
	var static, dynamic build
	for _, name := range names {
		i := slices.IndexFunc(m.programs, func(p program) bool { return p.name == name })
		if i < 0 {
			return fmt.Errorf("tools/%s has no program %s", m.name, name)
		}
		into := &static
		if m.programs[i].cgo {
			into = &dynamic
		}
		into.names, into.paths = append(into.names, name), append(into.paths, m.programs[i].path)
		into.packages = append(into.packages, m.programs[i].packages...)
	}
	if len(dynamic.names) > 0 {
		if err := debian.Need(ctx, c.Console, "cc", "gcc", "libc6-dev"); err != nil {
			return err
		}
		if err := debian.Install(ctx, c.Console, dynamic.packages...); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	flags, err := c.flags(ctx, m)
	if err != nil {
		return err
	}
	total, err := c.download(ctx, m, flags, slices.Concat(static.paths, dynamic.paths))
	if err != nil {
		return err
	}
	compiled, err := c.build(ctx, m, static, append(flags, "-o", folder+"/"), progress{total: total})
	if err != nil {
		return err
	}
	if slices.Contains(dynamic.names, "tilt") {
		withPage, err := c.tiltWithPage(ctx, m)
		if err != nil {
			return err
		}
		flags = append(flags, "-modfile="+withPage)
	}
	dynamic.cgo = true
	_, err = c.build(ctx, m, dynamic, append(flags, "-o", folder+"/"), progress{total: total, before: compiled})
	return err
}

// build is one invocation of go build.
type build struct {
	names, paths, packages []string
	cgo                    bool
}

// flags returns the flags for a module's programs, with versions substituted for modules.
func (c Compiler) flags(ctx context.Context, m Module) ([]string, error) {
	flags := []string{"-trimpath", "-buildvcs=false"}
	var failed error
	for _, flag := range m.flags {
		flags = append(flags, regexp.MustCompile(`\{[^}]+\}`).ReplaceAllStringFunc(flag, func(module string) string {
			version, err := m.Version(ctx, c.Paths, strings.Trim(module, "{}"))
			failed = errors.Join(failed, err)
			return strings.TrimPrefix(version, "v")
		}))
	}
	return slices.Clip(flags), failed
}

func (c Compiler) environment(more ...string) []string {
	return slices.Concat(os.Environ(), []string{"GOOS=" + c.OS, "GOARCH=" + c.Arch}, more)
}

// download downloads the Go modules that packages need, and returns the number of packages to compile.
func (c Compiler) download(ctx context.Context, m Module, flags, packages []string) (total int, err error) {
	const template = "{{if .Stale}}stale: {{.StaleReason}}{{end}}"
	err = c.Console.Step(ctx, "downloading missing Go modules", m.name+"-modules",
		func(ctx context.Context, step *process.Step) error {
			step.SetProgress(func(time.Duration) string {
				log, _ := os.ReadFile(step.Log())
				return fmt.Sprintf("%d modules downloaded", bytes.Count(log, []byte("\ngo: downloading ")))
			})
			command := m.command(ctx, c.Paths, slices.Concat([]string{"list", "-deps", "-f", template}, flags, packages)...)
			command.Env = c.environment()
			list, err := step.Output(command)
			for line := range strings.Lines(list) {
				if strings.HasPrefix(line, "stale: ") && !strings.Contains(line, "available in build cache") {
					total++
				}
			}
			return err
		})
	return total, err
}

// build compiles programs, and returns the number of compiled packages.
func (c Compiler) build(ctx context.Context, m Module, b build, flags []string, p progress) (compiled int, err error) {
	if len(b.names) == 0 {
		return 0, nil
	}
	log, cgo := m.name+"-compile", "CGO_ENABLED=0"
	if b.cgo {
		log, cgo = log+"-cgo", "CGO_ENABLED=1"
	}
	err = c.Console.Step(ctx, "compiling "+strings.Join(b.names, " "), log,
		func(ctx context.Context, step *process.Step) error {
			// go build prints a line for each package that it compiles.
			lines := func() int {
				log, _ := os.ReadFile(step.Log())
				return max(0, bytes.Count(log, []byte("\n"))-1)
			}
			step.SetProgress(func(elapsed time.Duration) string { return p.describe(lines(), elapsed) })
			command := m.command(ctx, c.Paths, slices.Concat([]string{"build", "-v"}, flags, b.paths)...)
			command.Env = c.environment(cgo)
			err := step.Run(command)
			compiled = lines()
			return err
		})
	return compiled, err
}

// progress is the number of packages to compile, and how many previous builds have compiled.
type progress struct{ total, before int }

func (p progress) describe(compiled int, elapsed time.Duration) string {
	all := p.before + compiled
	if compiled == 0 || all >= p.total {
		return fmt.Sprintf("%d of %d packages", all, max(all, p.total))
	}
	left := elapsed * time.Duration(p.total-all) / time.Duration(compiled)
	return fmt.Sprintf("%d of %d packages, about %s left", all, p.total, process.Minutes(left))
}

// tiltWithPage returns a go.mod that replaces Tilt by a copy with a web page: Tilt's module does not include one, and
// go build cannot add a file to a module.
func (c Compiler) tiltWithPage(ctx context.Context, m Module) (modfile string, err error) {
	module, err := m.Files(ctx, c.Paths, tilt)
	if err != nil {
		return "", err
	}
	copied := filepath.Join(c.Paths.Cache, "tilt")
	if err := os.RemoveAll(copied); err != nil {
		return "", err
	}
	if err := os.CopyFS(copied, os.DirFS(module)); err != nil {
		return "", err
	}
	ours := filepath.Join(c.Paths.Root, "tools", m.name)
	for to, from := range map[string]string{
		"/pkg/assets/build/index.html": "tilt-page/index.html", ".mod": "go.mod", ".sum": "go.sum",
	} {
		content, err := os.ReadFile(filepath.Join(ours, from))
		if err != nil {
			return "", err
		}
		if err := os.WriteFile(copied+to, content, 0o644); err != nil {
			return "", err
		}
	}
	modfile = copied + ".mod"
	return modfile, process.Run(process.Command(ctx, "go", "mod", "edit", "-replace="+tilt+"="+copied, modfile))
}
