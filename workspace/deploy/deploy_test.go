package deploy

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/workspace/cluster"
	"example.com/invoices/workspace/paths"
	"example.com/invoices/workspace/process"
	"example.com/invoices/workspace/processtest"
	"example.com/invoices/workspace/services"
)

func TestMain(m *testing.M) { processtest.Main(m) }

// image is the local tag of an image of this clone's clusters.
func image(name string) string {
	list, err := services.Read("../..")
	if err != nil {
		panic(err)
	}
	return paths.Paths{Services: list}.Image(name)
}

// world is the state behind fakes of docker, ctlptl, kind, kubectl and tilt.
type world struct {
	lock     sync.Mutex
	node     string // its status, "" if it does not exist
	registry string
	half     bool   // creating the node was interrupted
	dead     bool   // the node is running but its API server is not responding
	folder   string // the folder that the node sees
	bind     string // the folder that Docker reports as mounted
	calls    []string
	noProxy  map[string]string // NO_PROXY of each program's latest call
	before   func(call string) // called before each call
	fails    string            // the program that fails
}

func newWorld(t *testing.T) *world {
	w := &world{folder: t.TempDir(), noProxy: map[string]string{}}
	w.bind = w.folder
	for _, program := range []string{"docker", "ctlptl", "kind", "kubectl", "tilt"} {
		processtest.Put(t, program, func(call processtest.Call) processtest.Answer {
			w.lock.Lock()
			defer w.lock.Unlock()
			line := program + " " + strings.Join(call.Args, " ")
			w.calls = append(w.calls, line)
			for _, variable := range call.Env {
				if strings.HasPrefix(variable, "NO_PROXY=") {
					w.noProxy[program] = variable
				}
			}
			if w.before != nil {
				w.before(line)
			}
			if w.fails == program {
				return processtest.Answer{Stderr: program + " says no", Code: 1}
			}
			return w.answer(line, call)
		})
	}
	return w
}

// set runs f between two calls, to change or read the world.
func (w *world) set(f func()) {
	w.lock.Lock()
	defer w.lock.Unlock()
	f()
}

// all returns the calls so far.
func (w *world) all() (calls []string) {
	w.set(func() { calls = slices.Clone(w.calls) })
	return calls
}

// containers returns the statuses of the node and the registry.
func (w *world) containers() (states string) {
	w.set(func() { states = w.node + " " + w.registry })
	return states
}

func (w *world) answer(line string, call processtest.Call) processtest.Answer {
	ok := processtest.Answer{}
	has := func(prefix string) bool { return strings.HasPrefix(line, prefix) }
	switch {
	case has("docker version"):
		return processtest.Answer{Stdout: "1.41\n"}
	case has("docker info --format {{json"):
		return processtest.Answer{Stdout: `{"MemTotal": 25769803776, "Driver": "overlay2"}`}
	case has("docker container inspect"):
		state, from := w.registry, image("registry")
		if strings.HasSuffix(line, "control-plane") {
			state, from = w.node, image("node")
		}
		if state == "" {
			return processtest.Answer{Stderr: "Error: No such container: x", Code: 1}
		}
		return processtest.Answer{Stdout: container(from, state, w.bind)}
	case has("docker image inspect"):
		return processtest.Answer{Stdout: "sha256:1\n"}
	case has("docker cp"):
		return processtest.Answer{Stdout: registryFolder()}
	case has("docker exec"), has("docker run") && strings.Contains(line, "/live:ro"):
		folder := w.folder
		if has("docker run") {
			folder, _, _ = strings.Cut(strings.SplitAfter(line, "--volume ")[1], ":")
		}
		entries, _ := os.ReadDir(folder)
		var names []string
		for _, entry := range entries {
			names = append(names, entry.Name())
		}
		return processtest.Answer{Stdout: strings.Join(names, "\n")}
	case has("docker container ls"):
		return processtest.Answer{Stdout: "id-of " + call.Args[len(call.Args)-1]}
	case has("docker container rm"), has("docker rm"):
		if strings.Contains(line, "registry") {
			w.registry = ""
		} else {
			w.node, w.half = "", false
		}
	case has("kind delete"):
		w.node, w.half = "", false
	case has("docker start"):
		if strings.HasSuffix(line, "control-plane") {
			w.node, w.dead = "running", false
		} else {
			w.registry = "running"
		}
	case has("docker stop"), has("docker container stop"):
		if strings.Contains(line, "control-plane") {
			w.node = "exited"
		} else {
			w.registry = "exited"
		}
	case has("docker unpause"):
		w.node = "running"
	case has("ctlptl apply"):
		data, _ := os.ReadFile(call.Args[len(call.Args)-1])
		w.registry = "running"
		if strings.Contains(string(data), "kind: Cluster") {
			w.node = "running"
		}
	case has("kubectl config current-context"):
		return processtest.Answer{Stdout: "mine\n"}
	case strings.Contains(line, "get --raw /readyz"):
		if w.node != "running" || w.dead {
			return processtest.Answer{Stderr: "connection refused", Code: 1}
		}
	case has("tilt ci"):
		if w.node != "running" || w.registry != "running" || w.half {
			return processtest.Answer{Stdout: "no cluster\n", Code: 1}
		}
		return processtest.Answer{Stdout: "SUCCESS. All workloads are healthy.\n"}
	}
	return ok
}

