package main

import (
	"os"

	"github.com/spf13/cobra"

	"example.com/invoices/workspace/cluster"
	"example.com/invoices/workspace/doctor"
)

func (w *workspace) doctorCommand() *cobra.Command {
	command := &cobra.Command{
		Use:   "doctor",
		Short: "Check whether this machine meets all requirements, and suggest fixes if it does not",
		Args:  arguments(0, 0),
	}
	product := productFlag(command.Flags())
	command.RunE = func(command *cobra.Command, _ []string) error {
		c, err := cluster.New(w.Paths, *product, w.clusterName())
		if err != nil {
			return usageError{command, err}
		}
		if err := w.setTools(); err != nil {
			return err
		}
		return doctor.Examine(command.Context(), os.Stdout, w.Paths, c)
	}
	return command
}
