// Package target finds the cluster to test.
package target

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Target describes a cluster made by ./deploy.sh, as `workspace/run describe --json` prints it: see workspace/cluster.
type Target struct {
	Product     string   `json:"product"`
	Cluster     string   `json:"name"`
	Context     string   `json:"context"`
	Node        string   `json:"node"`
	Kubeconfigs string   `json:"kubeconfigs"`
	InvoiceApp  string   `json:"invoice_app_url"`
	Deploy      string   `json:"deploy"`
	Live        string   `json:"live"` // the folder that tilt up builds into
	Environment []string `json:"environment"`
}

// FromEnvironment returns the cluster that CLUSTER_NAME names, made with CLUSTER_PRODUCT (default kind). repository is
// the root of the checkout, and flags are further flags of workspace/run describe.
func FromEnvironment(repository string, flags ...string) (Target, error) {
	if os.Getenv("CLUSTER_NAME") == "" {
		return Target{}, errors.New("CLUSTER_NAME is not set: it must name a cluster made by ./deploy.sh")
	}
	return describe(repository, flags...)
}

// Production returns the cluster that CLUSTER_NAME names (default: as workspace/run production does), made by
// workspace/run production.
func Production(repository string) (Target, error) {
	return describe(repository, "--production")
}

func describe(repository string, flags ...string) (Target, error) {
	command := exec.Command(filepath.Join(repository, "workspace/run"),
		append([]string{"describe", "--json"}, flags...)...)
	command.Stderr = os.Stderr
	said, err := command.Output()
	if err != nil {
		return Target{}, fmt.Errorf("%v: %w", command.Args, err)
	}
	var target Target
	return target, json.Unmarshal(said, &target)
}
