package cluster

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"example.com/invoices/workspace/docker"
	"example.com/invoices/workspace/paths"
	"example.com/invoices/workspace/process"
	"example.com/invoices/workspace/processtest"
	"example.com/invoices/workspace/services"
)

func TestMain(m *testing.M) { processtest.Main(m) }

// where returns this clone's paths with a temporary cache.
func where(t *testing.T) paths.Paths {
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	list, err := services.Read(root)
	require.NoError(t, err)
	return paths.Paths{Root: root, Cache: t.TempDir(), Services: list}
}

func newCluster(t *testing.T, product, name string) *Cluster {
	t.Helper()
	c, err := New(where(t), product, name)
	require.NoError(t, err)
	return c
}

func console(t *testing.T) (*process.Console, *bytes.Buffer) {
	var out bytes.Buffer
	return &process.Console{Out: &out, Logs: t.TempDir(), Every: time.Hour}, &out
}

func TestNames(t *testing.T) {
	for _, name := range []string{"", "A", "a b", "a/b", "-a", "minikube-a", "ä", "a;b", "a.b"} {
		_, err := New(where(t), "kind", name)
		require.ErrorContains(t, err, "CLUSTER_NAME="+name, "%q", name)
	}
	_, err := New(where(t), "k3d", "a")
	require.EqualError(t, err, `product "k3d" is invalid: must be kind or minikube`)

	kind, minikube := newCluster(t, "kind", "second"), newCluster(t, "minikube", "second")
	assert.Equal(t, "CLUSTER_NAME=second ./deploy.sh", kind.Deploy)
	assert.Equal(t, "CLUSTER_NAME=second ./deploy.sh --product minikube", minikube.Deploy)
	assert.Equal(t, "./deploy.sh", newCluster(t, "kind", where(t).Services.Product).Deploy)
	// The two clusters have no name in common.
	of := func(c *Cluster) []string {
		return []string{c.Name, c.Context, c.Node, c.Network, c.Registry, c.Live,
			c.Images, c.Kubeconfigs, c.Evidence, c.LockFile(), c.Unfinished(), c.Logs()}
	}
	for _, name := range of(kind) {
		assert.NotContains(t, of(minikube), name)
	}
}

func TestOfContext(t *testing.T) {
	for kubeContext, product := range map[string]string{"kind-a": "kind", "minikube-a": "minikube"} {
		c, err := OfContext(where(t), kubeContext, "a")
		require.NoError(t, err)
		assert.Equal(t, product, c.Product)
	}
	for _, kubeContext := range []string{"", "production", "kind-b", "kind-a-b", "minikube"} {
		_, err := OfContext(where(t), kubeContext, "a")
		require.ErrorContains(t, err,
			`this deploys to "kind-a" or "minikube-a" only, but the current Kubernetes context is "`+kubeContext+`"`)
	}
}

// decode returns the documents of a ctlptl file.
func decode(t *testing.T, data []byte) (registry, cluster map[string]any) {
	t.Helper()
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	require.NoError(t, decoder.Decode(&registry))
	require.NoError(t, decoder.Decode(&cluster))
	return registry, cluster
}

// Applying the clone's file by hand is equivalent to ./deploy.sh: ctlptl would replace a cluster that is defined
// differently, and delete its data.
func TestDefaultClusterMatchesFile(t *testing.T) {
	c := newCluster(t, "kind", where(t).Services.Product)
	require.NoError(t, c.UsePorts(t.Context(), State{}, Ports{}))
	data, err := c.Definition(t.Context(), true)
	require.NoError(t, err)
	file, err := os.ReadFile("../../ctlptl.yaml")
	require.NoError(t, err)

	registry, cluster := decode(t, data)
	registryOfFile, clusterOfFile := decode(t, file)
	assert.Equal(t, registryOfFile, registry)
	assert.Equal(t, clusterOfFile, cluster)

	alone, err := c.Definition(t.Context(), false)
	require.NoError(t, err)
	assert.NotContains(t, string(alone), "kind: Cluster")
}

