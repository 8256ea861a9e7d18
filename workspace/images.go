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
		if product != "kind" && product != "minikube" {
			return nil, usageError{command, fmt.Errorf("product %q is invalid: must be kind or minikube", product)}
		}
		return images.Open(w.console, w.Paths, product)
	}
	command := &cobra.Command{
		Use:   "images [pull|source]",
		Short: "Fill the local image tags that a cluster is made from: pull the images, or build them",
		Long: `Fills the local image tags of workspace/images/images.txt.

  workspace/run images              pull what is missing, and build what cannot be pulled
  workspace/run images pull         pull all from the registries that the list names
  workspace/run images source       build all from Go modules and Debian packages
  workspace/run images export FILE  write them to one file, to be carried elsewhere
  workspace/run images load FILE    read such a file

Run again, it does what is left to do: nothing, in seconds, when every tag is filled. IMAGE_LIST names another list,
of a company's own registry say.`,
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
	command.PersistentFlags().StringVar(&product, "product", product, "what the cluster is made with, kind or minikube")
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
		file("export", "Write the images to a file", func(i *images.Images, command *cobra.Command, name string) error {
			return i.Export(command.Context(), name)
		}),
		file("load", "Read what export has written", func(i *images.Images, command *cobra.Command, name string) error {
			return i.Load(command.Context(), name)
		}),
	)
	return command
}
