package main

import (
	"github.com/spf13/cobra"

	"example.com/invoices/workspace/debian"
)

func (w *workspace) needCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "need PROGRAM PACKAGE",
		Short: "Install a program if it is missing",
		Long: `Does nothing if PROGRAM is installed. Otherwise installs the Debian package PACKAGE, without starting its
services, if run by root on Debian or a derivative. On other machines it prints what to install and fails.`,
		Args: arguments(2, 2),
		RunE: func(command *cobra.Command, args []string) error {
			return debian.Need(command.Context(), w.console, args[0], args[1])
		},
	}
}