func TestSecondClusterHasDifferentNamesAndPorts(t *testing.T) {
	c := newCluster(t, "kind", "a-b")
	require.NoError(t, c.UsePorts(t.Context(), State{}, Ports{InvoiceApp: 9081, Registry: 9005}))
	data, err := c.Definition(t.Context(), true)
	require.NoError(t, err)
	registry, cluster := decode(t, data)
	assert.Equal(t, "a-b-registry", registry["name"])
	assert.Equal(t, 9005, registry["port"])
	assert.Equal(t, "kind-a-b", cluster["name"])
	assert.Equal(t, "a-b-registry", cluster["registry"])
	assert.Contains(t, string(data), "- hostPort: 9081\n")
	assert.Contains(t, string(data), "- hostPath: .build/live/a-b\n")
	assert.Contains(t, string(data), "image: "+where(t).Image("node")+"\n")
}

func TestMinikubeDefinitionDependsOnImage(t *testing.T) {
	for label, want := range map[string]struct{ has, lacks []string }{
		"0123456789abcdef-go1.26": {[]string{"--cni=false", "kubernetesVersion: v", "--preload=false"},
			[]string{"--cni=calico"}},
		"gcr.io/k8s-minikube/kicbase:v0.0.50@sha256:0": {[]string{"--cni=calico"},
			[]string{"--cni=false", "kubernetesVersion", "--preload=false"}},
	} {
		t.Run(label, func(t *testing.T) {
			processtest.Put(t, "docker",
				func(processtest.Call) processtest.Answer { return processtest.Answer{Stdout: label + "\n"} })
			c := newCluster(t, "minikube", "a")
			c.Live = "/home/some body/ä&|/live"
			require.NoError(t, c.UsePorts(t.Context(), State{}, Ports{}))
			data, err := c.Definition(t.Context(), true)
			require.NoError(t, err)
			for _, part := range want.has {
				assert.Contains(t, string(data), part)
			}
			for _, part := range want.lacks {
				assert.NotContains(t, string(data), part)
			}
			_, cluster := decode(t, data)
			flags := cluster["minikube"].(map[string]any)["startFlags"]
			assert.Contains(t, flags, "--mount-string=/home/some body/ä&|/live:/live:ro")
			assert.Contains(t, flags, "--ports=127.0.0.1:8081:30081")
		})
	}
}

// node returns the output of docker container inspect for a node.
func node(t *testing.T, image, status string, binds ...string) string {
	t.Helper()
	data, err := json.Marshal([]any{map[string]any{
		"Image": "sha256:1", "State": map[string]any{"Status": status}, "Config": map[string]any{"Image": image},
		"HostConfig": map[string]any{
			"Binds":        binds,
			"PortBindings": map[string]any{"30081/tcp": []any{map[string]any{"HostPort": "18081"}}},
		},
		"Mounts":          []any{map[string]any{"Destination": "/live"}},
		"NetworkSettings": map[string]any{"Networks": map[string]any{"kind": map[string]any{}}},
	}})
	require.NoError(t, err)
	return string(data)
}

// registryFolder returns the output of docker cp for /etc/containerd/certs.d.
func registryFolder(t *testing.T, names ...string) string {
	t.Helper()
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, name := range names {
		require.NoError(t, w.WriteHeader(&tar.Header{Name: "certs.d/" + name + "/", Typeflag: tar.TypeDir, Mode: 0o755}))
	}
	require.NoError(t, w.Close())
	return archive.String()
}

