// Package deploy sets up a cluster from scratch and deploys to it: the Tiltfile's resources, or production.
package deploy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"example.com/invoices/workspace/cluster"
	"example.com/invoices/workspace/docker"
	"example.com/invoices/workspace/doctor"
	"example.com/invoices/workspace/paths"
	"example.com/invoices/workspace/process"
)

// Deployment is one run of ./deploy.sh or workspace/run production.
type Deployment struct {
	Paths   paths.Paths
	Cluster *cluster.Cluster
	Console *process.Console
	Ports   cluster.Ports
	// Prepare provides tools and images. It takes minutes on a new machine.
	Prepare func(context.Context) error
	Out     io.Writer // for Tilt's output

	lock *process.Lock // held until the process ends
}

// begin takes the cluster's lock and returns the cluster's state.
func (d *Deployment) begin(ctx context.Context) (cluster.State, error) {
	c := d.Cluster
	var err error
	if d.lock, err = process.TryLock(c.LockFile()); err != nil {
		return cluster.State{}, err
	}
	if d.lock == nil {
		return cluster.State{}, fmt.Errorf("another %s is running for cluster %s: wait for it, or stop it",
			c.Command, c.Name)
	}
	if err := doctor.Docker(ctx); err != nil {
		return cluster.State{}, err
	}
	// By default ctlptl requests the newest API version, which older engines do not support.
	version, err := docker.Version(ctx, "{{.Server.APIVersion}}")
	if err != nil {
		return cluster.State{}, err
	}
	if err := os.Setenv("DOCKER_API_VERSION", version); err != nil {
		return cluster.State{}, err
	}
	state, err := c.State(ctx)
	// minikube's API server is reached by the node's address, which a proxy cannot reach.
	for _, variable := range c.Environment {
		if name, value, _ := strings.Cut(variable, "="); strings.EqualFold(name, "NO_PROXY") {
			err = errors.Join(err, os.Setenv(name, value))
		}
	}
	return state, err
}

// Stop stops the cluster, which keeps its data.
func (d *Deployment) Stop(ctx context.Context) error {
	state, err := d.begin(ctx)
	if err != nil {
		return err
	}
	if state.Node == nil {
		d.Console.Say("there is no cluster %s", d.Cluster.Name)
		return nil
	}
	d.sayWhoRuns(state)
	if err := d.Cluster.Stop(ctx, d.Console, state); err != nil {
		return err
	}
	d.Console.Say("cluster %s is stopped: %s starts it again, with its data", d.Cluster.Name, d.Cluster.Deploy)
	return nil
}

// Destroy removes the cluster with all its data.
func (d *Deployment) Destroy(ctx context.Context) error {
	state, err := d.begin(ctx)
	if err != nil {
		return err
	}
	d.sayWhoRuns(state)
	if err := d.Cluster.Remove(ctx, d.Console); err != nil {
		return err
	}
	d.Console.Say("cluster %s is removed; its images are kept for the next time", d.Cluster.Name)
	return nil
}

// sayWhoRuns mentions a running `tilt up`, for which the cluster is about to vanish.
func (d *Deployment) sayWhoRuns(state cluster.State) {
	if running, _ := d.Cluster.TiltUp(state); running != nil {
		d.Console.Say("note: %v is still running on this cluster: stop it with Ctrl-C", running)
	}
}

// Deploy creates or starts the cluster and deploys to it. If fromScratch, it removes an existing cluster first.
func (d *Deployment) Deploy(ctx context.Context, fromScratch bool) error {
	c := d.Cluster
	if err := d.up(ctx, fromScratch); err != nil {
		return err
	}
	if err := d.tilt(ctx); err != nil {
		return err
	}
	list := d.Paths.Services
	public := list.Public().Name
	others := slices.DeleteFunc(list.Names(), func(name string) bool { return name == public })
	teams := list.Teams()
	d.Console.Say(`
%[6]s is available at %[1]s, %[7]s only inside the cluster. Next:
  export PATH="$(workspace/run tools):$PATH"
  kubectl --context %[2]s get pods --all-namespaces
  kubectl --kubeconfig %[3]s/%[8]s get pods       with that team's permissions
  %[4]stilt up --context %[2]s       with live updates
  %[5]s --stop, or --destroy`,
		c.InvoiceAppURL, c.Context, d.shown(c.Kubeconfigs), c.Named, c.Deploy,
		public, strings.Join(others, " and "), teams[len(teams)-1].Group())
	return nil
}

