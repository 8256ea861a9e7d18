// Package cluster defines the workspace's clusters, and creates, starts, stops and removes them.
package cluster

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"example.com/invoices/workspace/docker"
	"example.com/invoices/workspace/kubectl"
	"example.com/invoices/workspace/paths"
	"example.com/invoices/workspace/process"
	"example.com/invoices/workspace/services"
)

// Cluster is the definition of a cluster: its names, ports and folders.
type Cluster struct {
	Product        string   `json:"product"`          // kind, minikube or production
	Name           string   `json:"name"`             // unique on this machine
	Context        string   `json:"context"`          // for kubectl
	Node           string   `json:"node"`             // the node's container
	NodeImage      string   `json:"node_image"`       //
	Network        string   `json:"network"`          // the Docker network
	Registry       string   `json:"registry"`         // the registry's container
	RegistryPort   int      `json:"registry_port"`    // on localhost
	InvoiceAppPort int      `json:"invoice_app_port"` // on localhost; in production, the entry's
	InvoiceAppURL  string   `json:"invoice_app_url"`  //
	Live           string   `json:"live"`             // the folder that tilt up shares with the node
	Images         string   `json:"images"`           // the folder for building images
	Kubeconfigs    string   `json:"kubeconfigs"`      // the folder for the teams' kubeconfigs
	Evidence       string   `json:"evidence"`         // the folder for diagnostics after a failed deployment
	Deploy         string   `json:"deploy"`           // the command that deploys to it
	Architecture   string   `json:"architecture"`     // the node's GOARCH
	Program        string   `json:"program"`          // this program, for frequent callers
	Environment    []string `json:"environment"`      // variables that ctlptl needs on this machine
	RegistryImage  string   `json:"-"`                // the image of the registry's container
	PostgresImage  string   `json:"postgres_image"`   // the database's image, before Tilt pushes it
	Named          string   `json:"-"`                // prefix that makes a command use this cluster
	Command        string   `json:"-"`                // the command of this program that creates it
	PortVariable   string   `json:"-"`                // the environment variable that sets InvoiceAppPort

	Services []services.Service `json:"services"` // what is deployed to it

	product    product
	nodePort   string // the public service's, which a port of this machine is mapped to
	scheme     string // of InvoiceAppURL
	defaults   Ports
	ownNetwork string // removed with the cluster, and not shared with others
	paths      paths.Paths
}

const registryContainerPort = "5000/tcp"

// Ports are the requested ports of a cluster. 0 stands for the port that the cluster has, or the default.
type Ports struct{ InvoiceApp, Registry int }

// product is kind or minikube: it encapsulates all differences between clusters made with them.
type product interface {
	// program returns the name of the product's own program.
	program() string
	// file returns the name of the ctlptl file.
	file() string
	// choose adapts the definition in that file to this cluster.
	choose(ctx context.Context, definition *definition) error
	// environment returns the variables that ctlptl and the product's own program need.
	environment(ctx context.Context) []string
	// label returns the label of the cluster's Docker objects.
	label() string
	// tools returns the tools that only this product needs.
	tools() []string
	// complete finishes a cluster that ctlptl has just created.
	complete(ctx context.Context, step *process.Step) error
	// start starts the nodes. They may be running but not responding.
	start(ctx context.Context, step *process.Step) error
	stop(ctx context.Context, step *process.Step) error
	// delete removes the cluster, and its context from the user's kubeconfig.
	delete(ctx context.Context) error
}

var names = regexp.MustCompile(`^[a-z0-9][a-z0-9-]*$`)

// New defines the cluster with a name (from CLUSTER_NAME) that is made with a product.
func New(where paths.Paths, productName, name string) (*Cluster, error) {
	c, err := named(where, name)
	if err != nil {
		return nil, err
	}
	c.Product, c.Command, c.Deploy = productName, "./deploy.sh", "./deploy.sh"
	c.PortVariable, c.nodePort, c.scheme = "INVOICE_APP_PORT", "30081/tcp", "http"
	c.defaults = Ports{InvoiceApp: 8081, Registry: 5005}
	switch productName {
	case "kind":
		c.useKind(name, "ctlptl.yaml")
	case "minikube":
		// This names the profile, its container and its network. ctlptl and Tilt recognize minikube by the prefix.
		c.Name = "minikube-" + name
		c.Context, c.Node = c.Name, c.Name
		c.NodeImage, c.Network = where.Image("minikube"), c.Name
		c.product = minikube{c}
		c.Deploy += " --product minikube"
	default:
		return nil, fmt.Errorf("product %q is invalid: must be kind or minikube", productName)
	}
	c.Live = where.Build("live", c.Name)
	c.nameRest(where.Services.Product)
	return c, nil
}

// NewProduction defines the cluster with a name (from CLUSTER_NAME) on which production is rehearsed: it is made with
// kind and has workers. Its network, volumes and registry are separate.
func NewProduction(where paths.Paths, name string) (*Cluster, error) {
	c, err := named(where, name)
	if err != nil {
		return nil, err
	}
	c.Product, c.Command, c.Deploy = "production", "workspace/run production", "workspace/run production"
	c.PortVariable, c.nodePort, c.scheme = "ENTRY_PORT", "30443/tcp", "https"
	c.defaults = Ports{InvoiceApp: 8443, Registry: 5006}
	c.useKind(name, "ctlptl-production.yaml", name+"-worker", name+"-worker2")
	c.nameRest(ProductionName(where))
	return c, nil
}

