package cluster

import (
	"context"
	"errors"
	"path"
	"strconv"

	"example.com/invoices/workspace/process"
)

type kind struct {
	*Cluster
	definition string   // the name of the ctlptl file
	workers    []string // the containers of the nodes that are not the control plane
}

func (k kind) program() string { return "kind" }

func (k kind) file() string { return k.definition }

func (k kind) choose(_ context.Context, d *definition) error {
	node := []any{"kindV1Alpha4Cluster", "nodes", 0}
	err := set(d.cluster, strconv.Itoa(k.InvoiceAppPort), append(node, "extraPortMappings", 0, "hostPort")...)
	if k.Live == "" {
		return err
	}
	// The path is relative to kind's working directory, which is the clone.
	return errors.Join(err,
		set(d.cluster, path.Join(".build/live", k.Name), append(node, "extraMounts", 0, "hostPath")...))
}

func (k kind) environment(ctx context.Context) []string {
	set := []string{"KIND_EXPERIMENTAL_DOCKER_NETWORK=" + k.ownNetwork}
	// With this storage driver kind would switch the node to a snapshotter that needs another program. The default
	// works, because the node's data is on a volume.
	if driver, _ := process.Output(process.Command(ctx, "docker", "info",
		"--format", "{{.Driver}}")); driver == "fuse-overlayfs" {
		set = append(set, "KIND_EXPERIMENTAL_CONTAINERD_SNAPSHOTTER=overlayfs")
	}
	return set
}

func (k kind) label() string { return "io.x-k8s.kind.cluster=" + k.Name }

func (k kind) tools() []string {
	if k.workers != nil {
		return []string{"production"}
	}
	return nil
}

func (k kind) complete(context.Context, *process.Step) error { return nil }

func (k kind) start(ctx context.Context, step *process.Step) error {
	start := append([]string{"start", k.Node}, k.workers...)
	if err := step.Run(process.Command(ctx, "docker", start...)); err != nil {
		return err
	}
	return step.Run(process.Command(ctx, "kind", "export", "kubeconfig", "--quiet", "--name", k.Name))
}

// stop kills the nodes after ten seconds, which is like a power cut for the databases, and safe: systemd would wait 90
// seconds for the pods' processes.
func (k kind) stop(ctx context.Context, step *process.Step) error {
	return step.Run(process.Command(ctx, "docker", append([]string{"stop", k.Node}, k.workers...)...))
}

func (k kind) delete(ctx context.Context) error {
	return process.Run(process.Command(ctx, "kind", "delete", "cluster", "--quiet", "--name", k.Name))
}
