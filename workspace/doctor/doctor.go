// Package doctor checks whether a machine meets the requirements of the workspace.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"example.com/invoices/workspace/cluster"
	"example.com/invoices/workspace/paths"
	"example.com/invoices/workspace/process"
)

// Finding is the result of one check.
type Finding struct {
	Level Level
	Thing string // such as "Docker"
	Found string
	Do    string // how to fix it, as a command to paste if there is one
}

// Level says how bad a finding is.
type Level int

const (
	Fine Level = iota
	Note       // may not matter to everybody
	Bad        // deploying will fail
)

func (l Level) String() string { return [...]string{"ok", "note", "BAD"}[l] }

type look func(context.Context, machine) Finding

// machine is the machine to check.
type machine struct {
	paths.Paths
	cluster *cluster.Cluster
	engine  func() (engine, error) // cached
}

func newMachine(ctx context.Context, where paths.Paths, c *cluster.Cluster) machine {
	return machine{where, c, sync.OnceValues(func() (engine, error) { return info(ctx) })}
}

// quick are the checks that take almost no time: deploying starts with them.
var quick = []look{lookAtCredentials, lookAtEngine, lookAtMemory, lookAtDisk, lookAtInotify}

// thorough are the checks that need an image, or take longer.
var thorough = []look{lookAtKubernetesTools, lookAtContainers, lookAtNftables, lookAtEnvironment}

// Examine checks everything and writes the findings. It fails if deploying would fail.
func Examine(ctx context.Context, out io.Writer, where paths.Paths, c *cluster.Cluster) error {
	m := newMachine(ctx, where, c)
	bad := 0
	for _, look := range slices.Concat([]look{lookAtDocker}, quick, thorough) {
		f := look(ctx, m)
		if f.Thing == "" { // does not apply to this machine
			continue
		}
		if f.Level == Bad {
			bad++
		}
		fmt.Fprintf(out, "%-5s %-12s %s\n", f.Level, f.Thing, strings.ReplaceAll(f.Found, "\n", "\n                   "))
		if f.Do != "" {
			fmt.Fprintf(out, "      %-12s %s\n", "", strings.ReplaceAll(f.Do, "\n", "\n                   "))
		}
		if f.Level == Bad && f.Thing == "Docker" { // the other checks need it
			break
		}
	}
	if bad > 0 {
		return errors.New("deploying will fail: see above")
	}
	return nil
}

// Docker fails if Docker is not responding.
func Docker(ctx context.Context) error {
	if f := lookAtDocker(ctx, machine{}); f.Level == Bad {
		return fmt.Errorf("%s\n%s", f.Found, f.Do)
	}
	return nil
}

// Quick runs the quick checks. It prints notes, and fails if deploying would fail.
func Quick(ctx context.Context, console *process.Console, where paths.Paths, c *cluster.Cluster) error {
	return check(ctx, console, newMachine(ctx, where, c), quick)
}

// Try checks whether a cluster can run here, using the images.
func Try(ctx context.Context, console *process.Console, where paths.Paths, c *cluster.Cluster) error {
	return check(ctx, console, newMachine(ctx, where, c), []look{lookAtContainers, lookAtNftables})
}

func check(ctx context.Context, console *process.Console, m machine, looks []look) error {
	for _, look := range looks {
		switch f := look(ctx, m); f.Level {
		case Note:
			console.Say("note: %s: %s. %s", f.Thing, f.Found, f.Do)
		case Bad:
			return fmt.Errorf("%s: %s\n%s", f.Thing, f.Found, f.Do)
		}
	}
	return nil
}
