// Package debian installs Debian packages if run by root on Debian or a derivative; otherwise it tells the user what
// to install.
package debian

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"example.com/invoices/workspace/process"
)

// system is the machine on which packages are installed.
type system struct {
	root   bool
	policy string // the file that tells Debian not to start services
	lock   string // protects that file
}

func here() system {
	return system{root: os.Geteuid() == 0, policy: "/usr/sbin/policy-rc.d", lock: "/run/lock/workspace-packages.lock"}
}

// Need installs packages if a program is missing, without starting their services.
func Need(ctx context.Context, console *process.Console, program string, packages ...string) error {
	return here().need(ctx, console, program, packages)
}

// Install installs the missing packages, without starting their services.
func Install(ctx context.Context, console *process.Console, packages ...string) error {
	return here().install(ctx, console, packages)
}

func (s system) need(ctx context.Context, console *process.Console, program string, packages []string) error {
	if installed(program) {
		return nil
	}
	if !s.canInstall() {
		return fmt.Errorf("%s is missing: install it (on Debian: apt-get install %s) and try again",
			program, strings.Join(packages, " "))
	}
	return s.apt(ctx, console, packages)
}

func (s system) install(ctx context.Context, console *process.Console, packages []string) error {
	var missing []string
	for _, name := range packages {
		status, err := process.Output(process.Command(ctx, "dpkg-query", "--show", "--showformat=${Status}", name))
		if err != nil || !strings.HasSuffix(status, " installed") {
			missing = append(missing, name)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	if !s.canInstall() {
		return fmt.Errorf("missing Debian packages: sudo apt-get install %s", strings.Join(missing, " "))
	}
	return s.apt(ctx, console, missing)
}

// canInstall reports whether packages can be installed here.
func (s system) canInstall() bool {
	_, err := exec.LookPath("apt-get")
	return err == nil && s.root
}

// installed reports whether a program is installed. Debian does not put all of PostgreSQL's programs on PATH.
func installed(program string) bool {
	if _, err := exec.LookPath(program); err == nil {
		return true
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + program)
	return len(found) > 0
}

func (s system) apt(ctx context.Context, console *process.Console, packages []string) error {
	lock, err := console.Lock(ctx, s.lock)
	if err != nil {
		return err
	}
	defer lock.Close()
	if _, err := os.Stat(s.policy); err != nil {
		if err := os.WriteFile(s.policy, []byte("#!/bin/sh\nexit 101\n"), 0o755); err != nil {
			return err
		}
		defer os.Remove(s.policy)
	}
	return console.Step(ctx, "installing "+strings.Join(packages, " "), "apt",
		func(ctx context.Context, step *process.Step) error {
			apt := func(args ...string) error {
				command := process.Command(ctx, "apt-get", append([]string{"-o", "DPkg::Lock::Timeout=300"}, args...)...)
				command.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
				return step.Run(command)
			}
			install := append([]string{"install", "--yes", "--no-install-recommends"}, packages...)
			if apt(install...) == nil {
				return nil
			}
			// On a new machine the package lists are missing or outdated.
			if err := apt("update"); err != nil {
				return err
			}
			return apt(install...)
		})
}
