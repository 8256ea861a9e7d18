// Package doctor looks at whether a machine can do what the workspace asks of it.
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

// Finding is what a look at one thing has found.
type Finding struct {
	Level Level
	Thing string // such as "Docker"
	Found string
	Do    string // what mends it, in a line to paste where there is one
}

// Level says how bad a finding is.
type Level int

const (
	Fine Level = iota
	Note       // works, or what needs it is not needed by everybody
	Bad        // deploying cannot work
)

func (l Level) String() string { return [...]string{"ok", "note", "BAD"}[l] }

type look func(context.Context, machine) Finding

// machine is what is looked at.
type machine struct {
	paths.Paths
	cluster *cluster.Cluster
	engine  func() (engine, error) // Docker is asked once
}

func newMachine(ctx context.Context, where paths.Paths, c *cluster.Cluster) machine {
	return machine{where, c, sync.OnceValues(func() (engine, error) { return info(ctx) })}
}

// quick are the looks that cost next to nothing; deploying begins with them, once Docker answers.
var quick = []look{lookAtCredentials, lookAtEngine, lookAtMemory, lookAtDisk, lookAtInotify}

// thorough need an image, or time.
var thorough = []look{lookAtKubernetesTools, lookAtContainers, lookAtNftables, lookAtEnvironment}

// Examine looks at everything and writes what it found. It fails if deploying cannot work.
func Examine(ctx context.Context, out io.Writer, where paths.Paths, c *cluster.Cluster) error {
	m := newMachine(ctx, where, c)
	bad := 0
	for _, look := range slices.Concat([]look{lookAtDocker}, quick, thorough) {
		f := look(ctx, m)
		if f.Thing == "" { // nothing to look at, on this machine
			continue
		}
		if f.Level == Bad {
			bad++
		}
		fmt.Fprintf(out, "%-5s %-12s %s\n", f.Level, f.Thing, strings.ReplaceAll(f.Found, "\n", "\n                   "))
		if f.Do != "" {
			fmt.Fprintf(out, "      %-12s %s\n", "", strings.ReplaceAll(f.Do, "\n", "\n                   "))
		}
		if f.Level == Bad && f.Thing == "Docker" { // all else asks it
			break
		}
	}
	if bad > 0 {
		return errors.New("deploying cannot work: see above")
	}
	return nil
}

// Docker fails if Docker does not answer.
func Docker(ctx context.Context) error {
	if f := lookAtDocker(ctx, machine{}); f.Level == Bad {
		return fmt.Errorf("%s\n%s", f.Found, f.Do)
	}
	return nil
}

// Quick does the quick part. It says what is to be noted, and fails if deploying cannot work.
func Quick(ctx context.Context, console *process.Console, where paths.Paths, c *cluster.Cluster) error {
	return check(ctx, console, newMachine(ctx, where, c), quick)
}

// Try tries, with an image, whether a cluster could run here.
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
