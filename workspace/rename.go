package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"example.com/invoices/workspace/rename"
)

func (w *workspace) renameCommand() *cobra.Command {
	var names rename.Names
	command := &cobra.Command{
		Use:   "rename [--module PATH] [--product NAME] [--team OLD=NEW]...",
		Short: "Rename the Go module, the product or teams in all files",
		Long: `Renames the Go module, the product (its cluster, images, cache folder and registry path) or teams (their
namespaces, groups and databases) in every file that git tracks, runs the generator, and prints the files that have
changed. Review the result with git diff.

Existing clusters keep their names, so remove yours first: ./deploy.sh --destroy.`,
		Args: arguments(0, 0),
		RunE: func(command *cobra.Command, _ []string) error {
			if names.Module == "" && names.Product == "" && len(names.Teams) == 0 {
				return usageError{command, errors.New("nothing to rename: use --module, --product or --team")}
			}
			changed, err := rename.Rename(command.Context(), w.Root, names)
			for _, path := range changed {
				fmt.Fprintln(command.OutOrStdout(), path)
			}
			return err
		},
	}
	flags := command.Flags()
	flags.StringVar(&names.Module, "module", "", "the path of the Go module, such as github.com/acme/billing")
	flags.StringVar(&names.Product, "product", "", "the product's name")
	flags.StringToStringVar(&names.Teams, "team", nil, "a team's old and new name; separate several by commas")
	return command
}
