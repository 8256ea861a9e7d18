// workspace is the project's development tool: it creates a cluster with its tools and images, and deploys to it.
// Start it with workspace/run, which compiles it.
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

// workspace is shared by all commands.
type workspace struct {
	paths.Paths
	console *process.Console
	cwd     string // the user's working directory; commands run in the clone
}

// file returns the absolute path of a file given by the user.
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
	case err == nil: // even after an interrupt, for commands that run until interrupted
	case ctx.Err() != nil:
		os.Exit(130)
	case errors.Is(err, errSaid):
		os.Exit(1)
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
	// Use this clone's module versions, even if there is a go.work. Tilt starts this program without workspace/run.
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
	// apt and building images need programs for root, which are not on every user's PATH.
	if err := os.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin"); err != nil {
		return err
	}
	if err := os.Chdir(found.Root); err != nil {
		return err
	}
	root := &cobra.Command{
		Use:               "workspace/run",
		Short:             "Development tool: creates a cluster with its tools and images, and deploys to it",
		SilenceUsage:      true,
		SilenceErrors:     true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	root.SetFlagErrorFunc(func(command *cobra.Command, err error) error { return usageError{command, err} })
	root.AddGroup(&cobra.Group{ID: "people", Title: "Commands:"},
		&cobra.Group{ID: "files", Title: "Commands for the Tiltfile and the Makefile:"})
	root.AddCommand(w.commands()...)
	return root.ExecuteContext(ctx)
}

// commands returns all commands, those for people first.
func (w *workspace) commands() (all []*cobra.Command) {
	group := func(id string, commands ...*cobra.Command) {
		for _, command := range commands {
			command.GroupID = id
		}
		all = append(all, commands...)
	}
	group("people",
		w.deployCommand(), w.productionCommand(), w.testCommand(), w.runCommand(), w.doctorCommand(), w.describeCommand(),
		w.toolsCommand(), w.imagesCommand(), w.privilegedCommand(), w.releaseCommand(), w.makeKubeconfigCommand(),
		w.makeCertificatesCommand(), w.makeClientCertificateCommand(), w.rotatePasswordsCommand(),
		w.psqlCommand(), w.loadCommand(), w.renameCommand(), w.waitCommand(), w.updatesCommand(),
	)
	group("files",
		w.buildImageCommand(), w.pushImageCommand(), w.generateCommand(), w.makePasswordsCommand(), w.makeAuditCommand(),
		w.publishKeysCommand(), w.buttonCommand(), w.needCommand(), w.mindCommand(), w.reachesCommand(),
	)
	return all
}

// errSaid means that the output has said what is wrong.
var errSaid = errors.New("failed")

// usageError is an error in a command's flags, arguments or environment variables.
type usageError struct {
	command *cobra.Command
	error
}

// arguments requires between least and most arguments.
func arguments(least, most int) cobra.PositionalArgs {
	return func(command *cobra.Command, args []string) error {
		if err := cobra.RangeArgs(least, most)(command, args); err != nil {
			return usageError{command, err}
		}
		return nil
	}
}
