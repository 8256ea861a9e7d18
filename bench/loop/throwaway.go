package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// airProgram compiles and restarts a program on each save, without a cluster.
const airProgram = "github.com/air-verse/air@v1.67.4"

// cluster is the workspace's description of the temporary cluster: see workspace/cluster.
type cluster struct {
	Product      string `json:"product"`
	Name         string `json:"name"`
	Context      string `json:"context"`
	Node         string `json:"node"`
	RegistryPort int    `json:"registry_port"`
	Live         string `json:"live"`
	Images       string `json:"images"`
	Services     []struct {
		Name string `json:"name"`
		Team string `json:"team"`
		Port int    `json:"port"`
	} `json:"services"`
}

// live returns a service as go_live deploys it.
func (c cluster) live(name string) *service {
	for _, s := range c.Services {
		if s.Name == name {
			return &service{name: name, namespace: s.Team, port: strconv.Itoa(s.Port), built: filepath.Join(c.Live, name, name)}
		}
	}
	return nil
}

// makeCluster creates a temporary cluster, and compiles the programs for the wanted ways and adds them to PATH. remove
// removes the cluster.
func makeCluster(ctx context.Context, root string, wanted []string) (c cluster, remove func() error, err error) {
	for name, value := range map[string]string{
		"CLUSTER_PRODUCT": "kind", "CLUSTER_NAME": "workspace-bench", "INVOICE_APP_PORT": "28081", "REGISTRY_PORT": "25005",
	} {
		if err := os.Setenv(name, cmp.Or(os.Getenv(name), value)); err != nil {
			return c, nil, err
		}
	}
	deploy := filepath.Join(root, "deploy.sh")
	remove = func() error {
		return errors.Join(do(context.WithoutCancel(ctx), root, deploy, "--destroy"), removeImages(c.RegistryPort))
	}
	if err := do(ctx, root, deploy); err != nil {
		return c, remove, err
	}
	workspace := filepath.Join(root, "workspace/run")
	tools, err := output(workspace, "tools")
	if err != nil {
		return c, remove, err
	}
	said, err := output(workspace, "describe", "--json", "--live")
	if err != nil {
		return c, remove, err
	}
	if err := json.Unmarshal([]byte(said), &c); err != nil {
		return c, remove, err
	}
	programs := filepath.Join(root, ".build/bench")
	if slices.Contains(wanted, "skaffold") {
		fmt.Fprintln(os.Stderr, "compiling skaffold (only the first time) ...")
		if err := do(ctx, filepath.Join(root, "tools/skaffold"), "go", "build", "-trimpath", "-ldflags=-s -w",
			"-o", programs+"/", "github.com/GoogleContainerTools/skaffold/v2/cmd/skaffold"); err != nil {
			return c, remove, err
		}
	}
	if slices.Contains(wanted, "air") {
		if err := do(ctx, root, "env", "GOBIN="+programs, "go", "install", airProgram); err != nil {
			return c, remove, err
		}
	}
	if err := do(ctx, filepath.Join(root, "bench"), "go", "build", "-trimpath", "-buildvcs=false",
		"-o", programs+"/", "./compile"); err != nil {
		return c, remove, err
	}
	watcher := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-o", programs+"/", "./watcher")
	watcher.Dir = filepath.Join(root, "bench")
	watcher.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux") // it runs on the node
	if text, err := watcher.CombinedOutput(); err != nil {
		return c, remove, fmt.Errorf("%v: %w\n%s", watcher.Args, err, text)
	}
	list := string(os.PathListSeparator)
	return c, remove, os.Setenv("PATH", programs+list+tools+list+os.Getenv("PATH"))
}

// removeImages removes the images that were pushed to the cluster's registry.
func removeImages(registryPort int) error {
	ids, err := output("docker", "image", "ls", "--quiet", fmt.Sprintf("localhost:%d/*", registryPort))
	if err != nil || ids == "" {
		return err
	}
	_, err = output("docker", append([]string{"rmi", "--force"}, strings.Fields(ids)...)...)
	return err
}

// do runs a command that reports its own progress.
func do(ctx context.Context, folder, name string, args ...string) error {
	command := exec.CommandContext(ctx, name, args...)
	command.Cancel = func() error { return command.Process.Signal(syscall.SIGTERM) }
	command.Dir = folder
	command.Stdout, command.Stderr = io.Writer(os.Stderr), os.Stderr
	if err := command.Run(); err != nil {
		return fmt.Errorf("%v: %w", command.Args, err)
	}
	return nil
}
