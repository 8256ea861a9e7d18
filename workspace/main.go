// workspace does what developing needs beside Go itself: it makes a cluster, its tools and its images, and deploys
// to it. Start it with workspace/run, which compiles it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"example.com/invoices/workspace/paths"
	"example.com/invoices/workspace/process"
)

// workspace is what the commands have in common.
type workspace struct {
	paths.Paths
	console *process.Console
	cwd     string // where the user is; the commands work in the clone
}

// file is the absolute path of a file that the user has named.
func (w *workspace) file(name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(w.cwd, name)
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	err := run(ctx)
	var usage usageError
	switch {
	case err == nil: // also when it was interrupted, for what runs until then
	case ctx.Err() != nil:
		os.Exit(130)
	case errors.As(err, &usage):
		fmt.Fprintf(os.Stderr, "%v\n\n%s", err, usage.command.UsageString())
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	found, err := paths.Find()
	if err != nil {
		return err
	}
	cwd, err := os.Getwd()
	if err != nil {
		return err
	}
	// The versions are this clone's, whatever go.work is about: Tilt starts this program without workspace/run.
	if err := os.Setenv("GOWORK", "off"); err != nil {
		return err
	}
	w := &workspace{
		Paths:   found,
		console: &process.Console{Out: os.Stderr, Logs: found.Logs(), Every: 20 * time.Second},
		cwd:     cwd,
	}
	if list := os.Getenv("IMAGE_LIST"); list != "" {
		if err := os.Setenv("IMAGE_LIST", w.file(list)); err != nil {
			return err
		}
	}
	// Where Debian has programs for root, which are not on everybody's PATH: apt needs some, and so does building images.
	if err := os.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin"); err != nil {
		return err
	}
	if err := os.Chdir(found.Root); err != nil {
		return err
	}
	root := &cobra.Command{
		Use:               "workspace/run",
		Short:             "What developing needs beside Go itself: a cluster, its tools and images, and deploying to it",
		SilenceUsage:      true,
		SilenceErrors:     true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	root.SetFlagErrorFunc(func(command *cobra.Command, err error) error { return usageError{command, err} })
	root.AddGroup(&cobra.Group{ID: "people", Title: "What people type:"},
		&cobra.Group{ID: "files", Title: "What the Tiltfile and the Makefile call:"})
	root.AddCommand(w.commands()...)
	return root.ExecuteContext(ctx)
}

// commands are all of them, those first that people type.
func (w *workspace) commands() (all []*cobra.Command) {
	group := func(id string, commands ...*cobra.Command) {
		for _, command := range commands {
			command.GroupID = id
		}
		all = append(all, commands...)
	}
	group("people",
		w.deployCommand(), w.testCommand(), w.runCommand(), w.doctorCommand(), w.describeCommand(),
		w.toolsCommand(), w.imagesCommand(), w.privilegedCommand(), w.releaseCommand(), w.makeKubeconfigCommand(),
	)
	group("files",
		w.buildImageCommand(), w.pushImageCommand(), w.makePasswordsCommand(),
		w.publishKeysCommand(), w.buttonCommand(), w.needCommand(), w.mindCommand(), w.reachesCommand(),
	)
	return all
}

// usageError is a call that the command does not understand.
type usageError struct {
	command *cobra.Command
	error
}

// arguments are a command's: between least and most of them.
func arguments(least, most int) cobra.PositionalArgs {
	return func(command *cobra.Command, args []string) error {
		if err := cobra.RangeArgs(least, most)(command, args); err != nil {
			return usageError{command, err}
		}
		return nil
	}
}
