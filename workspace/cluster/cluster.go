// Package cluster defines a cluster of the workspace, and makes, starts, stops and removes it.
package cluster

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"

	"example.com/invoices/workspace/docker"
	"example.com/invoices/workspace/kubectl"
	"example.com/invoices/workspace/paths"
	"example.com/invoices/workspace/process"
)

// Cluster is the definition of one cluster: all that it is called, and where what belongs to it is.
type Cluster struct {
	Product        string   `json:"product"`          // kind or minikube
	Name           string   `json:"name"`             // no other cluster of this machine has it
	Context        string   `json:"context"`          // kubectl's
	Node           string   `json:"node"`             // the node's container
	NodeImage      string   `json:"node_image"`       //
	Network        string   `json:"network"`          // Docker's
	Registry       string   `json:"registry"`         // the registry's container
	RegistryPort   int      `json:"registry_port"`    // on localhost
	InvoiceAppPort int      `json:"invoice_app_port"` // on localhost
	InvoiceAppURL  string   `json:"invoice_app_url"`  //
	Live           string   `json:"live"`             // the folder that tilt up shares with the node
	Images         string   `json:"images"`           // the folder of what images are made from
	Kubeconfigs    string   `json:"kubeconfigs"`      // the folder of the teams' kubeconfigs
	Evidence       string   `json:"evidence"`         // the folder for what there is to know when deploying failed
	Deploy         string   `json:"deploy"`           // the command that deploys to it
	Architecture   string   `json:"architecture"`     // the node's, as Go calls it
	Program        string   `json:"program"`          // this program, for those that start it often
	Environment    []string `json:"environment"`      // what ctlptl is to have set on this machine
	Named          string   `json:"-"`                // what is to be put before a command, to name this cluster

	product    product
	ownNetwork string // goes away with the cluster, and is shared with no other
	paths      paths.Paths
}

const (
	defaultName = "invoices"
	nodePort    = "30081/tcp" // invoice-app's, which a port of this machine leads to

	registryContainerPort = "5000/tcp"
	// RegistryImage is what the registry's container is made from.
	RegistryImage = "invoices/registry:local"
)

// Ports are those that a cluster is asked to have; 0 leaves it to the cluster, or to the default.
type Ports struct{ InvoiceApp, Registry int }

var defaultPorts = Ports{InvoiceApp: 8081, Registry: 5005}

// product is one of the two that a cluster is made with, and all that differs between them: nothing asks anywhere
// else which one it is.
type product interface {
	// file is the name of ctlptl's file, and choose puts into it, and leaves in it, what this cluster needs.
	file() string
	choose(ctx context.Context, definition *definition) error
	// environment is what ctlptl and the product's own program need to have set.
	environment(ctx context.Context) []string
	// label is how Docker finds what belongs to the cluster.
	label() string
	// tools are those that not every cluster needs.
	tools() []string
	// complete adds what a cluster lacks that ctlptl has just made.
	complete(ctx context.Context, step *process.Step) error
	// start starts the node, also where it runs and does not answer.
	start(ctx context.Context, step *process.Step) error
	stop(ctx context.Context, step *process.Step) error
	// delete takes the cluster away, and its context out of the user's kubeconfig.
	delete(ctx context.Context) error
}

var names = regexp.MustCompile(`^[a-z0-9][a-z0-9-]*$`)

// New defines the cluster that is called by name (of the variable CLUSTER_NAME) and made with a product.
func New(where paths.Paths, productName, name string) (*Cluster, error) {
	if !names.MatchString(name) || regexp.MustCompile(`^minikube-`).MatchString(name) {
		return nil, fmt.Errorf("CLUSTER_NAME=%s: it may have a-z, 0-9 and - in it, and not begin with minikube-", name)
	}
	c := &Cluster{Product: productName, Program: where.Program(), paths: where}
	option := ""
	switch productName {
	case "kind":
		c.Name, c.Context, c.Node = name, "kind-"+name, name+"-control-plane"
		c.NodeImage, c.Network = "invoices/node:local", "kind-"+name
		c.product = kind{c}
	case "minikube":
		// The profile, its container and its network: ctlptl and Tilt know minikube by a name that begins with it.
		c.Name = "minikube-" + name
		c.Context, c.Node = c.Name, c.Name
		c.NodeImage, c.Network = "invoices/minikube:local", c.Name
		c.product = minikube{c}
		option = " --product minikube"
	default:
		return nil, fmt.Errorf("%s: a cluster is made with kind or minikube", productName)
	}
	c.ownNetwork = c.Network
	c.Registry = c.Name + "-registry"
	c.Live = where.Build("live", c.Name)
	c.Images = where.Build("images", c.Name)
	c.Kubeconfigs = where.Build("kubeconfig", c.Name)
	c.Evidence = filepath.Join(where.Root, ".evidence", c.Name)
	if name != defaultName {
		c.Named = "CLUSTER_NAME=" + name + " "
	}
	c.Deploy = c.Named + "./deploy.sh" + option
	return c, nil
}