func container(image, state, live string) string {
	data, _ := json.Marshal([]any{map[string]any{
		"Image": "sha256:1", "State": map[string]any{"Status": state}, "Config": map[string]any{"Image": image},
		"HostConfig": map[string]any{"Binds": []string{live + ":/live:ro"},
			"PortBindings": map[string]any{
				"30081/tcp": []any{map[string]any{"HostPort": "28081"}}, "5000/tcp": []any{map[string]any{"HostPort": "25005"}},
			}},
		"Mounts":          []any{map[string]any{"Destination": "/live"}},
		"NetworkSettings": map[string]any{"Networks": map[string]any{"kind-a": map[string]any{}}},
	}})
	return string(data)
}

func registryFolder() string {
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	_ = w.WriteHeader(&tar.Header{Name: "certs.d/localhost:25005/", Typeflag: tar.TypeDir, Mode: 0o755})
	_ = w.Close()
	return archive.String()
}

// deployment returns a deployment to cluster "a" with free ports.
func deployment(t *testing.T, cache string) (*Deployment, *bytes.Buffer, *bytes.Buffer) {
	t.Helper()
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	list, err := services.Read(root)
	require.NoError(t, err)
	where := paths.Paths{Root: root, Cache: cache, Services: list}
	c, err := cluster.New(where, "kind", "a")
	require.NoError(t, err)
	c.Live, c.Evidence, c.Kubeconfigs = filepath.Join(cache, "live"), filepath.Join(cache, "evidence"),
		filepath.Join(cache, "kubeconfigs")
	var said, out bytes.Buffer
	return &Deployment{
		Paths: where, Cluster: c, Out: &out,
		Console: &process.Console{Out: &said, Logs: c.Logs(), Every: time.Hour},
		Ports:   cluster.Ports{InvoiceApp: 28081, Registry: 25005},
		Prepare: func(context.Context) error { return nil },
	}, &said, &out
}

func TestLifecycle(t *testing.T) {
	w, cache := newWorld(t), t.TempDir()
	d, said, out := deployment(t, cache)
	require.NoError(t, d.Deploy(t.Context(), false))
	assert.Contains(t, out.String(), "SUCCESS")
	assert.Contains(t, said.String(), "invoice-app is available at http://localhost:28081")
	applied, err := os.ReadFile(filepath.Join(d.Cluster.Logs(), "ctlptl.log"))
	require.NoError(t, err)
	assert.Contains(t, string(applied), "KIND_EXPERIMENTAL_DOCKER_NETWORK=kind-a ctlptl apply -f ",
		"an operator must be able to repeat it")
	release(t, d)

	w.set(func() { w.calls = nil })
	d, _, _ = deployment(t, cache)
	require.NoError(t, d.Deploy(t.Context(), false))
	for _, call := range w.all() {
		assert.NotRegexp(t, `^(docker (rm|start|stop|restart|network connect)|kind )`,
			call, "a second run must not change a running cluster")
	}
	release(t, d)

	d, said, _ = deployment(t, cache)
	require.NoError(t, d.Stop(t.Context()))
	assert.Contains(t, said.String(), "cluster a is stopped: CLUSTER_NAME=a ./deploy.sh starts it again, with its data\n")
	assert.Equal(t, "exited exited", w.containers())
	release(t, d)

	d, _, _ = deployment(t, cache)
	require.NoError(t, d.Deploy(t.Context(), false))
	assert.Equal(t, "running running", w.containers())
	release(t, d)

	d, said, _ = deployment(t, cache)
	require.NoError(t, d.Destroy(t.Context()))
	assert.Equal(t, " ", w.containers())
	assert.Contains(t, said.String(), "cluster a is removed; its images are kept")
	release(t, d)

	d, said, _ = deployment(t, cache)
	require.NoError(t, d.Stop(t.Context()))
	assert.Equal(t, "there is no cluster a\n", said.String())
}

// release releases the lock, as the end of the process would.
func release(t *testing.T, d *Deployment) {
	t.Helper()
	require.NoError(t, d.lock.Close())
}

