package main

import (
	"cmp"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"example.com/invoices/workspace/images"
)

func (w *workspace) imagesCommand() *cobra.Command {
	product := cmp.Or(os.Getenv("CLUSTER_PRODUCT"), "kind")
	open := func(command *cobra.Command) (*images.Images, error) {
		if product != "kind" && product != "minikube" && product != "production" {
			return nil, usageError{command, fmt.Errorf("product %q is invalid: must be kind, minikube or production", product)}
		}
		return images.Open(w.console, w.Paths, product)
	}
	command := &cobra.Command{
		Use:   "images [pull|source]",
		Short: "Provide the local images that a cluster is made from, by pulling or building them",
		Long: `Provides the local images listed in workspace/images/images.txt.

  workspace/run images              pull missing images, and build those that cannot be pulled
  workspace/run images pull         pull all images from the listed registries
  workspace/run images source       build all images from Go modules and Debian packages
  workspace/run images export FILE  export the images to one file, for another machine
  workspace/run images load FILE    load images from such a file

Further runs continue where the last one stopped. If all images are up to date, they take only seconds. IMAGE_LIST
selects another list, such as one for a company's own registry.`,
		ValidArgs: []string{"pull", "source"},
		Args:      cobra.MatchAll(arguments(0, 1), onlyValid),
		RunE: func(command *cobra.Command, args []string) error {
			images, err := open(command)
			if err != nil {
				return err
			}
			return images.Fill(command.Context(), append(args, "")[0])
		},
	}
	command.PersistentFlags().StringVar(&product, "product", product,
		"product of the cluster: kind, minikube or production")
	file := func(name, short string, do func(*images.Images, *cobra.Command, string) error) *cobra.Command {
		return &cobra.Command{
			Use:   name + " FILE",
			Short: short,
			Args:  arguments(1, 1),
			RunE: func(command *cobra.Command, args []string) error {
				images, err := open(command)
				if err != nil {
					return err
				}
				return do(images, command, w.file(args[0]))
			},
		}
	}
	command.AddCommand(
		file("export", "Export the images to a file", func(i *images.Images, command *cobra.Command, name string) error {
			return i.Export(command.Context(), name)
		}),
		file("load", "Load images from an exported file", func(i *images.Images, command *cobra.Command, name string) error {
			return i.Load(command.Context(), name)
		}),
	)
	return command
}