func TestExistingClusterKeepsPorts(t *testing.T) {
	processtest.Put(t, "docker", func(call processtest.Call) processtest.Answer {
		switch {
		case call.Args[0] == "cp":
			return processtest.Answer{Stdout: registryFolder(t, "", "registry:5000", "localhost:15005")}
		case call.Args[2] == "a-control-plane":
			return processtest.Answer{Stdout: node(t, where(t).Image("node"), "exited")}
		}
		return processtest.Answer{Stderr: "Error: No such container: " + call.Args[2], Code: 1}
	})
	c := newCluster(t, "kind", "a")
	c.Live = filepath.Join(t.TempDir(), "live")
	state, err := c.State(t.Context())
	require.NoError(t, err)
	assert.Nil(t, state.Registry)
	assert.Equal(t, "kind", c.Network, "a cluster created by hand is in kind's own network")
	assert.Contains(t, c.Environment, "KIND_EXPERIMENTAL_DOCKER_NETWORK=kind-a", "a new one gets its own")

	require.NoError(t, c.UsePorts(t.Context(), state, Ports{}))
	assert.DirExists(t, c.Live, "docker cp would create it, owned by root")
	assert.Equal(t, "http://localhost:18081", c.InvoiceAppURL)
	assert.Equal(t, 15005, c.RegistryPort)
	require.NoError(t, c.UsePorts(t.Context(), state, Ports{InvoiceApp: 18081, Registry: 15005}))
	require.EqualError(t, c.UsePorts(t.Context(), state, Ports{InvoiceApp: 8081}),
		"cluster a was created with INVOICE_APP_PORT=18081: unset INVOICE_APP_PORT, "+
			"or recreate the cluster with --force, which deletes its data")
	require.ErrorContains(t, c.UsePorts(t.Context(), state, Ports{Registry: 5005}), "REGISTRY_PORT=15005")
}

func TestForeignContainersAreRejected(t *testing.T) {
	processtest.Put(t, "docker", func(processtest.Call) processtest.Answer {
		return processtest.Answer{Stdout: node(t, "kindest/node:v1.36.1", "running")}
	})
	_, err := newCluster(t, "kind", "a").State(t.Context())
	require.EqualError(t, err,
		"container a-control-plane or a-registry exists but was not created by ./deploy.sh: choose another CLUSTER_NAME")
}

// If Docker fails, that does not mean that there is no container.
func TestDockerFails(t *testing.T) {
	processtest.Put(t, "docker", func(processtest.Call) processtest.Answer {
		return processtest.Answer{Stderr: "Cannot connect to the Docker daemon", Code: 1}
	})
	_, err := newCluster(t, "kind", "a").State(t.Context())
	require.ErrorContains(t, err, "Cannot connect to the Docker daemon")
}

// The shared folder is found by what the node sees, even if the clone has been moved.
func TestFindLive(t *testing.T) {
	mine, made := filepath.Join(t.TempDir(), "mine"), t.TempDir()
	container := func(t *testing.T, sees string) *docker.Container {
		processtest.Put(t, "docker", func(call processtest.Call) processtest.Answer {
			if call.Args[0] == "exec" {
				entries, _ := os.ReadDir(sees)
				var names []string
				for _, entry := range entries {
					names = append(names, entry.Name())
				}
				return processtest.Answer{Stdout: strings.Join(names, "\n")}
			}
			return processtest.Answer{Stdout: node(t, where(t).Image("node"),
				"running", "/lib/modules:/lib/modules:ro", made+":/live:ro")}
		})
		container, err := docker.Inspect(t.Context(), "a-control-plane")
		require.NoError(t, err)
		return container
	}
	for name, sees := range map[string]string{"this clone's": mine, "the one it was made with": made} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, "kind", "a")
			c.Live = mine
			require.NoError(t, c.FindLive(t.Context(), container(t, sees)))
			assert.Equal(t, sees, c.Live)
			for _, folder := range []string{mine, made} {
				entries, err := os.ReadDir(folder)
				require.NoError(t, err)
				assert.Empty(t, entries, "the marker file must be removed")
			}
		})
	}
	t.Run("none", func(t *testing.T) {
		c := newCluster(t, "kind", "a")
		c.Live = mine
		require.ErrorIs(t, c.FindLive(t.Context(), container(t, t.TempDir())), ErrNotShared)
	})
	t.Run("a cluster without it", func(t *testing.T) {
		c := newCluster(t, "kind", "a")
		require.ErrorContains(t, c.FindLive(t.Context(), &docker.Container{}),
			"./deploy.sh --force recreates the cluster, and deletes its data")
	})
}

