// Package target tells which cluster is tested.
package target

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// Target is a cluster that ./deploy.sh makes.
type Target struct {
	Cluster    string // its name, as deploy.sh says it
	Context    string // kubectl's
	Node       string // the container of its node
	InvoiceApp string // the URL outside the cluster
	Deploy     string // the command that has made it
}

// FromEnvironment is the one that CLUSTER_NAME names, made with CLUSTER_PRODUCT (kind). repository is
// the root of the checkout.
func FromEnvironment(repository string) (Target, error) {
	if os.Getenv("CLUSTER_NAME") == "" {
		return Target{}, errors.New("CLUSTER_NAME does not say which cluster: one on which ./deploy.sh has run")
	}
	product := exec.Command("bash", "-c", `. cluster/lib.sh && . cluster/product.sh &&
		port=$(made_with INVOICE_APP_PORT) && echo -n "$CLUSTER $CONTEXT $NODE http://localhost:$port $NAMED./deploy.sh$OPTION"`)
	product.Dir = repository
	product.Env = append(os.Environ(), "CLUSTER_PRODUCT="+cmp.Or(os.Getenv("CLUSTER_PRODUCT"), "kind"))
	product.Stderr = os.Stderr
	said, err := product.Output()
	if err != nil {
		return Target{}, fmt.Errorf("cluster/product.sh: %w", err)
	}
	names := strings.SplitN(string(said), " ", 5)
	if len(names) != 5 {
		return Target{}, fmt.Errorf("cluster/product.sh says %q", said)
	}
	return Target{Cluster: names[0], Context: names[1], Node: names[2], InvoiceApp: names[3], Deploy: names[4]}, nil
}
