package main

import (
	"context"

	"github.com/spf13/cobra"

	"example.com/invoices/workspace/paths"
	"example.com/invoices/workspace/privileged"
	"example.com/invoices/workspace/process"
)

func (w *workspace) privilegedCommand() *cobra.Command {
	do := map[string]func(context.Context, *process.Console, paths.Paths) error{
		"status": privileged.Status, "install": privileged.Install, "remove": privileged.Remove,
	}
	return &cobra.Command{
		Use:   "privileged status|install|remove",
		Short: "Let a Docker that refuses privileged containers start them",
		Long: `Some machines (nested sandboxes) run Docker without CAP_SYS_RESOURCE. There every "docker run --privileged"
fails with "unable to apply caps: operation not permitted", and a kind node is a privileged container.

  status    says whether this machine is one of them
  install   where it is, and only there: puts a program in front of Docker's runc that asks for that one capability
            less (tools/cluster/oci-runtime)
  remove    takes it away again

Docker takes up the change by a reload: it is not restarted, and no container is touched. Nothing is granted by it:
less is asked for.`,
		ValidArgs: []string{"status", "install", "remove"},
		Args:      cobra.MatchAll(arguments(1, 1), onlyValid),
		RunE: func(command *cobra.Command, args []string) error {
			return do[args[0]](command.Context(), w.console, w.Paths)
		},
	}
}
