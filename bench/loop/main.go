// loop measures how long a save takes to be live.
//
// usage: go -C bench run ./loop     (make bench-loop)
//
// It edits invoice-app repeatedly, and measures the time until all three replicas on a temporary cluster run the new
// program according to GET /version, with this project's tilt up and with alternatives. The results are written to
// bench/results/loop-PRODUCT. Run it on an idle machine. It takes about 15 minutes, plus 5 minutes the first time, to
// compile skaffold. CLUSTER_PRODUCT (kind), CLUSTER_NAME (workspace-bench), INVOICE_APP_PORT (28081) and REGISTRY_PORT
// (25005) define the cluster.
package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"example.com/invoices/internal/checkouttest"
)

const (
	edited  = "invoice-app/api/errors.go"
	message = "the database is unavailable, try again" // edits append their number
	replica = 3
	enough  = 5 * time.Minute // a timeout for an edit that hangs
)

// way is one of the compared ways to get an edit into the pods.
type way struct {
	name      string
	namespace string
	command   []string // runs during the measurements
	built     string   // the compiled program
	begun     string   // a file written when its compilation starts

	checkout string // a copy of the repository
	original string // the edited file's original contents
	running  string // the SHA-256 of the program in all replicas
}

// sample holds the durations of one edit, in seconds. Notice, Compile and Rest add up to Total.
type sample struct {
	Way     string  `json:"way"`
	Edit    int     `json:"edit"`
	Total   float64 `json:"total"`
	Notice  float64 `json:"notice"`  // until the compiler starts
	Compile float64 `json:"compile"` // until the program is written
	Rest    float64 `json:"rest"`    // until every replica runs the new program
}

type bench struct {
	ctx     context.Context
	cancel  context.CancelCauseFunc
	cluster cluster
	api     string // the URL of kubectl proxy
	work    string // a temporary folder
	root    string // of the repository

	watcherIn  io.WriteCloser
	watcherOut chan string

	mu   sync.Mutex
	pods map[string]map[string]pod // by namespace and name
}

func main() {
	log.SetFlags(log.Ltime)
	edits := flag.Int("edits", 15, "number of edits for each way")
	b := &bench{watcherOut: make(chan string), pods: map[string]map[string]pod{}}
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := b.run(ctx, *edits); err != nil {
		log.Fatal(err)
	}
}