// ProductionName returns the default name of the cluster on which production is rehearsed.
func ProductionName(where paths.Paths) string { return where.Services.Product + "-production" }

func named(where paths.Paths, name string) (*Cluster, error) {
	if !names.MatchString(name) || regexp.MustCompile(`^minikube-`).MatchString(name) {
		return nil, fmt.Errorf("CLUSTER_NAME=%s is invalid: must consist of a-z, 0-9 and -, "+
			"and not start with - or minikube-", name)
	}
	return &Cluster{
		Name: name, Program: where.Program(), PostgresImage: where.Image("postgres"),
		Services: where.Services.Services, paths: where,
	}, nil
}

// useKind names what kind makes.
func (c *Cluster) useKind(name, file string, workers ...string) {
	c.Context, c.Node = "kind-"+name, name+"-control-plane"
	c.NodeImage, c.Network = c.paths.Image("node"), "kind-"+name
	c.product = kind{c, file, workers}
}

// nameRest names what every cluster has. The cluster with the default name needs no CLUSTER_NAME.
func (c *Cluster) nameRest(defaultName string) {
	name := strings.TrimPrefix(c.Name, "minikube-")
	if name != defaultName {
		c.Named = "CLUSTER_NAME=" + name + " "
	}
	c.Deploy = c.Named + c.Deploy
	c.ownNetwork = c.Network
	c.Registry = c.Name + "-registry"
	c.RegistryImage = c.paths.Image("registry")
	c.Images = c.paths.Build("images", c.Name)
	c.Kubeconfigs = c.paths.Build("kubeconfig", c.Name)
	c.Evidence = filepath.Join(c.paths.Root, ".evidence", c.Name)
}

// OfContext defines the cluster with a name whose kubectl context is kubeContext.
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
	return nil, fmt.Errorf(`this deploys to "kind-%[1]s" or "minikube-%[1]s" only, `+
		"but the current Kubernetes context is %[2]q. "+
		"Run ./deploy.sh, or `tilt up --context=kind-%[1]s`; set CLUSTER_NAME for another cluster", name, kubeContext)
}

// UsePorts sets the cluster's ports. The ports of an existing cluster cannot be changed.
func (c *Cluster) UsePorts(ctx context.Context, state State, asked Ports) error {
	made := c.defaults
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
		{c.PortVariable, asked.InvoiceApp, made.InvoiceApp, &c.InvoiceAppPort},
		{"REGISTRY_PORT", asked.Registry, made.Registry, &c.RegistryPort},
	} {
		switch {
		case port.asked == 0:
			*port.settled = port.made
		case state.Node != nil && port.asked != port.made:
			return fmt.Errorf("cluster %s was created with %s=%d: unset %[2]s, "+
				"or recreate the cluster with --force, which deletes its data", c.Name, port.variable, port.made)
		default:
			*port.settled = port.asked
		}
	}
	c.InvoiceAppURL = fmt.Sprintf("%s://localhost:%d", c.scheme, c.InvoiceAppPort)
	return nil
}

// madeWith returns the ports that the cluster was created with. It works for a stopped cluster, too.
func (c *Cluster) madeWith(ctx context.Context, state State) (Ports, error) {
	invoiceApp, err := strconv.Atoi(state.Node.HostPort(c.nodePort))
	if err != nil {
		return Ports{}, fmt.Errorf("container %s has no port for invoice-app: it was not created by %s", c.Node, c.Command)
	}
	var registry int
	if state.Registry != nil {
		registry, err = strconv.Atoi(state.Registry.HostPort(registryContainerPort))
	} else {
		registry, err = c.registryPort(ctx)
	}
	return Ports{InvoiceApp: invoiceApp, Registry: registry}, err
}

// checkImages fails if containers have this cluster's names but other images.
func (c *Cluster) checkImages(node, registry *docker.Container) error {
	if node != nil && node.Config.Image != c.NodeImage || registry != nil && registry.Config.Image != c.RegistryImage {
		return fmt.Errorf("container %s or %s exists but was not created by %s: choose another CLUSTER_NAME",
			c.Node, c.Registry, c.Command)
	}
	return nil
}

// Unfinished returns the path of a file that exists while the cluster is being created. If it is left over, the
// cluster is unusable.
func (c *Cluster) Unfinished() string { return filepath.Join(c.paths.Cache, c.Name+".unfinished") }

// LockFile returns the path of the lock that is held while the cluster is being changed.
func (c *Cluster) LockFile() string { return filepath.Join(c.paths.Cache, "cluster-"+c.Name+".lock") }

// Logs returns the folder for the logs of this cluster's steps.
func (c *Cluster) Logs() string { return filepath.Join(c.paths.Logs(), c.Name) }

// Tools returns the additional tools that this cluster needs.
func (c *Cluster) Tools() []string { return c.product.tools() }

// Kubectl returns a kubectl command for this cluster.
func (c *Cluster) Kubectl(ctx context.Context, args ...string) *exec.Cmd {
	return kubectl.Context(c.Context).Command(ctx, args...)
}
