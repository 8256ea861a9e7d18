package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"example.com/invoices/workspace/button"
	"example.com/invoices/workspace/cluster"
	"example.com/invoices/workspace/kubectl"
)

func (w *workspace) buttonCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "button ACTION CONTEXT URL [SERVICE]",
		Short: "Run the action of a button in tilt up",
		Long: `Runs one of these actions in the cluster of the kubectl context CONTEXT, whose invoice-app listens at URL.
It must be the kind or minikube cluster of CLUSTER_NAME (default: ` + w.Services.Product + `).

  pay-all         pay every unpaid invoice
  add-invoices    add 1,000 unpaid invoices
  reset-data      empty every database
  rebuild-schema  delete the tables of SERVICE, whose pods restart and migrate anew; the data of its callers, too
  kill-pod        delete a pod of invoice-app`,
		Example: "  workspace/run button rebuild-schema kind-" + w.Services.Product +
			" http://localhost:8081 invoice-app",
		Args: arguments(3, 4),
		RunE: func(command *cobra.Command, args []string) error {
			c, err := cluster.OfContext(w.Paths, args[1], w.clusterName())
			if err != nil {
				return err
			}
			board := button.Board{
				Cluster: kubectl.Context(c.Context), Services: w.Services, URL: args[2],
				Out: command.OutOrStdout(), Answers: command.ErrOrStderr(),
			}
			found, err := board.Press(command.Context(), args[0], args[3:]...)
			if !found {
				return usageError{command, fmt.Errorf("there is no button %s", args[0])}
			}
			return err
		},
	}
}