// OfContext is New for the cluster that kubectl knows as kubeContext, if it is one of those called by name.
func OfContext(where paths.Paths, kubeContext, name string) (*Cluster, error) {
	for _, product := range []string{"kind", "minikube"} {
		c, err := New(where, product, name)
		if err != nil {
			return nil, err
		}
		if c.Context == kubeContext {
			return c, nil
		}
	}
	return nil, fmt.Errorf(`this deploys to "kind-%[1]s" or "minikube-%[1]s" only, and the current Kubernetes context is %[2]q. `+
		"Run ./deploy.sh, or `tilt up --context=kind-%[1]s`; CLUSTER_NAME names another cluster", name, kubeContext)
}

// UsePorts settles the cluster's ports. One that is there keeps those that it was made with: others are refused.
func (c *Cluster) UsePorts(ctx context.Context, state State, asked Ports) error {
	made := defaultPorts
	if state.Node != nil {
		var err error
		if made, err = c.madeWith(ctx, state); err != nil {
			return err
		}
	}
	for _, port := range []struct {
		variable    string
		asked, made int
		settled     *int
	}{
		{"INVOICE_APP_PORT", asked.InvoiceApp, made.InvoiceApp, &c.InvoiceAppPort},
		{"REGISTRY_PORT", asked.Registry, made.Registry, &c.RegistryPort},
	} {
		switch {
		case port.asked == 0:
			*port.settled = port.made
		case state.Node != nil && port.asked != port.made:
			return fmt.Errorf("cluster %s was made with %s=%d, and keeps it: leave %[2]s out, or make the cluster anew with --force, which loses the data",
				c.Name, port.variable, port.made)
		default:
			*port.settled = port.asked
		}
	}
	c.InvoiceAppURL = fmt.Sprintf("http://localhost:%d", c.InvoiceAppPort)
	return nil
}

// madeWith are the ports that the cluster was made with, which it knows while it is stopped as well.
func (c *Cluster) madeWith(ctx context.Context, state State) (Ports, error) {
	invoiceApp, err := strconv.Atoi(state.Node.HostPort(nodePort))
	if err != nil {
		return Ports{}, fmt.Errorf("the container %s has no port for invoice-app: it was not made by ./deploy.sh", c.Node)
	}
	var registry int
	if state.Registry != nil {
		registry, err = strconv.Atoi(state.Registry.HostPort(registryContainerPort))
	} else {
		registry, err = c.registryPort(ctx)
	}
	return Ports{InvoiceApp: invoiceApp, Registry: registry}, err
}

// others refuses containers that have this cluster's names, and were made from other images.
func (c *Cluster) others(node, registry *docker.Container) error {
	if node != nil && node.Config.Image != c.NodeImage || registry != nil && registry.Config.Image != RegistryImage {
		return fmt.Errorf("there is a container %s or %s that was not made by this script: choose another CLUSTER_NAME",
			c.Node, c.Registry)
	}
	return nil
}

// Unfinished is there while the cluster is being created: what is there then is of no use.
func (c *Cluster) Unfinished() string { return filepath.Join(c.paths.Cache, c.Name+".unfinished") }

// LockFile is held by who is at work on the cluster.
func (c *Cluster) LockFile() string { return filepath.Join(c.paths.Cache, "cluster-"+c.Name+".lock") }

// Logs is the folder of the logs of the steps of this cluster.
func (c *Cluster) Logs() string { return filepath.Join(c.paths.Logs(), c.Name) }

// Tools are those that this cluster needs and others do not.
func (c *Cluster) Tools() []string { return c.product.tools() }

// Kubectl prepares kubectl on this cluster.
func (c *Cluster) Kubectl(ctx context.Context, args ...string) *exec.Cmd {
	return kubectl.Context(c.Context).Command(ctx, args...)
}
