// Package privileged works around a Docker that lacks CAP_SYS_RESOURCE (in nested sandboxes). On such machines every
// "docker run --privileged" fails with "unable to apply caps: operation not permitted", and a kind node is a
// privileged container.
//
// The workaround is a wrapper for Docker's runc that does not request that capability: tools/cluster/oci-runtime.
// Docker applies the change on reload, so neither Docker nor any container is restarted. Containers get no additional
// privileges: one capability less is requested.
package privileged

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"example.com/invoices/workspace/compile"
	"example.com/invoices/workspace/docker"
	"example.com/invoices/workspace/paths"
	"example.com/invoices/workspace/process"
	"example.com/invoices/workspace/root"
)

// engine is this machine's Docker.
type engine struct {
	console *process.Console
	paths   paths.Paths
	// The program is outside the clone and the cache: without its default runtime Docker cannot start any container.
	program string
	config  string
	pid     string
}

func here(console *process.Console, p paths.Paths) engine {
	d := engine{console: console, paths: p, config: "/etc/docker/daemon.json", pid: "/var/run/docker.pid"}
	d.program = "/usr/local/libexec/" + d.runtimeName()
	return d
}

// runtimeName returns the runtime's name in Docker.
func (d engine) runtimeName() string { return d.paths.Services.Product + "-oci-runtime" }

// Status reports whether this machine needs the workaround, and whether it is installed.
func Status(ctx context.Context, console *process.Console, p paths.Paths) error {
	return here(console, p).status(ctx)
}

// Install installs the workaround if this machine needs it.
func Install(ctx context.Context, console *process.Console, p paths.Paths) error {
	return here(console, p).install(ctx)
}

// Remove uninstalls the workaround.
func Remove(ctx context.Context, console *process.Console, p paths.Paths) error {
	return here(console, p).remove(ctx)
}

func (d engine) status(ctx context.Context) error {
	runtime, err := defaultRuntime(ctx)
	if err != nil {
		return err
	}
	needed, err := d.needed(ctx)
	if err != nil {
		return err
	}
	switch installed := d.installed(runtime); {
	case installed && needed:
		d.console.Say("installed: %s is Docker's default runtime, and this machine needs it "+
			"(undo: workspace/run privileged remove)", d.program)
	case installed:
		d.console.Say("installed, but not needed: privileged containers work without it (workspace/run privileged remove)")
	case needed:
		d.console.Say("needed: privileged containers fail on this machine (workspace/run privileged install)")
	default:
		d.console.Say("not needed: privileged containers work")
	}
	return nil
}

func (d engine) install(ctx context.Context) error {
	runtime, err := defaultRuntime(ctx)
	if err != nil || d.installed(runtime) {
		return err
	}
	// If it is the default runtime but its file is gone, restore the file, whether or not it is needed.
	if runtime != d.runtimeName() {
		if needed, err := d.needed(ctx); err != nil || !needed {
			return err
		}
		if runtime != "runc" {
			return fmt.Errorf("the default runtime of Docker is %s: the workaround supports only runc", runtime)
		}
	}
	if err := root.Require(ctx, "changing Docker's configuration", "privileged", "install"); err != nil {
		return err
	}
	if err := d.compile(ctx); err != nil {
		return err
	}
	settings, err := d.read()
	if err != nil {
		return err
	}
	runtimes := object{}
	if err := settings.get("runtimes", &runtimes); err != nil {
		return err
	}
	runtimes.set(d.runtimeName(), map[string]string{"path": d.program})
	settings.set("runtimes", runtimes)
	settings.set("default-runtime", d.runtimeName())
	if err := d.reload(ctx, settings, d.runtimeName()); err != nil {
		return err
	}
	d.console.Say(`This machine's Docker lacks CAP_SYS_RESOURCE and could not start privileged containers. Changes made:
  %s   new: runs runc without requesting that capability
  %s   "runtimes" and "default-runtime" refer to it; Docker was reloaded, not restarted
To undo both: workspace/run privileged remove`, d.program, d.config)
	return nil
}

// compile compiles the wrapper for the machine that Docker runs on, and installs it.
func (d engine) compile(ctx context.Context) error {
	arch, err := docker.Version(ctx, "{{.Server.Arch}}")
	if err != nil {
		return err
	}
	compiler := compile.Compiler{Console: d.console, Paths: d.paths, OS: "linux", Arch: arch}
	folder := filepath.Join(d.paths.Cache, "node")
	if err := compiler.Programs(ctx, compile.Cluster, folder, "oci-runtime"); err != nil {
		return err
	}
	content, err := os.ReadFile(filepath.Join(folder, "oci-runtime"))
	if err != nil {
		return err
	}
	return replace(d.program, content, 0o755)
}

func (d engine) remove(ctx context.Context) error {
	runtime, err := defaultRuntime(ctx)
	if err != nil {
		return err
	}
	if _, err := os.Stat(d.program); err != nil && runtime != d.runtimeName() {
		return nil
	}
	if err := root.Require(ctx, "changing Docker's configuration", "privileged", "remove"); err != nil {
		return err
	}
	if err := d.unused(ctx); err != nil {
		return err
	}
	settings, err := d.read()
	if err != nil {
		return err
	}
	runtimes := object{}
	if err := settings.get("runtimes", &runtimes); err != nil {
		return err
	}
	delete(runtimes, d.runtimeName())
	settings.set("runtimes", runtimes)
	if len(runtimes) == 0 {
		delete(settings, "runtimes")
	}
	// Docker keeps its current default when it reloads a file that does not set one.
	settings.set("default-runtime", "runc")
	if err := d.reload(ctx, settings, "runc"); err != nil {
		return err
	}
	delete(settings, "default-runtime")
	if err := d.write(settings); err != nil {
		return err
	}
	if err := os.RemoveAll(d.program); err != nil {
		return err
	}
	d.console.Say("removed %s and its settings in %s", d.program, d.config)
	return nil
}

