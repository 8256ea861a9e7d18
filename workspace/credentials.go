package main

import (
	"cmp"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"example.com/invoices/workspace/credentials"
	"example.com/invoices/workspace/kubectl"
)

func (w *workspace) makeKubeconfigCommand() *cobra.Command {
	lifetime := ""
	command := &cobra.Command{
		Use:   "make-kubeconfig CONTEXT FILE USER [GROUP [NAMESPACE]]",
		Short: "Give somebody a kubeconfig with a client certificate",
		Long: `Writes FILE, with which kubectl is USER of GROUP in the cluster that kubectl knows as CONTEXT, and works in
NAMESPACE (default: default) unless told otherwise. The roles in k8s/team and k8s/platform say what USER may do. One
that is still good for a day stays as it is; one that is older, or of another cluster or user, is replaced.

The key is made here, is in no other file, and is never printed.`,
		Args: arguments(3, 5),
		RunE: func(command *cobra.Command, args []string) error {
			seconds, err := strconv.ParseInt(lifetime, 10, 32)
			if err != nil || seconds <= 0 {
				return usageError{command, fmt.Errorf("the lifetime is %q: it is a number of seconds", lifetime)}
			}
			args = append(args, "", "")
			return credentials.Kubeconfig(command.Context(), command.OutOrStdout(), kubectl.Context(args[0]), w.file(args[1]),
				credentials.Person{
					User: args[2], Group: args[3], Namespace: cmp.Or(args[4], "default"),
					Lifetime: time.Duration(seconds) * time.Second,
				})
		},
	}
	command.Flags().StringVar(&lifetime, "lifetime", cmp.Or(os.Getenv("LIFETIME"), "604800"),
		"LIFETIME, the seconds that the certificate is good for; a cluster cannot take one back, so this is how long a "+
			"stolen one can be used")
	return command
}

func (w *workspace) makePasswordsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "make-passwords CONTEXT [NAMESPACE]...",
		Short: "Give each database's two roles a random password, once",
		Long: `Makes the Secrets postgres-owner and postgres-application in each NAMESPACE of the cluster that kubectl knows
as CONTEXT. What is there already stays as it is. Each holds a PostgreSQL passfile. A password is never printed,
never on a command line and never in a file of this machine.`,
		Args: arguments(1, 99),
		RunE: func(command *cobra.Command, args []string) error {
			return credentials.Passwords(command.Context(), command.OutOrStdout(), kubectl.Context(args[0]),
				w.Services.Product, args[1:])
		},
	}
}

func (w *workspace) publishKeysCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "publish-keys CONTEXT",
		Short: "Publish the keys with which services verify their callers",
		Long: `Copies the public keys with which the cluster that kubectl knows as CONTEXT signs ServiceAccount tokens
(/openid/v1/jwks) to the ConfigMap caller-keys in the namespace of each service that is "authenticated" in
services.yaml. Run again, it brings that up to date: the pods see it within two minutes, and none is restarted.

When a cluster's keys are rotated, run it once the new key is there, and before tokens are signed with it; and again
once the old key is gone.`,
		Args: arguments(1, 1),
		RunE: func(command *cobra.Command, args []string) error {
			return credentials.PublishKeys(command.Context(), command.OutOrStdout(), kubectl.Context(args[0]), w.Services)
		},
	}
}
