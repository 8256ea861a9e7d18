package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func (w *workspace) generateCommand() *cobra.Command {
	check := false
	command := &cobra.Command{
		Use:   "generate",
		Short: "Write the files that follow from services.yaml (make generate)",
		Long: `Writes the files that follow from services.yaml: k8s/teams, k8s/base/kustomization.yaml, the NodePort of development
and .github/CODEOWNERS. They are to be committed. Prints the ones that have changed.`,
		Args: arguments(0, 0),
		RunE: func(command *cobra.Command, _ []string) error {
			if check {
				return w.Services.Check(w.Root)
			}
			changed, err := w.Services.Generate(w.Root)
			for _, path := range changed {
				fmt.Fprintln(command.OutOrStdout(), path)
			}
			return err
		},
	}
	command.Flags().BoolVar(&check, "check", false, "only fail if a file is not as services.yaml has it")
	return command
}
