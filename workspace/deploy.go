package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"example.com/invoices/workspace/cluster"
	"example.com/invoices/workspace/deploy"
	"example.com/invoices/workspace/images"
	"example.com/invoices/workspace/privileged"
	"example.com/invoices/workspace/tools"
)

// productFlag adds the flag that chooses a product.
func productFlag(flags *pflag.FlagSet) *string {
	product := flags.String("product", cmp.Or(os.Getenv("CLUSTER_PRODUCT"), "kind"),
		"create the cluster with kind or minikube")
	flags.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if name == "cluster" { // the flag's old name
			name = "product"
		}
		return pflag.NormalizedName(name)
	})
	return product
}

// clusterName returns the cluster's name, from CLUSTER_NAME.
func (w *workspace) clusterName() string {
	return cmp.Or(os.Getenv("CLUSTER_NAME"), w.Services.Product)
}

// askedPorts returns the ports of c set in the environment.
func askedPorts(command *cobra.Command, c *cluster.Cluster) (ports cluster.Ports, err error) {
	if ports.InvoiceApp, err = portOf(command, c.PortVariable); err == nil {
		ports.Registry, err = portOf(command, "REGISTRY_PORT")
	}
	return ports, err
}

func portOf(command *cobra.Command, variable string) (int, error) {
	value := os.Getenv(variable)
	if value == "" {
		return 0, nil
	}
	port, err := strconv.ParseUint(value, 10, 16)
	if err != nil || port == 0 {
		return 0, usageError{command, fmt.Errorf("%s=%s is invalid: must be a port number from 1 to 65535", variable, value)}
	}
	return int(port), nil
}

func (w *workspace) deployCommand() *cobra.Command {
	command := &cobra.Command{
		Use:   "deploy",
		Short: "Set up a real Kubernetes cluster and deploy the services to it (./deploy.sh)",
		Long: `Sets up a real Kubernetes cluster in this machine's Docker and deploys the services and their databases to it,
using the Tiltfile. Further runs deploy only what has changed. Each team gets a kubeconfig with its own permissions,
in .build/kubeconfig/CLUSTER.

To create a second cluster, choose another product or name. Ports need to be set only when a cluster is created:

  CLUSTER_PRODUCT   (kind)         the same as --product
  CLUSTER_NAME      ` + fmt.Sprintf("%-14s", "("+w.Services.Product+")") +
			` the kubectl context is kind-$CLUSTER_NAME or minikube-$CLUSTER_NAME
  INVOICE_APP_PORT  (8081)         the port of invoice-app on localhost
  REGISTRY_PORT     (5005)         the port of the registry for this cluster's images

Only the context of this cluster is used, and your current context is preserved.`,
		Args: arguments(0, 0),
	}
	flags := command.Flags()
	force := flags.BoolP("force", "f", false, "start from scratch: destroy the cluster first, with its data")
	destroy := flags.BoolP("destroy", "d", false, "remove the cluster with all its data")
	stop := flags.BoolP("stop", "s", false, "stop the cluster and keep its data")
	how := flags.String("images", "", "pull: only pull images, never build them; source: only build them, never pull")
	product := productFlag(flags)
	command.RunE = func(command *cobra.Command, _ []string) error {
		if *force && *destroy || *force && *stop || *destroy && *stop {
			return usageError{command, errors.New("--force, --destroy and --stop are mutually exclusive")}
		}
		c, err := cluster.New(w.Paths, *product, w.clusterName())
		if err != nil {
			return usageError{command, err}
		}
		d, err := w.deployment(command, c, *how)
		if err != nil {
			return err
		}
		// The Tiltfile looks up the cluster by these.
		_ = os.Setenv("CLUSTER_NAME", w.clusterName())
		_ = os.Setenv("CLUSTER_PRODUCT", *product)
		switch ctx := command.Context(); {
		case *stop:
			return d.Stop(ctx)
		case *destroy:
			return d.Destroy(ctx)
		default:
			return d.Deploy(ctx, *force)
		}
	}
	return command
}

// deployment returns the deployment to a cluster that a command requests. how is the value of its flag --images.
func (w *workspace) deployment(command *cobra.Command, c *cluster.Cluster, how string) (*deploy.Deployment, error) {
	if how != "" && how != "pull" && how != "source" {
		return nil, usageError{command, errors.New("--images is invalid: must be pull or source")}
	}
	ports, err := askedPorts(command, c)
	if err != nil {
		return nil, err
	}
	w.console.Logs = c.Logs()
	if err := w.setTools(); err != nil {
		return nil, err
	}
	return &deploy.Deployment{
		Paths: w.Paths, Cluster: c, Console: w.console, Ports: ports, Out: os.Stdout,
		Prepare: func(ctx context.Context) error { return w.prepare(ctx, c, how) },
	}, nil
}

// setTools prepends the folder of the tools to PATH.
func (w *workspace) setTools() error {
	return os.Setenv("PATH", w.Bin()+string(os.PathListSeparator)+os.Getenv("PATH"))
}

// prepare provides the tools and images that a cluster needs.
func (w *workspace) prepare(ctx context.Context, c *cluster.Cluster, how string) error {
	if _, err := tools.Ensure(ctx, w.console, w.Paths, c.Tools()...); err != nil {
		return err
	}
	if err := images.Ensure(ctx, w.console, w.Paths, c.Product, how); err != nil {
		return err
	}
	return privileged.Install(ctx, w.console, w.Paths)
}
