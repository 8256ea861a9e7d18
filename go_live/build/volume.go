package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
)

// runKubectl runs kubectl in the program's cluster and namespace. An error contains what kubectl says.
type runKubectl func(ctx context.Context, args ...string) (string, error)

const (
	volumes = "persistentvolume"
	claims  = "persistentvolumeclaim"
)

// freeVolume makes sure that the volume and the claim in the manifests can bind, whatever became of earlier ones: the
// namespace or the claim was deleted, the volume was, or `tilt down` was interrupted. Kubernetes keeps a volume for the
// claim that had it, by its UID, and applying the manifests does not change that, so the pods would wait for ever.
// Both are only names of a folder, so nothing is lost. It changes nothing if they are bound, or do not exist. It is to
// be called before the manifests are applied.
func freeVolume(ctx context.Context, run runKubectl, volume, claim string) error {
	said, err := run(ctx, "get", volumes+"/"+volume, claims+"/"+claim, "--ignore-not-found", "--output=json")
	if err != nil || said == "" {
		return err
	}
	var found struct {
		Items []struct {
			Kind     string
			Metadata struct{ UID, DeletionTimestamp string }
			Spec     struct{ ClaimRef struct{ UID string } }
			Status   struct{ Phase string }
		}
	}
	if err := json.Unmarshal([]byte(said), &found); err != nil {
		return fmt.Errorf("kubectl get %s: %w", volume, err)
	}
	var uid, owner string // of the claim, and of the one that the volume is kept for
	ending := false       // one of them is about to vanish, or is unusable without the other
	for _, object := range found.Items {
		ending = ending || object.Metadata.DeletionTimestamp != "" || object.Status.Phase == "Lost"
		if object.Kind == "PersistentVolume" {
			owner = object.Spec.ClaimRef.UID
		} else {
			uid = object.Metadata.UID
		}
	}
	switch {
	case ending:
		// It would go only when no pod uses it, and then nobody would make a new one.
		for _, object := range []string{claims + "/" + claim, volumes + "/" + volume} {
			if err := deleteNow(ctx, run, object); err != nil {
				return err
			}
		}
	case owner != "" && owner != uid:
		patch := fmt.Sprintf(`[{"op": "test", "path": "/spec/claimRef/uid", "value": %q},`+
			`{"op": "remove", "path": "/spec/claimRef/uid"},{"op": "remove", "path": "/spec/claimRef/resourceVersion"}]`, owner)
		if _, err := run(ctx, "patch", volumes+"/"+volume, "--type=json", "--patch="+patch); err != nil {
			return err
		}
	}
	return nil
}

// deleteNow deletes an object, if it exists, without waiting for the pods that use it, which keep what they have
// mounted.
func deleteNow(ctx context.Context, run runKubectl, object string) error {
	if _, err := run(ctx, "delete", object, "--ignore-not-found", "--wait=false"); err != nil {
		return err
	}
	_, err := run(ctx, "patch", object, "--type=merge", `--patch={"metadata": {"finalizers": null}}`)
	if err != nil && strings.Contains(err.Error(), "(NotFound)") {
		return nil
	}
	return err
}
