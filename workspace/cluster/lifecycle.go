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

// State holds the containers of a cluster, or nil for those that do not exist.
type State struct{ Node, Registry *docker.Container }

// State inspects the cluster's containers. It fails if containers with their names were created by something else.
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
			for network := range node.NetworkSettings.Networks { // ctlptl without our settings uses kind's shared network
				c.Network = network
			}
		}
	}
	if c.Environment == nil {
		c.Environment = append(c.product.environment(ctx), c.proxies()...)
	}
	return State{node, registry}, c.checkImages(node, registry)
}

// registryPort returns the port on localhost of a registry that is gone, from the node's configuration.
func (c *Cluster) registryPort(ctx context.Context) (int, error) {
	const folder = "/etc/containerd/certs.d"
	// docker cp recreates missing shared folders, which would then be owned by root.
	if err := c.makeLive(); err != nil {
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
			return 0, fmt.Errorf("%s in container %s has no registry on localhost: "+
				"%s did not create it or was interrupted", folder, c.Node, c.Command)
		} else if err != nil {
			return 0, err
		}
		if port, ours := strings.CutPrefix(path.Base(header.Name), "localhost:"); ours {
			return strconv.Atoi(port)
		}
	}
}

// Remove removes the cluster with all its data. It also removes the Docker objects of an incomplete cluster, which the
// product itself would leave behind.
func (c *Cluster) Remove(ctx context.Context, console *process.Console) error {
	console.Say("removing cluster %s ...", c.Name)
	// The registry comes first, because its network cannot be removed while it is connected.
	err := docker.Remove(ctx, "container", []string{"--all", "--filter", "name=^/" + c.Registry + "$"},
		"rm", "--force", "--volumes")
	// The product removes the context from the kubeconfig. If it is not installed, it has not added one.
	if process.Exists(c.product.program()) {
		err = errors.Join(err, c.WritingKubeconfig(ctx, console, func() error { return c.product.delete(ctx) }))
	}
	err = errors.Join(err,
		docker.Remove(ctx, "container", []string{"--all", "--filter", "label=" + c.product.label()},
			"rm", "--force", "--volumes"),
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

// Up creates or starts the cluster and its registry, as necessary.
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
	if err := c.makeLive(); err != nil { // or Docker would create it, owned by root
		return err
	}
	apply := func(ctx context.Context, step *process.Step) error { return c.apply(ctx, console, step, isNew) }
	if err := console.Step(ctx, "applying cluster "+c.Name+" and its registry", "ctlptl", apply); err != nil {
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

// startNode starts an existing node. It also restarts a running node that is not responding, because starting it was
// interrupted or changed its address, or one that no longer sees its shared folder, because that was removed.
func (c *Cluster) startNode(ctx context.Context, console *process.Console, state State) error {
	if state.Node == nil {
		return nil
	}
	if err := state.Node.Unpause(ctx, c.Node); err != nil {
		return err
	}
	if c.responding(ctx) {
		if c.Live == "" {
			return nil
		}
		err := c.FindLive(ctx, state.Node)
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, ErrNotShared):
			console.Say("note: %v", err)
			return nil
		}
		console.Say("the node no longer sees %s, which has been removed: restarting the node", c.Live)
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
	return console.Step(ctx, "waiting for the API server", "api", func(ctx context.Context, _ *process.Step) error {
		ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
		defer cancel()
		for !c.responding(ctx) {
			select {
			case <-ctx.Done():
				return errors.New("timed out")
			case <-time.After(time.Second):
			}
		}
		return nil
	})
}

func (c *Cluster) responding(ctx context.Context) bool {
	return process.Run(c.Kubectl(ctx, "--request-timeout", "5s", "get", "--raw", "/readyz")) == nil
}

func (c *Cluster) startRegistry(ctx context.Context, state State) error {
	switch registry := state.Registry; {
	case registry == nil:
		return nil
	case registry.Image != docker.ImageID(ctx, c.RegistryImage):
		// ctlptl would replace it, too, but leave its volume behind.
		return process.Run(process.Command(ctx, "docker", "rm", "--force", "--volumes", c.Registry))
	case registry.State.Status == "paused":
		return registry.Unpause(ctx, c.Registry)
	case registry.Running():
		return nil
	default:
		return process.Run(process.Command(ctx, "docker", "start", c.Registry))
	}
}

// apply runs ctlptl to create the registry and, if isNew, the cluster. For an existing cluster it applies only the
// registry: ctlptl would replace a cluster that is defined differently or is not responding, and delete its data.
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

// connectRegistry connects a recreated registry to the cluster's network.
func (c *Cluster) connectRegistry(ctx context.Context) error {
	state, err := c.State(ctx)
	if err != nil {
		return err
	}
	if state.Registry == nil {
		return fmt.Errorf("ctlptl did not create registry %s: see its log %s",
			c.Registry, filepath.Join(c.Logs(), "ctlptl.log"))
	}
	if _, connected := state.Registry.NetworkSettings.Networks[c.Network]; connected {
		return nil
	}
	return process.Run(process.Command(ctx, "docker", "network", "connect", c.Network, c.Registry))
}

// WritingKubeconfig runs a change of the user's kubeconfig under a lock, since the tools that change it do not share
// one. It preserves the user's current context.
func (c *Cluster) WritingKubeconfig(ctx context.Context, console *process.Console, change func() error) error {
	lock, err := console.Lock(ctx, filepath.Join(c.paths.Cache, "kubeconfig.lock"))
	if err != nil {
		return err
	}
	defer lock.Close()
	current, _ := process.Output(process.Command(ctx, "kubectl", "config", "current-context"))
	defer func() {
		if current != "" {
			// Even if this run is being interrupted.
			_ = process.Run(process.Command(context.WithoutCancel(ctx), "kubectl", "config", "use-context", current))
		}
	}()
	return change()
}

// Notes returns notes to print if an existing cluster is outdated.
func (c *Cluster) Notes(ctx context.Context, state State) []string {
	if state.Node == nil || state.Node.Image == docker.ImageID(ctx, c.NodeImage) {
		return nil
	}
	return []string{fmt.Sprintf("note: %s is newer than this cluster's node; %s --force updates it, but deletes the data",
		c.NodeImage, c.Deploy)}
}

// Look sets the ports of a cluster that may not exist. If live is set, the cluster has to run and not be in use by
// others, and Look also sets the folder that its node sees.
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
		return fmt.Errorf("there is no cluster %s: run %s to create it", c.Name, c.Deploy)
	}
	if status := state.Node.State.Status; status != "running" {
		return fmt.Errorf("cluster %s is not running (its node is %s): run %s to start it", c.Name, status, c.Deploy)
	}
	if err := c.refuseSecond(state); err != nil {
		return err
	}
	if err := c.FindLive(ctx, state.Node); err != nil {
		if errors.Is(err, ErrNotShared) {
			return fmt.Errorf("%w, because the folder was removed: run %s to fix this, no data is lost", err, c.Deploy)
		}
		return err
	}
	return c.AwaitNamespaces(ctx)
}

// AwaitNamespaces waits for the end of a `kubectl delete namespace`: until then nothing can be created in it, and what
// was applied before would be missing afterwards.
func (c *Cluster) AwaitNamespaces(ctx context.Context) error {
	get := []string{"get", "namespaces", "--ignore-not-found",
		`--output=jsonpath={.items[?(@.status.phase=="Terminating")].metadata.name}`, "platform"}
	for _, team := range c.paths.Services.Teams() {
		get = append(get, team.Name)
	}
	ending, err := process.Output(c.Kubectl(ctx, get...))
	if err != nil || ending == "" {
		return err
	}
	wait := append([]string{"wait", "--for=delete", "--timeout=3m", "namespace"}, strings.Fields(ending)...)
	if err := process.Run(c.Kubectl(ctx, wait...)); err != nil {
		return fmt.Errorf("the namespace %s is being deleted, which takes too long: see what is left in it, "+
			"or start over with %s --force: %w", ending, c.Deploy, err)
	}
	return nil
}
