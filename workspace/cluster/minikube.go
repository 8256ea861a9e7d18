package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"

	"example.com/invoices/workspace/process"
)

type minikube struct{ *Cluster }

func (m minikube) program() string { return "minikube" }

func (m minikube) file() string { return "ctlptl-minikube.yaml" }

func (m minikube) choose(ctx context.Context, d *definition) error {
	built, err := m.built(ctx)
	if err != nil {
		return err
	}
	other := "built"
	if built {
		other = "pulled"
	}
	removeMarked(d.cluster, other)
	flags, err := find(d.cluster, "minikube", "startFlags")
	if err != nil {
		return err
	}
	for prefix, value := range map[string]string{
		"--ports=":        fmt.Sprintf("127.0.0.1:%d:30081", m.InvoiceAppPort),
		"--mount-string=": m.Live + ":/live:ro",
	} {
		if err := setFlag(flags, prefix, value); err != nil {
			return err
		}
	}
	return nil
}

func setFlag(flags *yaml.Node, prefix, value string) error {
	for _, flag := range flags.Content {
		if strings.HasPrefix(flag.Value, prefix) {
			flag.Value = prefix + value
			return nil
		}
	}
	return fmt.Errorf("flag %s not found", prefix)
}

// built reports whether the node's image was built: the label of a pulled image is a name, with a slash, and that of a
// built one consists of hashes.
func (m minikube) built(ctx context.Context) (bool, error) {
	from, err := process.Output(process.Command(ctx, "docker", "image", "inspect",
		"--format", `{{index .Config.Labels "`+m.paths.InputsLabel()+`"}}`, m.NodeImage))
	return !strings.Contains(from, "/"), err
}

func (m minikube) environment(context.Context) []string { return nil }

func (m minikube) label() string { return "name.minikube.sigs.k8s.io=" + m.Name }

func (m minikube) tools() []string { return []string{"minikube"} }

func (m minikube) complete(ctx context.Context, step *process.Step) error {
	built, err := m.built(ctx)
	if err != nil {
		return err
	}
	if built { // kind itself applies the manifests in its node image
		if err := step.Run(process.Command(ctx, "docker", "exec", m.Node, "kubectl",
			"--kubeconfig", "/etc/kubernetes/admin.conf", "apply", "--filename", "/kind/manifests")); err != nil {
			return err
		}
	}
	// As with kind, the node uses the same image names as this machine.
	said, err := step.Output(m.Kubectl(ctx,
		"get", "configmap", "local-registry-hosting", "--namespace", "kube-public", "--output", "json"))
	if err != nil {
		return err
	}
	changed, err := withoutRuntimeHost([]byte(said))
	if err != nil {
		return err
	}
	replace := m.Kubectl(ctx, "replace", "--filename", "-")
	replace.Stdin = bytes.NewReader(changed)
	return step.Run(replace)
}

// withoutRuntimeHost removes the registry's name for container runtimes from a ConfigMap as defined by KEP-1755.
func withoutRuntimeHost(configMap []byte) ([]byte, error) {
	const key = "localRegistryHosting.v1"
	var object map[string]any
	if err := json.Unmarshal(configMap, &object); err != nil {
		return nil, err
	}
	data, _ := object["data"].(map[string]any)
	content, _ := data[key].(string)
	var hosting map[string]any
	if err := yaml.Unmarshal([]byte(content), &hosting); err != nil {
		return nil, fmt.Errorf("ConfigMap local-registry-hosting: %w", err)
	}
	if hosting == nil {
		return nil, fmt.Errorf("ConfigMap local-registry-hosting has no %s", key)
	}
	delete(hosting, "hostFromContainerRuntime")
	changed, err := yaml.Marshal(hosting)
	if err != nil {
		return nil, err
	}
	data[key] = string(changed)
	return json.Marshal(object)
}

// start starts the node. Its address is fixed, so the registry, which may have taken it, is disconnected first. The
// flags are those the node was created with, whatever defaults the user has set for new clusters.
func (m minikube) start(ctx context.Context, step *process.Step) error {
	version, err := m.version()
	if err != nil {
		return err
	}
	_ = step.Run(process.Command(ctx, "docker", "network", "disconnect", m.Network, m.Registry))
	if err := step.Run(process.Command(ctx, "minikube", "start", "--profile", m.Name, "--force", "--preload=false",
		"--cache-images=false", "--driver=docker", "--container-runtime=containerd",
		"--kubernetes-version="+version)); err != nil {
		return err
	}
	return step.Run(process.Command(ctx, "minikube", "update-context", "--profile", m.Name))
}

// version returns the Kubernetes version that the cluster was created with.
func (m minikube) version() (string, error) {
	path := filepath.Join(minikubeHome(), "profiles", m.Name, "config.json")
	data, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	var config struct {
		KubernetesConfig struct{ KubernetesVersion string }
	}
	if err := json.Unmarshal(data, &config); err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	return config.KubernetesConfig.KubernetesVersion, nil
}

// minikubeHome returns the folder in which minikube keeps its profiles.
func minikubeHome() string {
	home := os.Getenv("MINIKUBE_HOME")
	if home == "" {
		home, _ = os.UserHomeDir()
	}
	if filepath.Base(home) == ".minikube" {
		return home
	}
	return filepath.Join(home, ".minikube")
}

func (m minikube) stop(ctx context.Context, step *process.Step) error {
	return step.Run(process.Command(ctx, "minikube", "stop", "--profile", m.Name, "--keep-context-active"))
}

// delete deletes the profile, and restores the user's active profile, which minikube resets whenever it deletes one.
func (m minikube) delete(ctx context.Context) error {
	active, _ := process.Output(process.Command(ctx, "minikube", "config", "get", "profile"))
	err := process.Run(process.Command(ctx, "minikube", "delete", "--profile", m.Name))
	if active != "" && active != m.Name {
		err = errors.Join(err, process.Run(process.Command(ctx, "minikube", "config", "set", "profile", active)))
	}
	return err
}