func (b *bench) run(ctx context.Context, edits int) (err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	var started sync.WaitGroup
	defer started.Wait()
	defer cancel(nil)

	b.ctx, b.cancel = ctx, cancel
	if b.root, err = filepath.Abs(".."); err != nil {
		return err
	}
	if b.work, err = os.MkdirTemp("", "bench-loop-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.work)

	c, remove, err := makeCluster(ctx, b.root)
	if remove != nil {
		defer func() { err = errors.Join(err, remove()) }()
	}
	if err != nil {
		return err
	}
	b.cluster = c
	live := c.Live
	onCluster := "--context=" + b.cluster.Context
	ways := []*way{
		{name: "go-build"},
		{name: "loop", namespace: c.namespace("invoice-app"),
			command: []string{"tilt", "up", "--stream", "--port=0", onCluster, "invoice-app"},
			built:   live + "/invoice-app/invoice-app", begun: live + "/invoice-app/invoice-app.begun"},
		{name: "docker-build", command: []string{"tilt", "up", "--stream", "--port=0", onCluster}},
		{name: "live-update", command: []string{"tilt", "up", "--stream", "--port=0", onCluster}},
		// If it finds minikube's profile, skaffold uses the Docker in minikube's node, which a node with containerd lacks.
		{name: "skaffold", command: []string{"env", "MINIKUBE_HOME=" + b.work, "skaffold", "dev",
			"--kube-context=" + b.cluster.Context, fmt.Sprintf("--default-repo=localhost:%d", c.RegistryPort),
			"--watch-poll-interval=200", "--tail=false", "--cleanup=false", "--interactive=false", "--update-check=false"}},
	}

	if err := b.startWatcher(); err != nil {
		return err
	}
	if err := b.startProxy(); err != nil {
		return err
	}
	for _, w := range ways {
		if err := b.prepare(w, &started); err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
	}
	for _, w := range ways {
		if _, err := b.measure(w, 0); err != nil {
			return fmt.Errorf("%s, first edit: %w", w.name, err)
		}
	}

	var samples []sample
	for edit := 1; edit <= edits; edit++ {
		for _, w := range ways {
			s, err := b.measure(w, edit)
			if err != nil {
				return fmt.Errorf("%s, edit %d: %w", w.name, edit, err)
			}
			log.Printf("edit %2d of %d  %-12s %6.2f s  (notice %.2f, compile %.2f, rest %.2f)",
				edit, edits, w.name, s.Total, s.Notice, s.Compile, s.Rest)
			samples = append(samples, s)
		}
	}
	splits, err := b.loopSplits()
	if err != nil {
		return err
	}
	cost, err := b.supervisorCost()
	if err != nil {
		return err
	}
	b.watcherIn.Close()
	var cpu string
	for found := false; !found; { // skip results that the watcher printed twice
		cpu, found = strings.CutPrefix(<-b.watcherOut, "cpu ")
	}
	return report(filepath.Join(b.root, "bench/results/loop-"+b.cluster.Product), ways, samples, splits, cpu, cost)
}

// prepare creates a way's copy of the repository and, on the cluster, its namespace and database, and
// starts its command.
func (b *bench) prepare(w *way, started *sync.WaitGroup) error {
	w.checkout = filepath.Join(b.work, w.name)
	if err := checkouttest.Copy(b.root, w.checkout); err != nil {
		return fmt.Errorf("copy the checkout: %w", err)
	}
	code, err := os.ReadFile(filepath.Join(w.checkout, edited))
	if err != nil {
		return err
	}
	w.original = string(code)
	if !strings.Contains(w.original, message) {
		return fmt.Errorf("%s has no %q", edited, message)
	}
	if w.command == nil {
		return nil
	}

	folder := w.checkout
	if w.namespace == "" {
		w.namespace = "bench-" + w.name
		folder = filepath.Join(w.checkout, "bench", w.name)
		w.built, w.begun = filepath.Join(folder, "bin/invoice-app"), filepath.Join(folder, "bin.begun")
		if err := b.prepareNamespace(w); err != nil {
			return err
		}
	}
	go b.watchPods(w.namespace)

	logs, err := os.Create(filepath.Join(b.root, ".build/bench", w.name+".log"))
	if err != nil {
		return err
	}
	command := exec.CommandContext(b.ctx, w.command[0], w.command[1:]...)
	command.Dir = folder
	command.Stdout, command.Stderr = logs, logs
	command.Cancel = func() error { return command.Process.Signal(os.Interrupt) }
	command.WaitDelay = 20 * time.Second
	if err := command.Start(); err != nil {
		return err
	}
	started.Go(func() {
		defer logs.Close()
		err := command.Wait()
		b.cancel(fmt.Errorf("%s exited (%v): see %s", w.name, err, logs.Name()))
	})
	return nil
}

// prepareNamespace creates a namespace with Pod Security, passwords and the database, like invoice-app's
// own one.
func (b *bench) prepareNamespace(w *way) error {
	if err := b.kubectl(fmt.Sprintf(`{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": %q,
		"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}`, w.namespace),
		"apply", "--filename=-"); err != nil {
		return err
	}
	if _, err := output(filepath.Join(w.checkout, "workspace/run"),
		"make-passwords", b.cluster.Context, w.namespace); err != nil {
		return err
	}
	ref, err := os.ReadFile(filepath.Join(b.cluster.Images, "postgres.ref"))
	if err != nil {
		return err
	}
	image := strings.TrimSpace(string(ref))
	colon := strings.LastIndex(image, ":")
	database := filepath.Join(w.checkout, "bench/database")
	if err := os.Mkdir(database, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(database, "kustomization.yaml"), fmt.Appendf(nil, `
namespace: %s
resources: [../../k8s/base/postgres]
images: [{name: postgres, newName: %q, newTag: %q}]
patches:
  - target: {kind: StatefulSet}
    patch: |
      - {op: replace, path: /spec/template/spec/containers/0/resources/requests/cpu, value: 5m}
      - {op: replace, path: /spec/template/spec/initContainers/0/resources/requests/cpu, value: 5m}
`, w.namespace, image[:colon], image[colon+1:]), 0o644); err != nil {
		return err
	}
	if err := b.kubectl("", "apply", "--kustomize="+database); err != nil {
		return err
	}
	in := "--namespace=" + w.namespace
	if err := b.kubectl("", in, "rollout", "status", "statefulset/postgres", "--timeout=5m"); err != nil {
		return err
	}
	// PostgreSQL has a database named after the namespace; the service uses the one of its usual namespace.
	if err := b.kubectl("", in, "exec", "postgres-0", "--container=postgres", "--",
		"psql", "--quiet", "--command=CREATE DATABASE "+b.cluster.namespace("invoice-app")+" OWNER owner",
		"postgres"); err != nil {
		return err
	}
	rendered, err := output("kubectl", "kustomize", filepath.Join(w.checkout, "bench", w.name))
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(w.checkout, "bench", w.name, "rendered.yaml"), []byte(rendered), 0o644)
}

