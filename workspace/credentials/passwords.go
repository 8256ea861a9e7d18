// Package credentials creates certificates, passwords and public keys for clusters, databases and services.
package credentials

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"

	"example.com/invoices/workspace/kubectl"
	"example.com/invoices/workspace/process"
)

// Passwords creates the Secrets postgres-owner and postgres-application of a product in each of the namespaces, with a
// random password in a PostgreSQL passfile. Existing Secrets are kept. A password is never printed, never on a command
// line and never in a file on this machine.
func Passwords(ctx context.Context, out io.Writer, cluster kubectl.Context, product string, namespaces []string) error {
	for _, namespace := range namespaces {
		for _, role := range []string{"owner", "application"} {
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
		"immutable":  true,
		"stringData": map[string]any{"passfile": fmt.Sprintf("*:*:*:%s:%s\n", role, hex.EncodeToString(random))},
	}, "create")
	if err != nil {
		return err
	}
	return say(out, create)
}

// labels returns the labels of the objects of one part of the product.
func labels(product, part string) map[string]any {
	return map[string]any{"app.kubernetes.io/name": part, "app.kubernetes.io/part-of": product}
}
