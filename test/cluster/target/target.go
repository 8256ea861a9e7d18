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
	Live        string   `json:"live"` // the folder into which tilt up builds
	Environment []string `json:"environment"`
}

// FromEnvironment returns the cluster that CLUSTER_NAME names, made with CLUSTER_PRODUCT (kind). repository is
// the root of the checkout, and flags are further ones of workspace/run describe.
func FromEnvironment(repository string, flags ...string) (Target, error) {
	if os.Getenv("CLUSTER_NAME") == "" {
		return Target{}, errors.New("CLUSTER_NAME does not say which cluster: one on which ./deploy.sh has run")
	}
	describe := exec.Command(filepath.Join(repository, "workspace/run"), append([]string{"describe", "--json"}, flags...)...)
	describe.Stderr = os.Stderr
	said, err := describe.Output()
	if err != nil {
		return Target{}, fmt.Errorf("%v: %w", describe.Args, err)
	}
	var target Target
	return target, json.Unmarshal(said, &target)
}