// `tilt up` needs a running cluster that nobody else uses.
func TestOneAtATime(t *testing.T) {
	status, ending, sees := "running", "", t.TempDir()
	processtest.Put(t, "docker", func(call processtest.Call) processtest.Answer {
		switch call.Args[0] {
		case "version":
			return processtest.Answer{Stdout: "amd64"}
		case "exec":
			entries, _ := os.ReadDir(sees)
			var names []string
			for _, entry := range entries {
				names = append(names, entry.Name())
			}
			return processtest.Answer{Stdout: strings.Join(names, "\n")}
		case "cp":
			return processtest.Answer{Stdout: registryFolder(t, "localhost:5005")}
		}
		if call.Args[2] == "a-control-plane" {
			return processtest.Answer{Stdout: node(t, where(t).Image("node"), status, sees+":/live:ro")}
		}
		return processtest.Answer{Stderr: "Error: No such container: " + call.Args[2], Code: 1}
	})
	var kubectl []string
	processtest.Put(t, "kubectl", func(call processtest.Call) processtest.Answer {
		kubectl = append(kubectl, strings.Join(call.Args, " "))
		if strings.Contains(kubectl[len(kubectl)-1], " get namespaces ") {
			return processtest.Answer{Stdout: ending}
		}
		return processtest.Answer{}
	})
	paths := where(t)
	look := func() error {
		c, err := New(paths, "kind", "a")
		require.NoError(t, err)
		c.Live = filepath.Join(paths.Cache, "live")
		return c.Look(t.Context(), Ports{}, true)
	}
	hold := func(path, content string) *process.Lock {
		lock, err := process.TryLock(path)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(path, []byte(content), 0o644))
		return lock
	}

	lock := hold(filepath.Join(paths.Cache, "cluster-a.lock"), "")
	require.EqualError(t, look(), "CLUSTER_NAME=a ./deploy.sh is running: start `tilt up` when it is done")
	require.NoError(t, lock.Close())

	for content, refusal := range map[string]string{
		`{"pid":7,"checkout":"` + paths.Root + `/workspace/.."}`: "", // it loads its Tiltfile again
		`{"pid":7,"checkout":"/other"}`: "`tilt up` of /other (process 7) is running on cluster a: stop it with Ctrl-C, " +
			"or use another cluster: CLUSTER_NAME=other ./deploy.sh",
		"": "`tilt up` is running on cluster a: stop it with Ctrl-C, or use another cluster: CLUSTER_NAME=other ./deploy.sh",
	} {
		lock := hold(filepath.Join(sees, "lock"), content)
		if refusal == "" {
			require.NoError(t, look())
		} else {
			require.EqualError(t, look(), refusal)
		}
		require.NoError(t, lock.Close())
		require.NoError(t, look(), "it has ended, and left the file behind")
	}
	ending, kubectl = "payments platform", nil
	require.NoError(t, look())
	require.Len(t, kubectl, 2)
	assert.Regexp(t, `^--context=kind-a get namespaces .* platform( [a-z-]+)+$`, kubectl[0])
	assert.Equal(t, "--context=kind-a wait --for=delete --timeout=3m namespace payments platform", kubectl[1],
		"nothing can be created in a namespace that is being deleted")

	for _, status = range []string{"paused", "exited"} {
		require.EqualError(t, look(),
			"cluster a is not running (its node is "+status+"): run CLUSTER_NAME=a ./deploy.sh to start it")
	}
}