// A `tilt up`, also of another clone, is not deployed over; stopping and destroying are for the user to decide.
func TestTiltUpIsNotDeployedOver(t *testing.T) {
	w, cache := newWorld(t), t.TempDir()
	d, _, _ := deployment(t, cache)
	require.NoError(t, d.Deploy(t.Context(), false))
	release(t, d)
	tiltUp, err := process.TryLock(filepath.Join(w.folder, "lock"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(w.folder, "lock"), []byte(`{"pid":7,"checkout":"/other"}`+"\n"), 0o644))
	const running = "`tilt up` of /other (process 7) is "

	for _, force := range []bool{false, true} {
		w.set(func() { w.calls = nil })
		d, _, _ = deployment(t, cache)
		require.EqualError(t, d.Deploy(t.Context(), force), running+"running on cluster a, and CLUSTER_NAME=a ./deploy.sh "+
			"would replace what it runs: stop it with Ctrl-C first, "+
			"or deploy to another cluster: CLUSTER_NAME=other ./deploy.sh")
		for _, call := range w.all() {
			assert.Regexp(t, `^docker (version|info|container inspect) `, call, "it changes nothing")
		}
		release(t, d)
	}
	d, said, _ := deployment(t, cache)
	require.NoError(t, d.Stop(t.Context()))
	assert.Contains(t, said.String(), "note: "+running+"still running on this cluster: stop it with Ctrl-C\n")
	release(t, d)

	require.NoError(t, tiltUp.Close())
	d, said, _ = deployment(t, cache)
	require.NoError(t, d.Deploy(t.Context(), false), "it is no longer running; the file is left behind")
	assert.NotContains(t, said.String(), "tilt up` of")
	release(t, d)
	d, said, _ = deployment(t, cache)
	require.NoError(t, d.Destroy(t.Context()))
	assert.NotContains(t, said.String(), "note: ")
}

// Wherever a run is interrupted, the next one succeeds.
func TestInterruptedRunIsRecovered(t *testing.T) {
	count := func() int {
		w := newWorld(t)
		d, _, _ := deployment(t, t.TempDir())
		require.NoError(t, d.Deploy(t.Context(), false))
		release(t, d)
		return len(w.all())
	}()
	require.Greater(t, count, 10)
	for n := 1; n <= count; n++ {
		t.Run(strconv.Itoa(n), func(t *testing.T) {
			w, cache := newWorld(t), t.TempDir()
			ctx, cancel := context.WithCancel(t.Context())
			var at string
			w.set(func() {
				w.before = func(call string) {
					if len(w.calls) != n {
						return
					}
					at = call
					if strings.HasPrefix(call, "ctlptl apply") {
						w.node, w.half = "running", true // ctlptl was creating the node
					}
					cancel()
				}
			})
			d, _, _ := deployment(t, cache)
			require.Error(t, d.Deploy(ctx, false), at)
			release(t, d)

			w.set(func() { w.before = nil })
			d, said, _ := deployment(t, cache)
			require.NoError(t, d.Deploy(t.Context(), false), "after %s\n%s", at, said)
			w.set(func() { assert.False(t, w.half, "after %s", at) })
			release(t, d)
		})
	}
}

func TestFailuresAreReported(t *testing.T) {
	for program, want := range map[string]string{
		"docker": "Docker is not responding: ",
		"ctlptl": "applying cluster a and its registry: failed: ",
		"tilt":   "Fix the cause and run CLUSTER_NAME=a ./deploy.sh again; CLUSTER_NAME=a ./deploy.sh --force starts over",
	} {
		t.Run(program, func(t *testing.T) {
			w := newWorld(t)
			w.set(func() { w.fails = program })
			d, said, out := deployment(t, t.TempDir())
			err := d.Deploy(t.Context(), false)
			require.ErrorContains(t, err, want)
			assert.Contains(t, err.Error()+said.String()+out.String(), program+" says no")
		})
	}
	t.Run("preparing", func(t *testing.T) {
		newWorld(t)
		d, _, _ := deployment(t, t.TempDir())
		d.Prepare = func(context.Context) error { return errors.New("no image") }
		require.EqualError(t, d.Deploy(t.Context(), false), "no image")
	})
}

// No program uses a proxy for addresses inside the cluster.
func TestProxyIsBypassedInsideCluster(t *testing.T) {
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:9")
	t.Setenv("NO_PROXY", "intra.example")
	t.Setenv("no_proxy", "")
	w := newWorld(t)
	d, _, _ := deployment(t, t.TempDir())
	require.NoError(t, d.Deploy(t.Context(), false))
	w.set(func() {
		for _, program := range []string{"ctlptl", "kubectl", "tilt"} {
			assert.Regexp(t, `^NO_PROXY=.*192\.168\.0\.0/16,.*intra\.example`, w.noProxy[program], program)
		}
	})
}

