// Package credentials creates certificates, passwords and public keys for clusters, databases and services.
package credentials

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"

	"example.com/invoices/workspace/kubectl"
	"example.com/invoices/workspace/process"
	"example.com/invoices/workspace/services"
)

// roles are the roles of each database.
var roles = []string{"owner", "application"}

// Passwords creates the Secrets postgres-owner and postgres-application of a product in each of the namespaces, with a
// random password in a PostgreSQL passfile. Existing Secrets are kept. A password is never printed, never on a command
// line and never in a file on this machine.
func Passwords(ctx context.Context, out io.Writer, cluster kubectl.Context, product string, namespaces []string) error {
	for _, namespace := range namespaces {
		for _, role := range roles {
			if err := password(ctx, out, cluster, product, namespace, role); err != nil {
				return err
			}
		}
	}
	return nil
}

func password(ctx context.Context, out io.Writer, cluster kubectl.Context, product, namespace, role string) error {
	name := "postgres-" + role
	found, err := process.Output(cluster.Command(ctx, "--namespace="+namespace,
		"get", "secret", name, "--ignore-not-found", "--output=name"))
	if err != nil {
		return err
	}
	if found != "" {
		fmt.Fprintf(out, "%s/%s already exists\n", namespace, name)
		return nil
	}
	create, err := cluster.Send(ctx, map[string]any{
		"apiVersion": "v1",
		"kind":       "Secret",
		"metadata": map[string]any{
			"name": name, "namespace": namespace, "labels": labels(product, "postgres"),
		},
		"stringData": map[string]any{"passfile": newLine(role)},
	}, "create")
	if err != nil {
		return err
	}
	return say(out, create)
}

// newLine returns a line of a passfile with a new password for a role.
func newLine(role string) string {
	return fmt.Sprintf("*:*:*:%s:%s\n", role, random())
}

// DatabasePasswords creates the passwords of production's databases: the Secrets of Passwords in the namespaces of the
// services, and for CloudNativePG the Secrets TEAM-owner and TEAM-application with the same passwords in the namespace
// databases. Existing Secrets are kept.
func DatabasePasswords(ctx context.Context, out io.Writer, cluster kubectl.Context, list services.List) error {
	for _, service := range list.Databases() {
		if err := Passwords(ctx, out, cluster, list.Product, []string{service.Team}); err != nil {
			return err
		}
		for _, role := range roles {
			passfile, err := getPassfile(ctx, cluster, service.Team, role)
			if err != nil {
				return err
			}
			apply, err := cluster.Send(ctx, map[string]any{
				"apiVersion": "v1",
				"kind":       "Secret",
				"type":       "kubernetes.io/basic-auth",
				"metadata": map[string]any{
					"name": service.Team + "-" + role, "namespace": "databases",
					"labels": map[string]any{
						"app.kubernetes.io/name": "postgres", "app.kubernetes.io/part-of": list.Product,
						"cnpg.io/reload": "true", // CloudNativePG sets the role's password whenever this changes
					},
				},
				"stringData": map[string]any{"username": role, "password": passfile.password()},
			}, "apply", "--server-side", "--force-conflicts", "--field-manager=passwords")
			if err != nil {
				return err
			}
			if err := say(out, apply); err != nil {
				return err
			}
		}
	}
	return nil
}

// ObjectStore creates the Secret object-store, with a random access key, in the namespaces of the object store and of
// the databases that write their backups to it. An existing key is kept.
func ObjectStore(ctx context.Context, out io.Writer, cluster kubectl.Context, product string) error {
	const store = "object-store"
	key, err := process.Output(cluster.Command(ctx, "--namespace="+store, "get", "secret", store, "--ignore-not-found",
		"--output=go-template={{.data.SECRET_ACCESS_KEY | base64decode}}"))
	if err != nil {
		return err
	}
	key = cmp.Or(key, random())
	for _, namespace := range []string{store, "databases"} {
		apply, err := cluster.Send(ctx, map[string]any{
			"apiVersion": "v1",
			"kind":       "Secret",
			"metadata":   map[string]any{"name": store, "namespace": namespace, "labels": labels(product, store)},
			"stringData": map[string]any{"ACCESS_KEY_ID": store, "SECRET_ACCESS_KEY": key},
		}, "apply", "--server-side", "--field-manager=passwords")
		if err != nil {
			return err
		}
		if err := say(out, apply); err != nil {
			return err
		}
	}
	return nil
}

// random returns a password that nobody can guess.
func random() string {
	random := make([]byte, 24)
	_, _ = rand.Read(random) // never fails
	return hex.EncodeToString(random)
}

// labels returns the labels of the objects of one part of the product.
func labels(product, part string) map[string]any {
	return map[string]any{"app.kubernetes.io/name": part, "app.kubernetes.io/part-of": product}
}
