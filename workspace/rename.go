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
		Short: "Give the Go module, the product or a team another name, in all files",
		Long: `Gives the Go module, the product (the cluster, its images, the folder of the cache, the registry's path) or teams
(their namespaces, groups and databases) another name, in every file that git knows, and generates what follows from
services.yaml. Prints the files that have changed: git diff shows how.

A cluster keeps the names that it was made with, so remove it first: ./deploy.sh --destroy.`,
		Args: arguments(0, 0),
		RunE: func(command *cobra.Command, _ []string) error {
			if names.Module == "" && names.Product == "" && len(names.Teams) == 0 {
				return usageError{command, errors.New("there is nothing to rename: --module, --product or --team")}
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
	flags.StringToStringVar(&names.Teams, "team", nil, "a team's old and new name; several, separated by commas")
	return command
}
