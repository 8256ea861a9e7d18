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
		Short: "Work around a Docker that cannot start privileged containers",
		Long: `Some machines (nested sandboxes) run Docker without CAP_SYS_RESOURCE. On these every "docker run --privileged"
fails with "unable to apply caps: operation not permitted", and a kind node is a privileged container.

  status    reports whether this machine is affected
  install   if it is, installs a wrapper for Docker's runc that does not request that capability
            (tools/cluster/oci-runtime)
  remove    uninstalls the wrapper

Docker applies the change on reload, so neither Docker nor any container is restarted. Containers get no additional
privileges: one capability less is requested.`,
		ValidArgs: []string{"status", "install", "remove"},
		Args:      cobra.MatchAll(arguments(1, 1), onlyValid),
		RunE: func(command *cobra.Command, args []string) error {
			return do[args[0]](command.Context(), w.console, w.Paths)
		},
	}
}
