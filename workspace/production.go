package main

import (
	"cmp"
	"errors"
	"os"

	"github.com/spf13/cobra"

	"example.com/invoices/workspace/cluster"
)

func (w *workspace) productionCommand() *cobra.Command {
	command := &cobra.Command{
		Use:   "production",
		Short: "Rehearse production on this machine, on a cluster with two workers",
		Long: `Creates a cluster with a control plane and two workers in this machine's Docker, and deploys
k8s/overlays/rehearsal to it: production, with replicated databases, in the form in which a real platform gets it.
Further runs deploy only what has changed. docs/production.md describes what it is made of.

Ports need to be set only when the cluster is created:

  CLUSTER_NAME    (` + cluster.ProductionName(w.Paths) + `)  the kubectl context is kind-$CLUSTER_NAME
  ENTRY_PORT      (8443)  the port of the entry on localhost
  REGISTRY_PORT   (5006)  the port of the registry for this cluster's images

Only the context of this cluster is used, and your current context is preserved.`,
		Args: arguments(0, 0),
	}
	flags := command.Flags()
	force := flags.BoolP("force", "f", false, "start from scratch: destroy the cluster first, with its data")
	destroy := flags.BoolP("destroy", "d", false, "remove the cluster with all its data")
	how := flags.String("images", "", "pull: only pull images, never build them; source: only build them, never pull")
	command.RunE = func(command *cobra.Command, _ []string) error {
		if *force && *destroy {
			return usageError{command, errors.New("--force and --destroy are mutually exclusive")}
		}
		c, err := w.productionCluster()
		if err != nil {
			return usageError{command, err}
		}
		d, err := w.deployment(command, c, *how)
		if err != nil {
			return err
		}
		if *destroy {
			return d.Destroy(command.Context())
		}
		return d.Production(command.Context(), *force)
	}
	return command
}

// productionCluster defines the cluster on which production is rehearsed.
func (w *workspace) productionCluster() (*cluster.Cluster, error) {
	return cluster.NewProduction(w.Paths, cmp.Or(os.Getenv("CLUSTER_NAME"), cluster.ProductionName(w.Paths)))
}
