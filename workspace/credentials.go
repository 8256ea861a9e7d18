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
		Short: "Create a kubeconfig with a client certificate",
		Long: `Writes the kubeconfig FILE, with which kubectl authenticates as USER in GROUP in the cluster of the kubectl
context CONTEXT. Its namespace is NAMESPACE (default: default). The roles in k8s/team and k8s/platform define USER's
rights. An existing FILE is kept if its certificate is valid for at least another day, and is for the same cluster and
user; otherwise it is replaced.

The key is generated on this machine, is stored in no other file, and is never printed.`,
		Args: arguments(3, 5),
		RunE: func(command *cobra.Command, args []string) error {
			seconds, err := strconv.ParseInt(lifetime, 10, 32)
			if err != nil || seconds <= 0 {
				return usageError{command, fmt.Errorf("lifetime %q is invalid: must be a number of seconds", lifetime)}
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
		"LIFETIME, the seconds for which the certificate is valid; a cluster cannot revoke a certificate, so a stolen "+
			"one can be used for that long")
	return command
}

func (w *workspace) makePasswordsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "make-passwords CONTEXT [NAMESPACE]...",
		Short: "Create random passwords for each database's two roles, once",
		Long: `Creates the Secrets postgres-owner and postgres-application in each NAMESPACE of the cluster of the kubectl
context CONTEXT, each with a PostgreSQL passfile. Existing Secrets are kept. A password is never printed, never on a
command line and never in a file on this machine.`,
		Args: arguments(1, 99),
		RunE: func(command *cobra.Command, args []string) error {
			return credentials.Passwords(command.Context(), command.OutOrStdout(), kubectl.Context(args[0]),
				w.Services.Product, args[1:])
		},
	}
}

func (w *workspace) makeAuditCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "make-audit CONTEXT [TEAM]...",
		Short: "Let the audit read the databases of a development cluster",
		Long: `Creates the Secret postgres-audit in the namespace monitoring of the cluster of the kubectl context CONTEXT,
with a random password, unless it exists, and the role audit with that password in the database of each TEAM. The role
can read everything there, and change nothing. The audit compares both databases: see k8s/monitoring.`,
		Args: arguments(1, 99),
		RunE: func(command *cobra.Command, args []string) error {
			return credentials.Audit(command.Context(), command.OutOrStdout(), kubectl.Context(args[0]),
				w.Services.Product, args[1:])
		},
	}
}

func (w *workspace) publishKeysCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "publish-keys CONTEXT",
		Short: "Publish the keys with which services verify their callers",
		Long: `Copies the public keys of ServiceAccount tokens (/openid/v1/jwks) from the cluster of the kubectl context
CONTEXT to the ConfigMap caller-keys in the namespace of each service that is "authenticated" in services.yaml. Running
it again updates the ConfigMap: the pods see the change within two minutes, without a restart.

When the cluster's keys are rotated, run it after the new key has been added and before tokens are signed with it, and
again after the old key has been removed.`,
		Args: arguments(1, 1),
		RunE: func(command *cobra.Command, args []string) error {
			return credentials.PublishKeys(command.Context(), command.OutOrStdout(), kubectl.Context(args[0]), w.Services)
		},
	}
}
