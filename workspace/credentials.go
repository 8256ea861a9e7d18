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
			valid, err := seconds(command, lifetime)
			if err != nil {
				return err
			}
			args = append(args, "", "")
			return credentials.Kubeconfig(command.Context(), command.OutOrStdout(), kubectl.Context(args[0]), w.file(args[1]),
				credentials.Person{
					User: args[2], Group: args[3], Namespace: cmp.Or(args[4], "default"),
					Lifetime: valid,
				})
		},
	}
	lifetimeFlag(command, &lifetime, "a cluster cannot revoke a certificate, so a stolen one can be used for that long")
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

func (w *workspace) rotatePasswordsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "rotate-passwords CONTEXT STEP",
		Short: "Replace the passwords of production's databases",
		Long: `Replaces the passwords of the roles owner and application of each database in the cluster of the kubectl
context CONTEXT, without a failed request. Run these commands, with two minutes in between, in which every pod notices
the change:

  rotate-passwords CONTEXT add      the services have the new passwords, too, and try each
  rotate-passwords CONTEXT use      the databases accept only the new passwords
  rotate-passwords CONTEXT remove   the services have only the new passwords

Each command can be repeated. A step that comes too early is refused.`,
		Args: arguments(2, 2),
		RunE: func(command *cobra.Command, args []string) error {
			step := credentials.Rotation(args[1])
			switch step {
			case credentials.Add, credentials.Use, credentials.Remove:
			default:
				return usageError{command, fmt.Errorf("STEP %q is invalid: must be %s, %s or %s", step,
					credentials.Add, credentials.Use, credentials.Remove)}
			}
			return credentials.RotatePasswords(command.Context(), command.OutOrStdout(), kubectl.Context(args[0]),
				w.Services, step)
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

func (w *workspace) makeCertificatesCommand() *cobra.Command {
	c := credentials.Certificates{Services: w.Services}
	steps := map[string]*credentials.Rotation{"rotate-authority": &c.Authority, "rotate-callers": &c.Callers}
	command := &cobra.Command{
		Use:   "make-certificates CONTEXT",
		Short: "Create and renew the certificates of production",
		Long: `Creates the certificates of production in the cluster of the kubectl context CONTEXT: the Secret NAME-tls
for each service in services.yaml and for the entry, TEAM-server-tls for each database. Their namespaces
must exist. Certificates are valid for 90 days. Running it again renews those that expire within 30 days, so
run it once a week. Services and databases use new files without a restart; the entry's pods are replaced
one after the other.

Two authorities issue certificates, valid for ten years: "authority" for what runs in the cluster, "callers" for callers
from outside. Their keys are in Secrets of the namespace platform, and never on this machine. To replace one, for
example the first, without a failed request, run these commands, each at the time that the one before prints:

  make-certificates CONTEXT --rotate-authority=add      everybody trusts the new authority, too
  make-certificates CONTEXT --rotate-authority=use      it issues all certificates
  make-certificates CONTEXT --rotate-authority=remove   nobody trusts the old authority

Each command can be repeated. A step that comes too early is refused.`,
		Args: arguments(1, 1),
		RunE: func(command *cobra.Command, args []string) error {
			for flag, step := range steps {
				switch *step = credentials.Rotation(command.Flag(flag).Value.String()); *step {
				case "", credentials.Add, credentials.Use, credentials.Remove:
				default:
					return usageError{command, fmt.Errorf("--%s=%s is invalid: must be %s, %s or %s", flag, *step,
						credentials.Add, credentials.Use, credentials.Remove)}
				}
			}
			c.Cluster = kubectl.Context(args[0])
			return c.Make(command.Context(), command.OutOrStdout())
		},
	}
	command.Flags().StringSliceVar(&c.Hosts, "host", nil, "DNS name or IP address at which callers from outside reach "+
		"the entry; can be repeated (default: those of its certificate; of a new one localhost and 127.0.0.1)")
	command.Flags().BoolVar(&c.Renew, "renew", false, "renew all certificates now, for example after a key was stolen")
	command.Flags().String("rotate-authority", "", "step in replacing the authority of services and databases: "+
		"add, use or remove")
	command.Flags().String("rotate-callers", "", "step in replacing the authority of callers: add, use or remove")
	return command
}

func (w *workspace) makeClientCertificateCommand() *cobra.Command {
	lifetime := ""
	command := &cobra.Command{
		Use:   "make-client-certificate CONTEXT FOLDER NAME",
		Short: "Create a client certificate for a caller of production",
		Long: `Writes a client certificate with which NAME can call the entry of the cluster of the kubectl context CONTEXT:
the files tls.crt, tls.key and ca.crt in FOLDER, readable only by you. Existing files are kept if the certificate is for
NAME and valid for at least another day; otherwise they are replaced. For example:

  curl --cert FOLDER/tls.crt --key FOLDER/tls.key --cacert FOLDER/ca.crt https://localhost:8443/invoices

The entry logs NAME with each request. A certificate cannot be revoked, except by replacing the authority of all callers
(make-certificates --rotate-callers).`,
		Args: arguments(3, 3),
		RunE: func(command *cobra.Command, args []string) error {
			valid, err := seconds(command, lifetime)
			if err != nil {
				return err
			}
			return credentials.ClientCertificate(command.Context(), command.OutOrStdout(), kubectl.Context(args[0]),
				w.file(args[1]), args[2], valid)
		},
	}
	lifetimeFlag(command, &lifetime, "a stolen certificate can be used for that long")
	return command
}

// lifetimeFlag adds the flag --lifetime, which [seconds] parses.
func lifetimeFlag(command *cobra.Command, value *string, why string) {
	command.Flags().StringVar(value, "lifetime", cmp.Or(os.Getenv("LIFETIME"), "604800"),
		"LIFETIME, the seconds for which the certificate is valid; "+why)
}

func seconds(command *cobra.Command, lifetime string) (time.Duration, error) {
	number, err := strconv.ParseInt(lifetime, 10, 32)
	if err != nil || number <= 0 {
		return 0, usageError{command, fmt.Errorf("lifetime %q is invalid: must be a number of seconds", lifetime)}
	}
	return time.Duration(number) * time.Second, nil
}