func TestTwoAtOnce(t *testing.T) {
	newWorld(t)
	cache := t.TempDir()
	first, _, _ := deployment(t, cache)
	first.Prepare = func(context.Context) error {
		second, _, _ := deployment(t, cache)
		require.EqualError(t, second.Deploy(t.Context(), false),
			"another ./deploy.sh is running for cluster a: wait for it, or stop it")
		require.EqualError(t, second.Destroy(t.Context()),
			"another ./deploy.sh is running for cluster a: wait for it, or stop it")
		return nil
	}
	require.NoError(t, first.Deploy(t.Context(), false))
}

func TestPortsInUse(t *testing.T) {
	newWorld(t)
	port := func() int {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		t.Cleanup(func() { _ = listener.Close() })
		return listener.Addr().(*net.TCPAddr).Port
	}
	d, _, _ := deployment(t, t.TempDir())
	d.Ports = cluster.Ports{InvoiceApp: port(), Registry: port()}
	prepared := false
	d.Prepare = func(context.Context) error { prepared = true; return nil }
	err := d.Deploy(t.Context(), false)
	require.ErrorContains(t, err, fmt.Sprintf("port %d is in use", d.Ports.InvoiceApp))
	require.ErrorContains(t, err, fmt.Sprintf("port %d is in use", d.Ports.Registry))
	assert.Regexp(t, `\n  INVOICE_APP_PORT=\d+ REGISTRY_PORT=\d+ CLUSTER_NAME=a \./deploy\.sh$`, err.Error())
	assert.False(t, prepared, "ports must be checked first, because preparing takes minutes")
}

func TestUnresponsiveNodeIsStarted(t *testing.T) {
	w := newWorld(t)
	w.set(func() { w.node, w.registry, w.dead = "running", "running", true })
	d, _, _ := deployment(t, t.TempDir())
	require.NoError(t, d.Deploy(t.Context(), false))
	assert.Contains(t, w.all(), "docker start a-control-plane")
}

func TestPausedNodeIsResumed(t *testing.T) {
	w := newWorld(t)
	w.set(func() { w.node, w.registry = "paused", "running" })
	d, _, _ := deployment(t, t.TempDir())
	require.NoError(t, d.Deploy(t.Context(), false))
	assert.Contains(t, w.all(), "docker unpause a-control-plane")
}

// If the shared folder was removed, a restart makes the new one visible to the node.
func TestRemovedFolderIsSharedAgain(t *testing.T) {
	w := newWorld(t)
	w.set(func() {
		w.node, w.registry = "running", "running"
		w.folder = filepath.Join(w.bind, "removed")
		w.before = func(call string) {
			if call == "docker start a-control-plane" {
				w.folder = w.bind
			}
		}
	})
	d, said, _ := deployment(t, t.TempDir())
	require.NoError(t, d.Deploy(t.Context(), false))
	assert.Contains(t, said.String(), "restarting the node")
	assert.Contains(t, w.all(), "docker stop a-control-plane")
}

func TestEvidence(t *testing.T) {
	w := newWorld(t)
	d, said, _ := deployment(t, t.TempDir())
	w.set(func() {
		w.before = func(call string) {
			if strings.HasPrefix(call, "tilt ci") {
				w.registry = "exited"
			}
		}
	})
	processtest.Put(t, "kubectl", func(call processtest.Call) processtest.Answer {
		line := strings.Join(call.Args, " ")
		switch {
		case strings.Contains(line, "get pods --all-namespaces --no-headers"):
			return processtest.Answer{Stdout: "invoicing   invoice-app-1   0/1   CrashLoopBackOff   3   1m\n" +
				"invoicing   postgres-0   1/1   Running   0   1m\n" +
				"kube-system   done   0/1   Completed   0   1m\n"}
		case strings.Contains(line, "logs") && strings.Contains(line, "invoice-app-1") &&
			!strings.Contains(line, "--previous"):
			return processtest.Answer{Stdout: "panic: the reason\n"}
		}
		return processtest.Answer{Stdout: "of " + line + "\n"}
	})
	require.Error(t, d.Deploy(t.Context(), false))
	assert.Contains(t, said.String(), "panic: the reason")
	kept, err := os.ReadFile(filepath.Join(d.Cluster.Evidence, "pods.txt"))
	require.NoError(t, err)
	assert.Contains(t, string(kept), "panic: the reason")
	assert.NotContains(t, string(kept), "postgres-0")
	assert.NotContains(t, string(kept), "done")
}
