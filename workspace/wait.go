package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/spf13/cobra"

	"example.com/invoices/workspace/cluster"
)

func (w *workspace) waitCommand() *cobra.Command {
	return w.goLiveCommand("wait [--json] [--timeout DURATION]", "Wait until tilt up has made the last save live",
		`Waits until every replica runs what is on disk and its tests have run. Fails if there is an error, and prints the
first one, with its file and line.

  --json               print the result, with the durations of all stages, as JSON
  --timeout DURATION   how long to wait (default 5m)`)
}

func (w *workspace) updatesCommand() *cobra.Command {
	return w.goLiveCommand("updates [--picture FILE]", "Show how long the last 100 updates under tilt up took",
		`Shows the median and the 95th percentile of each stage of the last 100 updates, from a save to the last replica.

  --picture FILE   also draw them into this SVG file`)
}

// goLiveCommand returns a command of the program that go_live compiles when `tilt up` starts.
func (w *workspace) goLiveCommand(use, short, long string) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Long: long, DisableFlagParsing: true,
		RunE: func(command *cobra.Command, args []string) error {
			for _, argument := range args {
				if argument == "-h" || argument == "--help" {
					return command.Help()
				}
			}
			c, err := cluster.New(w.Paths, *productFlag(command.Flags()), w.clusterName())
			if err != nil {
				return err
			}
			program := filepath.Join(w.Root, "go_live/.build/build")
			goLive := exec.CommandContext(command.Context(), program,
				append([]string{command.Name(), "--project", w.Root, "--context", c.Context}, args...)...)
			goLive.Dir = w.cwd
			goLive.Stdout, goLive.Stderr = os.Stdout, os.Stderr
			err = goLive.Run()
			var failed *exec.ExitError
			switch {
			case errors.Is(err, fs.ErrNotExist):
				return fmt.Errorf("nothing watches the code: start `tilt up --context %s`", c.Context)
			case errors.As(err, &failed):
				return errSaid
			}
			return err
		},
	}
}
