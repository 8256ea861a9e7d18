// Package target tells which cluster is tested.
package target

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Target is what the workspace says of a cluster that ./deploy.sh makes: see workspace/cluster.
type Target struct {
	Product     string   `json:"product"`
	Cluster     string   `json:"name"`
	Context     string   `json:"context"`
	Node        string   `json:"node"`
	Kubeconfigs string   `json:"kubeconfigs"`
	InvoiceApp  string   `json:"invoice_app_url"`
	Deploy      string   `json:"deploy"`
	Environment []string `json:"environment"`
}

// FromEnvironment is the one that CLUSTER_NAME names, made with CLUSTER_PRODUCT (kind). repository is
// the root of the checkout.
func FromEnvironment(repository string) (Target, error) {
	if os.Getenv("CLUSTER_NAME") == "" {
		return Target{}, errors.New("CLUSTER_NAME does not say which cluster: one on which ./deploy.sh has run")
	}
	describe := exec.Command(filepath.Join(repository, "workspace/run"), "describe", "--json")
	describe.Stderr = os.Stderr
	said, err := describe.Output()
	if err != nil {
		return Target{}, fmt.Errorf("%v: %w", describe.Args, err)
	}
	var target Target
	return target, json.Unmarshal(said, &target)
}