// installed reports whether the workaround is installed, given Docker's default runtime.
func (d engine) installed(runtime string) bool {
	info, err := os.Stat(d.program)
	return runtime == d.runtimeName() && err == nil && info.Mode().Perm()&0o111 != 0
}

func defaultRuntime(ctx context.Context) (string, error) {
	runtime, err := process.Output(process.Command(ctx, "docker", "info", "--format", "{{.DefaultRuntime}}"))
	if err != nil {
		return "", fmt.Errorf("no response from Docker: %w", err)
	}
	return runtime, nil
}

// needed starts a privileged container with Docker's own runtime, to see whether that fails. The container runs as
// root because other users get no capabilities.
func (d engine) needed(ctx context.Context) (bool, error) {
	// Any image will do: capabilities are set before it is used. A cluster has one of these.
	image := d.paths.Image("postgres")
	err := process.Run(process.Command(ctx, "docker", "image", "inspect", image))
	if err != nil {
		image = d.paths.Image("postgres-replicated")
		err = process.Run(process.Command(ctx, "docker", "image", "inspect", image))
	}
	if err != nil {
		return false, errors.Join(errors.New("no image to check this with: run workspace/run images first"), err)
	}
	err = process.Run(process.Command(ctx, "docker", "run", "--rm", "--pull", "never", "--runtime", "runc",
		"--privileged", "--user", "0", "--network", "none", "--entrypoint", "/bin/true", image))
	switch {
	case err == nil:
		return false, nil
	case strings.Contains(err.Error(), "unable to apply caps"):
		return true, nil
	}
	return false, fmt.Errorf("a privileged container failed for an unknown reason: %w", err)
}

// unused fails if containers use the runtime: they refer to it by name and could not be started again without it.
func (d engine) unused(ctx context.Context) error {
	list, err := process.Output(process.Command(ctx, "docker", "ps", "--all", "--quiet"))
	if err != nil || list == "" {
		return err
	}
	inspect := append([]string{"inspect", "--format", "{{.HostConfig.Runtime}}"}, strings.Fields(list)...)
	runtimes, err := process.Output(process.Command(ctx, "docker", inspect...))
	if err != nil {
		return err
	}
	if slices.Contains(strings.Fields(runtimes), d.runtimeName()) {
		return errors.New("some containers use the workaround: remove them first (./deploy.sh --destroy)")
	}
	return nil
}

// reload writes Docker's configuration, and waits until Docker has applied it and uses the given default runtime.
func (d engine) reload(ctx context.Context, settings object, runtime string) error {
	content, err := os.ReadFile(d.pid)
	if err != nil {
		return fmt.Errorf("cannot reload Docker without its pid file, maybe it runs on another machine: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(content)))
	if err != nil || pid <= 1 {
		return fmt.Errorf("%s: %q is not a process ID", d.pid, content)
	}
	if err := d.write(settings); err != nil {
		return err
	}
	if err := syscall.Kill(pid, syscall.SIGHUP); err != nil {
		return fmt.Errorf("signaling Docker (process %d) to reload: %w", pid, err)
	}
	return d.console.Step(ctx, "waiting for Docker to reload "+d.config, "docker-reload",
		func(ctx context.Context, _ *process.Step) error {
			ctx, stop := context.WithTimeoutCause(ctx, time.Minute, errors.New("timed out"))
			defer stop()
			for {
				if now, err := defaultRuntime(ctx); err == nil && now == runtime {
					return nil
				}
				select {
				case <-ctx.Done():
					return context.Cause(ctx)
				case <-time.After(200 * time.Millisecond):
				}
			}
		})
}

// object is a JSON object that preserves fields it does not change.
type object map[string]json.RawMessage

func (o object) get(name string, into any) error {
	if o[name] == nil {
		return nil
	}
	return json.Unmarshal(o[name], into)
}

func (o object) set(name string, value any) {
	o[name], _ = json.Marshal(value) // cannot fail for strings and objects
}

// read reads Docker's configuration. The file need not exist.
func (d engine) read() (object, error) {
	content, err := os.ReadFile(d.config)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	settings := object{}
	if len(bytes.TrimSpace(content)) == 0 {
		return settings, nil
	}
	if err := json.Unmarshal(content, &settings); err != nil {
		return nil, fmt.Errorf("%s: %w", d.config, err)
	}
	return settings, nil
}

func (d engine) write(settings object) error {
	content, err := json.MarshalIndent(settings, "", "  ")
	if err != nil {
		return err
	}
	mode := os.FileMode(0o644)
	if info, err := os.Stat(d.config); err == nil {
		mode = info.Mode().Perm()
	}
	return replace(d.config, append(content, '\n'), mode)
}

// replace replaces a file atomically: Docker never sees a part of it.
func replace(path string, content []byte, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", content, mode); err != nil {
		return err
	}
	if err := os.Chmod(path+".new", mode); err != nil { // regardless of the umask
		return err
	}
	return os.Rename(path+".new", path)
}
