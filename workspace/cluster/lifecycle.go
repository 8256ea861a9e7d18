package cluster

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"example.com/invoices/workspace/docker"
	"example.com/invoices/workspace/process"
)

// State is what there is of a cluster: nil is what is missing.
type State struct{ Node, Registry *docker.Container }

// State looks at what there is of the cluster. Containers of its names that were made by others are an error.
func (c *Cluster) State(ctx context.Context) (State, error) {
	node, err := docker.Inspect(ctx, c.Node)
	if err != nil {
		return State{}, err
	}
	registry, err := docker.Inspect(ctx, c.Registry)
	if err != nil {
		return State{}, err
	}
	c.Network = c.ownNetwork
	if node != nil {
		if _, own := node.NetworkSettings.Networks[c.ownNetwork]; !own {
			for network := range node.NetworkSettings.Networks { // made by ctlptl alone, it is in kind's, with others
				c.Network = network
			}
		}
	}
	if c.Environment == nil {
		c.Environment = append(c.product.environment(ctx), c.proxies()...)
	}
	return State{node, registry}, c.others(node, registry)
}

// registryPort is the port on localhost of a registry that is gone, as the node was told when it was made.
func (c *Cluster) registryPort(ctx context.Context) (int, error) {
	const folder = "/etc/containerd/certs.d"
	// To copy, Docker makes the folders that the node shares, if they are gone: they would be root's.
	if err := makeShared(c.Live); err != nil {
		return 0, err
	}
	files, err := process.Output(process.Command(ctx, "docker", "cp", c.Node+":"+folder, "-"))
	if err != nil {
		return 0, err
	}
	archive := tar.NewReader(strings.NewReader(files))
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return 0, fmt.Errorf("%s of the container %s names no registry on localhost: it was not made by ./deploy.sh, or not to its end", folder, c.Node)
		} else if err != nil {
			return 0, err
		}
		if port, ours := strings.CutPrefix(path.Base(header.Name), "localhost:"); ours {
			return strconv.Atoi(port)
		}
	}
}

// Remove removes the cluster and all that is in it. Docker is asked for what the product leaves, so that half a
// cluster goes away as well.
func (c *Cluster) Remove(ctx context.Context, console *process.Console) error {
	console.Say("removing cluster %s ...", c.Name)
	// The registry first: a network that it is in would be left behind.
	err := docker.Remove(ctx, "container", []string{"--all", "--filter", "name=^/" + c.Registry + "$"}, "rm", "--force", "--volumes")
	// The product takes the context out of the kubeconfig; where it is missing, it was never there to put one in.
	if process.Exists(c.Product) {
		err = errors.Join(err, c.WritingKubeconfig(ctx, console, func() error { return c.product.delete(ctx) }))
	}
	err = errors.Join(err,
		docker.Remove(ctx, "container", []string{"--all", "--filter", "label=" + c.product.label()}, "rm", "--force", "--volumes"),
		docker.Remove(ctx, "volume", []string{"--filter", "label=" + c.product.label()}, "rm"),
		docker.Remove(ctx, "network", []string{"--filter", "name=^" + c.ownNetwork + "$"}, "rm"),
		docker.Remove(ctx, "image", []string{"--filter", "label=go-live.context=" + c.Context}, "rm", "--force")) // tilt up's
	for _, path := range []string{c.Unfinished(), c.Live, c.Kubeconfigs} {
		err = errors.Join(err, os.RemoveAll(path))
	}
	return err
}

// Stop stops the cluster, which keeps its data.
func (c *Cluster) Stop(ctx context.Context, console *process.Console, state State) error {
	if err := state.Node.Unpause(ctx, c.Node); err != nil {
		return err
	}
	if state.Node.Running() {
		if err := console.Step(ctx, "stopping cluster "+c.Name, "stop", c.product.stop); err != nil {
			return err
		}
	}
	return docker.Remove(ctx, "container", []string{"--filter", "name=^/" + c.Registry + "$"}, "stop")
}

// Up makes what is missing of the cluster, and starts what does not run.
func (c *Cluster) Up(ctx context.Context, console *process.Console, state State) error {
	if err := c.startNode(ctx, console, state); err != nil {
		return err
	}
	if err := c.startRegistry(ctx, state); err != nil {
		return err
	}
	isNew := state.Node == nil
	if isNew {
		if err := os.WriteFile(c.Unfinished(), nil, 0o644); err != nil {
			return err
		}
	}
	if err := makeShared(c.Live); err != nil { // or Docker makes it, and it is root's
		return err
	}
	apply := func(ctx context.Context, step *process.Step) error { return c.apply(ctx, console, step, isNew) }
	if err := console.Step(ctx, "cluster "+c.Name+" and its registry", "ctlptl", apply); err != nil {
		return err
	}
	if err := c.connectRegistry(ctx); err != nil {
		return err
	}
	if err := console.Step(ctx, "waiting for the node", "node", func(ctx context.Context, step *process.Step) error {
		return step.Run(c.Kubectl(ctx, "wait", "node", "--all", "--for=condition=Ready", "--timeout=180s"))
	}); err != nil {
		return err
	}
	return os.RemoveAll(c.Unfinished())
}

