package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"example.com/invoices/workspace/tools"
)

func (w *workspace) toolsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "tools [minikube]",
		Short: "Provide tilt, ctlptl, kind and kubectl, and print their folder",
		Long: `Provides tilt, ctlptl, kind and kubectl, and minikube if given as an argument, and prints the folder to
prepend to PATH:

  export PATH="$(workspace/run tools):$PATH"

If PATH already has a recent enough version of a tool, the folder gets a link to it. Otherwise the version pinned in
tools/cluster/go.mod or tools/minikube/go.mod is compiled.`,
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

// onlyValid rejects arguments that are not in the command's ValidArgs.
func onlyValid(command *cobra.Command, args []string) error {
	if err := cobra.OnlyValidArgs(command, args); err != nil {
		return usageError{command, err}
	}
	return nil
}
