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
	const install = "https://docs.docker.com/engine/install says how to install it"
	if !process.Exists("docker") {
		return Finding{Bad, "Docker", "the command docker is not on PATH", install}
	}
	version, err := docker.Version(ctx, "{{.Server.Version}} {{.Server.Os}}/{{.Server.Arch}}")
	if err == nil {
		return Finding{Fine, "Docker", version + " answers", ""}
	}
	f := Finding{Bad, "Docker", fmt.Sprintf("Docker does not answer: %v", err),
		"is it installed, and running? sudo systemctl start docker, or start Docker Desktop"}
	if strings.Contains(err.Error(), "permission denied") {
		f.Do = `sudo usermod --append --groups docker "$USER"   # then log in anew, or: newgrp docker`
	}
	return f
}

// lookAtCredentials looks for a helper that is not there: Docker asks it before every pull, also where no login is
// needed. It is left behind by Docker Desktop, say.
func lookAtCredentials(context.Context, machine) Finding {
	config, err := docker.ReadConfig()
	if err != nil {
		return Finding{Note, "logins", err.Error(), "mend that file, or move it away"}
	}
	if helper := config.MissingHelper(); helper != "" {
		return Finding{Note, "logins", fmt.Sprintf("%s names %s, which is not on PATH: no image can be pulled", config.Path, helper),
			"take that line out of the file: nothing here needs a login"}
	}
	return Finding{Fine, "logins", "none is needed", ""}
}

// engine is what docker info says.
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
			"a cluster needs its control groups delegated then: https://kind.sigs.k8s.io/docs/user/rootless"}
	case strings.Contains(options, "name=userns") && m.cluster.Product == "minikube":
		return Finding{Bad, "engine", "Docker maps its containers' users (userns-remap), which minikube cannot do with",
			"./deploy.sh --product kind can"}
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
		f.Level, f.Do = Note, "a cluster with both services takes about 2 GiB, and building its images 4 GiB: give Docker's virtual machine more"
	}
	return f
}

// lookAtContainers tries what a cluster needs of a container, with an image that is there in any case.
func lookAtContainers(ctx context.Context, m machine) Finding {
	const image = "invoices/postgres:local"
	if docker.ImageID(ctx, image) == "" {
		return Finding{Note, "containers", "not tried: there are no images yet", "./deploy.sh gets them, and tries then"}
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
		return Finding{Bad, "containers", "a container with a folder of this clone in it does not start: " + err.Error(),
			"share the clone with Docker (its settings, \"File sharing\"), or put the clone elsewhere"}
	case !strings.Contains(said, filepath.Base(mark.Name())):
		return Finding{Bad, "containers", "a container does not see the folder " + m.cluster.Live + ": Docker runs on another machine, or is not allowed to look there (snap)",
			"use a Docker of this machine (docker context use default; unset DOCKER_HOST), or put the clone where it may look"}
	}
	return Finding{Fine, "containers", "they see the clone", ""}
}

// lookAtNftables tries what kube-proxy does, with the node's own program.
func lookAtNftables(ctx context.Context, m machine) Finding {
	if docker.ImageID(ctx, m.cluster.NodeImage) == "" {
		return Finding{}
	}
	err := process.Run(process.Command(ctx, "docker", "run", "--rm", "--pull", "never", "--network", "none", "--privileged",
		"--entrypoint", "nft", m.cluster.NodeImage, "add", "table", "inet", "doctor"))
	switch {
	case err == nil:
		return Finding{Fine, "nftables", "the kernel has them", ""}
	case strings.Contains(err.Error(), "apply caps"):
		return Finding{Note, "nftables", "not tried: Docker refuses privileged containers here", "./deploy.sh works around it"}
	}
	return Finding{Bad, "nftables", "the kernel lacks what kube-proxy needs: " + err.Error(), "sudo modprobe nf_tables, or another kernel"}
}
