package doctor

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"example.com/invoices/workspace/docker"
	"example.com/invoices/workspace/process"
)

func lookAtDocker(ctx context.Context, _ machine) Finding {
	const install = "to install it, see https://docs.docker.com/engine/install"
	if !process.Exists("docker") {
		return Finding{Bad, "Docker", "docker is not on PATH", install}
	}
	version, err := docker.Version(ctx, "{{.Server.Version}} {{.Server.Os}}/{{.Server.Arch}}")
	if err == nil {
		return Finding{Fine, "Docker", version + " is running", ""}
	}
	f := Finding{Bad, "Docker", fmt.Sprintf("Docker is not responding: %v", err),
		"start it: sudo systemctl start docker, or open Docker Desktop"}
	if strings.Contains(err.Error(), "permission denied") {
		f.Do = `sudo usermod --append --groups docker "$USER"   # then log in again, or run: newgrp docker`
	}
	return f
}

// lookAtCredentials looks for a missing credential helper, for example one left behind by Docker Desktop: Docker runs
// it before every pull, even if no login is needed.
func lookAtCredentials(context.Context, machine) Finding {
	config, err := docker.ReadConfig()
	if err != nil {
		return Finding{Note, "logins", err.Error(), "fix or remove that file"}
	}
	if helper := config.MissingHelper(); helper != "" {
		return Finding{Note, "logins",
			fmt.Sprintf("%s refers to %s, which is not on PATH: pulling images will fail", config.Path, helper),
			"remove that line from the file: nothing here needs a login"}
	}
	return Finding{Fine, "logins", "not needed", ""}
}

// engine is the part of docker info that is checked.
type engine struct {
	DockerRootDir   string
	SecurityOptions []string
	MemTotal        int64
	Driver          string
}

func info(ctx context.Context) (engine, error) {
	said, err := process.Output(process.Command(ctx, "docker", "info", "--format", "{{json .}}"))
	if err != nil {
		return engine{}, err
	}
	var e engine
	return e, json.Unmarshal([]byte(said), &e)
}

func lookAtEngine(_ context.Context, m machine) Finding {
	e, err := m.engine()
	if err != nil {
		return Finding{Bad, "engine", err.Error(), ""}
	}
	options := strings.Join(e.SecurityOptions, " ")
	switch {
	case strings.Contains(options, "name=rootless"):
		return Finding{Note, "engine", "Docker runs without root (rootless)",
			"a cluster then needs delegated control groups: https://kind.sigs.k8s.io/docs/user/rootless"}
	case strings.Contains(options, "name=userns") && m.cluster.Product == "minikube":
		return Finding{Bad, "engine", "Docker remaps users (userns-remap), which minikube does not support",
			"use kind instead: ./deploy.sh --product kind"}
	}
	return Finding{Fine, "engine", "storage driver " + e.Driver, ""}
}

func lookAtMemory(_ context.Context, m machine) Finding {
	const gibibyte = 1 << 30
	e, err := m.engine()
	if err != nil {
		return Finding{}
	}
	f := Finding{Fine, "memory", fmt.Sprintf("%.1f GiB for containers", float64(e.MemTotal)/gibibyte), ""}
	if e.MemTotal < 3*gibibyte {
		f.Level, f.Do = Note, "a cluster with the services needs about 2 GiB, and building its images 4 GiB: "+
			"give Docker's virtual machine more memory"
	}
	return f
}

// lookAtContainers checks that a container starts and can see the clone, using an image that every cluster needs.
func lookAtContainers(ctx context.Context, m machine) Finding {
	if m.cluster.Live == "" { // no container mounts the clone
		return Finding{}
	}
	image := m.Image("postgres")
	if docker.ImageID(ctx, image) == "" {
		return Finding{Note, "containers", "not checked: there are no images yet",
			"./deploy.sh gets the images and then checks"}
	}
	if err := os.MkdirAll(m.cluster.Live, 0o755); err != nil {
		return Finding{Bad, "containers", err.Error(), ""}
	}
	mark, err := os.CreateTemp(m.cluster.Live, ".seen-")
	if err != nil {
		return Finding{Bad, "containers", err.Error(), ""}
	}
	defer os.Remove(mark.Name())
	_ = mark.Close()
	said, err := process.Output(process.Command(ctx, "docker", "run", "--rm", "--pull", "never", "--network", "none",
		"--user", "0", "--volume", m.cluster.Live+":/live:ro", "--entrypoint", "ls", image, "-A", "/live"))
	switch {
	case err != nil:
		return Finding{Bad, "containers", "a container that mounts a folder of this clone does not start: " + err.Error(),
			"share the clone with Docker (in its settings, \"File sharing\"), or move the clone"}
	case !strings.Contains(said, filepath.Base(mark.Name())):
		return Finding{Bad, "containers", "containers cannot see the folder " + m.cluster.Live +
			": Docker runs on another machine, or has no access to it (snap)",
			"use the Docker of this machine (docker context use default; unset DOCKER_HOST), " +
				"or move the clone to where Docker has access"}
	}
	return Finding{Fine, "containers", "can see the clone", ""}
}

// lookAtNftables checks that nftables, which kube-proxy needs, work with the nft program in the node image.
func lookAtNftables(ctx context.Context, m machine) Finding {
	if docker.ImageID(ctx, m.cluster.NodeImage) == "" {
		return Finding{}
	}
	err := process.Run(process.Command(ctx, "docker", "run", "--rm", "--pull", "never", "--network", "none",
		"--privileged", "--entrypoint", "nft", m.cluster.NodeImage, "add", "table", "inet", "doctor"))
	switch {
	case err == nil:
		return Finding{Fine, "nftables", "supported by the kernel", ""}
	case strings.Contains(err.Error(), "apply caps"):
		return Finding{Note, "nftables", "not checked: Docker cannot start privileged containers here",
			"./deploy.sh works around it"}
	}
	return Finding{Bad, "nftables", "the kernel does not support what kube-proxy needs: " + err.Error(),
		"sudo modprobe nf_tables, or use another kernel"}
}
