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
		Short: "Rename the Go module, the product or a team in all files",
		Long: `Renames the Go module, the product (the cluster, its images, the cache folder, the registry's path) or teams
(their namespaces, groups and databases) in every file that git does not ignore, and runs generate. Prints the files
that have changed; git diff shows the changes.

A cluster keeps the names that it was created with, so remove it first: ./deploy.sh --destroy.`,
		Args: arguments(0, 0),
		RunE: func(command *cobra.Command, _ []string) error {
			if names.Module == "" && names.Product == "" && len(names.Teams) == 0 {
				return usageError{command, errors.New("nothing to rename: set --module, --product or --team")}
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
	flags.StringToStringVar(&names.Teams, "team", nil, "a team's old and new name; can be repeated or separated by commas")
	return command
}