// measure edits the code, and waits until the edit is live and the rollout has finished.
func (b *bench) measure(w *way, edit int) (sample, error) {
	if w.running == "" && w.command != nil { // the first edit
		var err error
		if w.running, _, err = b.await(w.namespace, ""); err != nil {
			return sample{}, err
		}
	}
	code := strings.Replace(w.original, message, fmt.Sprintf("%s (%s-%d)", message, w.name, edit), 1)
	saved := time.Now()
	if err := os.WriteFile(filepath.Join(w.checkout, edited), []byte(code), 0o644); err != nil {
		return sample{}, err
	}
	s := sample{Way: w.name, Edit: edit}
	if w.command == nil {
		build := exec.Command("go", "build", "-o", filepath.Join(b.work, "program"), "./invoice-app")
		build.Dir = w.checkout
		if text, err := build.CombinedOutput(); err != nil {
			return s, fmt.Errorf("%w\n%s", err, text)
		}
		s.Total = time.Since(saved).Seconds()
		s.Compile = s.Total
		time.Sleep(time.Second)
		return s, nil
	}

	running, live, err := b.await(w.namespace, w.running)
	if err != nil {
		return s, err
	}
	w.running = running
	program, err := os.ReadFile(w.built)
	if err != nil {
		return s, err
	}
	if sum := fmt.Sprintf("%x", sha256.Sum256(program)); sum != running {
		return s, fmt.Errorf("%s has SHA-256 %s, but %s is running", w.built, sum, running)
	}
	begun, err := os.Stat(w.begun)
	if err != nil {
		return s, err
	}
	built, err := os.Stat(w.built)
	if err != nil {
		return s, err
	}
	s.Total = live.Sub(saved).Seconds()
	s.Notice = begun.ModTime().Sub(saved).Seconds()
	s.Compile = built.ModTime().Sub(begun.ModTime()).Seconds()
	s.Rest = live.Sub(built.ModTime()).Seconds()

	// Wait for the replaced pods to terminate.
	for deadline := time.Now().Add(enough); ; time.Sleep(100 * time.Millisecond) {
		if _, all := b.replicas(w.namespace); all == replica || time.Now().After(deadline) {
			break
		}
	}
	time.Sleep(2 * time.Second)
	return s, nil
}
