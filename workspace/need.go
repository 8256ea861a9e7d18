package main

import (
	"github.com/spf13/cobra"

	"example.com/invoices/workspace/debian"
)

func (w *workspace) needCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "need PROGRAM PACKAGE",
		Short: "Make sure that a program is there",
		Long: `Does nothing where PROGRAM is installed. Otherwise installs Debian's PACKAGE, where this is Debian (or its kin)
and root; elsewhere says what to install and fails. A service that the package brings is not started.`,
		Args: arguments(2, 2),
		RunE: func(command *cobra.Command, args []string) error {
			return debian.Need(command.Context(), w.console, args[0], args[1])
		},
	}
}
