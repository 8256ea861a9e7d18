package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func (w *workspace) generateCommand() *cobra.Command {
	check := false
	command := &cobra.Command{
		Use:   "generate",
		Short: "Generate files from services.yaml (make generate)",
		Long: `Generates k8s/teams, k8s/base/kustomization.yaml, development's NodePort and .github/CODEOWNERS from
services.yaml, and prints the files that have changed. Commit them.`,
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
	command.Flags().BoolVar(&check, "check", false, "change nothing, and fail if a file is out of date")
	return command
}