func TestProxiesExcludeCluster(t *testing.T) {
	for _, variable := range []string{"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"} {
		t.Setenv(variable, "")
	}
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	c := newCluster(t, "kind", "a")
	assert.Empty(t, c.proxies())

	check := func(t *testing.T, noProxy string) {
		set := c.proxies()
		assert.Contains(t, set, "HTTP_PROXY=http://proxy:3128")
		assert.Contains(t, set, "http_proxy=http://proxy:3128")
		last := set[len(set)-1]
		require.True(t, strings.HasPrefix(last, "no_proxy="), last)
		names := strings.Split(strings.TrimPrefix(last, "no_proxy="), ",")
		for _, name := range []string{"localhost", "127.0.0.1", "a-registry", "a-control-plane", noProxy} {
			assert.Contains(t, names, name)
		}
	}
	t.Run("from the environment", func(t *testing.T) {
		t.Setenv("http_proxy", "http://proxy:3128")
		t.Setenv("no_proxy", "intra.example, localhost")
		check(t, "intra.example")
	})
	t.Run("from the Docker client", func(t *testing.T) {
		require.NoError(t, os.WriteFile(filepath.Join(os.Getenv("DOCKER_CONFIG"), "config.json"), []byte(
			`{"proxies": {"default": {"httpProxy": "http://proxy:3128", "noProxy": "docker.example"}}}`), 0o600))
		check(t, "docker.example")
	})
}

// The user's current context is restored, even if the change of the kubeconfig fails or is interrupted.
func TestCurrentContextIsRestored(t *testing.T) {
	kubectl := processtest.Put(t, "kubectl", func(call processtest.Call) processtest.Answer {
		return processtest.Answer{Stdout: "mine\n"}
	})
	c := newCluster(t, "kind", "a")
	console, _ := console(t)
	err := c.WritingKubeconfig(t.Context(), console, func() error { return os.ErrInvalid })
	require.ErrorIs(t, err, os.ErrInvalid)
	assert.Equal(t, []string{"config current-context", "config use-context mine"}, kubectl.Calls())
}

// An incomplete cluster is removed, too, whether or not the product is installed.
func TestRemove(t *testing.T) {
	dockers := processtest.Put(t, "docker", func(call processtest.Call) processtest.Answer {
		if call.Args[1] == "ls" {
			return processtest.Answer{Stdout: "one\ntwo\n"}
		}
		return processtest.Answer{}
	})
	c := newCluster(t, "kind", "a")
	for _, path := range []string{c.Unfinished(), c.Live, c.Kubeconfigs} {
		require.NoError(t, os.MkdirAll(path, 0o755))
	}
	console, out := console(t)
	t.Setenv("PATH", strings.Split(os.Getenv("PATH"), string(os.PathListSeparator))[0]) // neither kind nor kubectl
	require.NoError(t, c.Remove(t.Context(), console))

	assert.Equal(t, []string{
		"container ls --quiet --all --filter name=^/a-registry$", "container rm --force --volumes one two",
		"container ls --quiet --all --filter label=io.x-k8s.kind.cluster=a", "container rm --force --volumes one two",
		"volume ls --quiet --filter label=io.x-k8s.kind.cluster=a", "volume rm one two",
		"network ls --quiet --filter name=^kind-a$", "network rm one two",
		"image ls --quiet --filter label=go-live.context=kind-a", "image rm --force one two",
	}, dockers.Calls())
	assert.Equal(t, "removing cluster a ...\n", out.String())
	for _, path := range []string{c.Unfinished(), c.Live, c.Kubeconfigs} {
		assert.NoDirExists(t, path)
	}
}

func TestWithoutRuntimeHost(t *testing.T) {
	changed, err := withoutRuntimeHost([]byte(`{"kind": "ConfigMap", "data": ` +
		`{"localRegistryHosting.v1": "host: localhost:5005\nhostFromContainerRuntime: registry:5000\n` +
		`help: https://example.com\n"}}`))
	require.NoError(t, err)
	var object struct{ Data map[string]string }
	require.NoError(t, json.Unmarshal(changed, &object))
	assert.YAMLEq(t, "host: localhost:5005\nhelp: https://example.com\n", object.Data["localRegistryHosting.v1"])

	_, err = withoutRuntimeHost([]byte(`{"kind": "ConfigMap", "data": {}}`))
	require.Error(t, err)
}