// up creates or starts the cluster. If fromScratch, it removes an existing cluster first.
func (d *Deployment) up(ctx context.Context, fromScratch bool) error {
	c := d.Cluster
	state, err := d.begin(ctx)
	if err != nil {
		return err
	}
	running, err := c.TiltUp(state)
	if err != nil {
		return err
	}
	if running != nil {
		return fmt.Errorf("%v is running on cluster %s, and %s would replace what it runs: stop it with Ctrl-C first, "+
			"or deploy to another cluster: CLUSTER_NAME=other ./deploy.sh", running, c.Name, c.Deploy)
	}
	if err := doctor.Quick(ctx, d.Console, d.Paths, c); err != nil {
		return err
	}
	_, statErr := os.Stat(c.Unfinished())
	if unfinished := statErr == nil; fromScratch || unfinished {
		if unfinished && !fromScratch {
			d.Console.Say("the last run was interrupted while creating the cluster: starting over")
		}
		if err := c.Remove(ctx, d.Console); err != nil {
			return err
		}
		if state, err = c.State(ctx); err != nil {
			return err
		}
	}
	if err := c.UsePorts(ctx, state, d.Ports); err != nil {
		return err
	}
	if err := d.checkPorts(ctx, state); err != nil {
		return err
	}
	if err := d.Prepare(ctx); err != nil {
		return err
	}
	if state.Node == nil {
		if err := doctor.Try(ctx, d.Console, d.Paths, c); err != nil {
			return err
		}
	}
	for _, note := range c.Notes(ctx, state) {
		d.Console.Say("%s", note)
	}
	if err := c.Up(ctx, d.Console, state); err != nil {
		return err
	}
	return c.AwaitNamespaces(ctx)
}

// shown returns a path for display, relative to the current folder if it is inside.
func (d *Deployment) shown(path string) string {
	if folder, err := os.Getwd(); err == nil {
		if relative, err := filepath.Rel(folder, path); err == nil && !strings.HasPrefix(relative, "..") {
			return process.Quote(relative)
		}
	}
	return process.Quote(path)
}

// checkPorts makes sure that the ports of containers that are not running are free. The error lists all ports in use,
// and suggests a free one for each.
func (d *Deployment) checkPorts(ctx context.Context, state cluster.State) error {
	var used, free string
	for _, port := range []struct {
		variable  string
		number    int
		container *docker.Container
	}{
		{d.Cluster.PortVariable, d.Cluster.InvoiceAppPort, state.Node},
		{"REGISTRY_PORT", d.Cluster.RegistryPort, state.Registry},
	} {
		if port.container.Running() || !inUse(port.number) {
			continue
		}
		used += fmt.Sprintf("port %d is in use", port.number)
		if by, _ := process.Output(process.Command(ctx, "docker", "ps",
			"--filter", fmt.Sprintf("publish=%d", port.number), "--format", "{{.Names}}")); by != "" {
			used += " by the container " + strings.Join(strings.Fields(by), ", ")
		}
		used += "; "
		other := port.number + 1
		for inUse(other) {
			other++
		}
		free += fmt.Sprintf("%s=%d ", port.variable, other)
	}
	switch {
	case used == "":
		return nil
	case state.Node != nil:
		return fmt.Errorf("%scluster %s was created with it: stop the program that uses it", used, d.Cluster.Name)
	default:
		return fmt.Errorf("%sstop the program that uses it, or choose another port:\n  %s%s", used, free, d.Cluster.Deploy)
	}
}

func inUse(port int) bool {
	connection, err := net.DialTimeout("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), time.Second)
	if err != nil {
		return false
	}
	_ = connection.Close()
	return true
}

// tilt runs tilt ci.
func (d *Deployment) tilt(ctx context.Context) error {
	c := d.Cluster
	if err := os.MkdirAll(c.Evidence, 0o755); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(c.Evidence, "tilt-ci.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	// Tilt names the kubeconfig for the Tiltfile's commands after its port, so concurrent runs need different ports.
	// With port 0 they would all use the same name. From 32768 on, Linux gives ports to outgoing connections.
	port := 0
	for port == 0 || inUse(port) {
		port = 20000 + rand.N(12768)
	}

	d.Console.Say("deploying the Tiltfile's resources ...")
	tilt := process.Command(ctx, "tilt", "ci", "--context", c.Context, "--port", strconv.Itoa(port),
		"--output-snapshot-on-exit", filepath.Join(c.Evidence, "tilt-snapshot.json"))
	tilt.Env = append(os.Environ(), "DO_NOT_TRACK=1", "TILT_CLOUD_ADDRESS=localhost:1")
	tilt.Stdout = io.MultiWriter(d.Out, log)
	tilt.Stderr = tilt.Stdout

	waiting, stop := context.WithCancel(ctx)
	defer stop()
	go d.heartbeat(waiting)
	if err := process.Run(tilt); err != nil {
		stop()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		d.Console.Say("tilt ci failed. Diagnostics of the pods that are not ready follow; see %s for the rest",
			d.shown(c.Evidence))
		d.collectEvidence(ctx)
		return fmt.Errorf("deploying failed: see above, and %s. Fix the cause and run %s again; %[2]s --force starts over",
			d.shown(c.Evidence), c.Deploy)
	}
	return nil
}
