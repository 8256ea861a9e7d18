// Package credentials creates certificates, passwords and public keys for clusters, databases and services.
package credentials

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"strings"

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
	random := make([]byte, 24)
	_, _ = rand.Read(random) // never fails
	create, err := cluster.Send(ctx, map[string]any{
		"apiVersion": "v1",
		"kind":       "Secret",
		"metadata": map[string]any{
			"name": name, "namespace": namespace, "labels": labels(product, "postgres"),
		},
		"stringData": map[string]any{"passfile": fmt.Sprintf("*:*:*:%s:%s\n", role, hex.EncodeToString(random))},
	}, "create")
	if err != nil {
		return err
	}
	return say(out, create)
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
			passfile, err := process.Output(cluster.Command(ctx, "--namespace="+service.Team,
				"get", "secret", "postgres-"+role, "--output=go-template={{.data.passfile | base64decode}}"))
			if err != nil {
				return err
			}
			// The last line is the newest, and the last field is the password.
			password := passfile[strings.LastIndex(passfile, ":")+1:]
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
				"stringData": map[string]any{"username": role, "password": password},
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

// labels returns the labels of the objects of one part of the product.
func labels(product, part string) map[string]any {
	return map[string]any{"app.kubernetes.io/name": part, "app.kubernetes.io/part-of": product}
}
