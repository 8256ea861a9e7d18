package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"example.com/invoices/workspace/button"
	"example.com/invoices/workspace/kubectl"
)

func (w *workspace) buttonCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "button ACTION CONTEXT URL",
		Short: "Run the action of a button in tilt up",
		Long: `Runs one of these actions in the cluster of the kubectl context CONTEXT, whose invoice-app listens at URL:

  pay-all       pay every unpaid invoice
  add-invoices  add 1,000 unpaid invoices
  reset-data    empty every database
  kill-pod      delete a pod of invoice-app`,
		Args: arguments(3, 3),
		RunE: func(command *cobra.Command, args []string) error {
			board := button.Board{
				Cluster: kubectl.Context(args[1]), Services: w.Services, URL: args[2],
				Out: command.OutOrStdout(), Answers: command.ErrOrStderr(),
			}
			found, err := board.Press(command.Context(), args[0])
			if !found {
				return usageError{command, fmt.Errorf("there is no button %s", args[0])}
			}
			return err
		},
	}
}