// startNode starts a node that is there. It may run, and not answer: starting it was interrupted, or has given it
// another address than this kubeconfig knows. Or the folder that it shares was removed meanwhile.
func (c *Cluster) startNode(ctx context.Context, console *process.Console, state State) error {
	if state.Node == nil {
		return nil
	}
	if err := state.Node.Unpause(ctx, c.Node); err != nil {
		return err
	}
	if c.answers(ctx) {
		err := c.FindLive(ctx, state.Node)
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, ErrNotShared):
			console.Say("note: %v", err)
			return nil
		}
		console.Say("the node does not see %s any more, which was removed meanwhile: it starts again", c.Live)
		if err := console.Step(ctx, "stopping "+c.Node, "stop", c.product.stop); err != nil {
			return err
		}
	}
	start := func(ctx context.Context, step *process.Step) error {
		return c.WritingKubeconfig(ctx, console, func() error { return c.product.start(ctx, step) })
	}
	if err := console.Step(ctx, "starting "+c.Node, "start", start); err != nil {
		return err
	}
	return console.Step(ctx, "waiting for the cluster to answer", "api", func(ctx context.Context, _ *process.Step) error {
		ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
		defer cancel()
		for !c.answers(ctx) {
			select {
			case <-ctx.Done():
				return errors.New("it does not answer")
			case <-time.After(time.Second):
			}
		}
		return nil
	})
}

func (c *Cluster) answers(ctx context.Context) bool {
	return process.Run(c.Kubectl(ctx, "--request-timeout", "5s", "get", "--raw", "/readyz")) == nil
}

func (c *Cluster) startRegistry(ctx context.Context, state State) error {
	switch registry := state.Registry; {
	case registry == nil:
		return nil
	case registry.Image != docker.ImageID(ctx, RegistryImage):
		// ctlptl would replace it as well, but leave its volume behind.
		return process.Run(process.Command(ctx, "docker", "rm", "--force", "--volumes", c.Registry))
	case registry.State.Status == "paused":
		return registry.Unpause(ctx, c.Registry)
	case registry.Running():
		return nil
	default:
		return process.Run(process.Command(ctx, "docker", "start", c.Registry))
	}
}

// apply lets ctlptl make the registry and, where isNew, the cluster. A cluster that is defined otherwise, or does not
// answer, ctlptl would replace, with all its data: of one that is there, it only looks after the registry.
func (c *Cluster) apply(ctx context.Context, console *process.Console, step *process.Step, isNew bool) error {
	data, err := c.Definition(ctx, isNew)
	if err != nil {
		return err
	}
	path := filepath.Join(c.Logs(), "ctlptl.yaml")
	if err := os.WriteFile(path, data, 0o644); err != nil {
		return err
	}
	return c.WritingKubeconfig(ctx, console, func() error {
		apply := process.Command(ctx, "ctlptl", "apply", "-f", path)
		apply.Env = append(os.Environ(), c.Environment...)
		if err := step.Run(apply); err != nil || !isNew {
			return err
		}
		return c.product.complete(ctx, step)
	})
}

// connectRegistry connects a registry that had to be made anew, and is not in the cluster's network.
func (c *Cluster) connectRegistry(ctx context.Context) error {
	state, err := c.State(ctx)
	if err != nil {
		return err
	}
	if state.Registry == nil {
		return fmt.Errorf("ctlptl has made no registry %s: its log is %s", c.Registry, filepath.Join(c.Logs(), "ctlptl.log"))
	}
	if _, connected := state.Registry.NetworkSettings.Networks[c.Network]; connected {
		return nil
	}
	return process.Run(process.Command(ctx, "docker", "network", "connect", c.Network, c.Registry))
}

// WritingKubeconfig does what changes the user's kubeconfig. Each tool has a lock of its own for it, and heeds no
// other's: so it is one run at a time. The user's current context is the same afterwards.
func (c *Cluster) WritingKubeconfig(ctx context.Context, console *process.Console, change func() error) error {
	lock, err := console.Lock(ctx, filepath.Join(c.paths.Cache, "kubeconfig.lock"))
	if err != nil {
		return err
	}
	defer lock.Close()
	current, _ := process.Output(process.Command(ctx, "kubectl", "config", "current-context"))
	defer func() {
		if current != "" {
			// Also when this run is being ended.
			_ = process.Run(process.Command(context.WithoutCancel(ctx), "kubectl", "config", "use-context", current))
		}
	}()
	return change()
}

// Notes are what is to be said of a cluster that is there and could be newer.
func (c *Cluster) Notes(ctx context.Context, state State) []string {
	if state.Node == nil || state.Node.Image == docker.ImageID(ctx, c.NodeImage) {
		return nil
	}
	return []string{fmt.Sprintf("note: %s is newer than this cluster's node; %s --force changes over, and loses the data", c.NodeImage, c.Deploy)}
}

// Look settles the ports of a cluster that may be there, and where live, which folder its node sees.
func (c *Cluster) Look(ctx context.Context, asked Ports, live bool) error {
	state, err := c.State(ctx)
	if err != nil {
		return err
	}
	if c.Architecture, err = docker.Version(ctx, "{{.Server.Arch}}"); err != nil {
		return err
	}
	if err := c.UsePorts(ctx, state, asked); err != nil || !live {
		return err
	}
	if state.Node == nil {
		return fmt.Errorf("there is no cluster %s: %s makes it", c.Name, c.Deploy)
	}
	if err := c.FindLive(ctx, state.Node); err != nil {
		if errors.Is(err, ErrNotShared) {
			return fmt.Errorf("%w, since that was removed: %s mends it, and loses nothing", err, c.Deploy)
		}
		return err
	}
	return nil
}
