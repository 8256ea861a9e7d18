package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"example.com/invoices/workspace/tools"
)

func (w *workspace) toolsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "tools [minikube]",
		Short: "Make sure that tilt, ctlptl, kind and kubectl are there, and print their folder",
		Long: `Makes sure that tilt, ctlptl, kind and kubectl are there, and minikube where it is named, and prints the
folder to put in front of PATH:

  export PATH="$(workspace/run tools):$PATH"

One of a good version that is on PATH already is used: the folder has a link to it. What is missing is compiled,
once, as pinned in tools/cluster/go.mod and tools/minikube/go.mod.`,
		ValidArgs: []string{"minikube"},
		Args:      cobra.MatchAll(arguments(0, 1), onlyValid),
		RunE: func(command *cobra.Command, args []string) error {
			folder, err := tools.Ensure(command.Context(), w.console, w.Paths, args...)
			if err == nil {
				fmt.Println(folder)
			}
			return err
		},
	}
}

// onlyValid refuses arguments that are not of the command's ValidArgs.
func onlyValid(command *cobra.Command, args []string) error {
	if err := cobra.OnlyValidArgs(command, args); err != nil {
		return usageError{command, err}
	}
	return nil
}
