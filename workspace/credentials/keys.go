package credentials

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"

	"example.com/invoices/workspace/kubectl"
	"example.com/invoices/workspace/process"
	"example.com/invoices/workspace/services"
)

// PublishKeys copies the public keys of the cluster's ServiceAccount tokens to the ConfigMap caller-keys in the
// namespace of each service that verifies its callers with them.
func PublishKeys(ctx context.Context, out io.Writer, cluster kubectl.Context, list services.List) error {
	keys, err := process.Output(cluster.Command(ctx, "get", "--raw", "/openid/v1/jwks"))
	if err != nil {
		return err
	}
	if !hasKey(keys) {
		return fmt.Errorf("%s has no key at /openid/v1/jwks, so the published keys are unchanged: %s", cluster, keys)
	}
	published := map[string]bool{}
	for _, service := range list.Services {
		if !service.Authenticated || published[service.Team] {
			continue
		}
		published[service.Team] = true
		apply, err := cluster.Send(ctx, map[string]any{
			"apiVersion": "v1",
			"kind":       "ConfigMap",
			"metadata": map[string]any{
				"name": "caller-keys", "namespace": service.Team, "labels": labels(list.Product, service.Name),
			},
			"data": map[string]any{"jwks.json": keys},
		}, "apply", "--server-side", "--force-conflicts", "--field-manager=publish-keys")
		if err != nil {
			return err
		}
		if err := say(out, apply); err != nil {
			return err
		}
	}
	return nil
}

// hasKey reports whether text is a JSON Web Key Set that contains a key with an ID, which a token can refer to.
func hasKey(text string) bool {
	var set struct {
		Keys []struct {
			ID string `json:"kid"`
		} `json:"keys"`
	}
	if json.Unmarshal([]byte(text), &set) != nil {
		return false
	}
	for _, key := range set.Keys {
		if key.ID != "" {
			return true
		}
	}
	return false
}

// say runs a command and prints its output.
func say(out io.Writer, command *exec.Cmd) error {
	said, err := process.Output(command)
	if err == nil {
		fmt.Fprintln(out, said)
	}
	return err
}
