// loop measures how long a save takes to be live.
//
// usage: go -C bench run ./loop [flags]     (make bench-loop; -help lists the flags)
//
// It edits invoice-app repeatedly, and measures the time until all three replicas on a temporary cluster run the new
// program according to GET /version, with this project's tilt up and with alternatives. Run it on an idle machine. It
// takes about 25 minutes, plus 5 minutes the first time, to compile skaffold; with -only=loop, about 10 minutes.
// CLUSTER_PRODUCT (kind), CLUSTER_NAME (workspace-bench), INVOICE_APP_PORT (28081) and REGISTRY_PORT (25005) define the
// cluster.
package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"example.com/invoices/internal/checkouttest"
)

const (
	replica = 3
	enough  = 5 * time.Minute // a timeout for an edit that hangs
)

// edit is a kind of edit: a text in a file, to which each edit adds something that no program contained before. Go
// would know the result from its cache otherwise.
type edit struct {
	file, text string
	services   int // how many of a way's services contain the file
}

var (
	handler  = edit{"invoice-app/api/errors.go", "the database is unavailable, try again", 1}
	domain   = edit{"invoice-app/invoice/payer.go", "this replica is stopping", 1} // seven packages import this one
	embedded = edit{"invoice-app/web/templates/page.html", "<h1>Invoices", 1}
	internal = edit{"internal/server/errors.go", "no such path", 2}
)

// service is one that a way runs.
type service struct {
	name      string
	namespace string // or "" on this machine
	port      string
	built     string // the compiled program
	running   string // the SHA-256 of the program in all replicas, or "" if unknown

	watched bool
	pods    map[string]pod // by name
}

// names of all ways.
var names = []string{"go-build", "air", "loop", "docker-build", "live-update", "skaffold"}

// way is one of the compared ways to get an edit into the running services.
type way struct {
	name     string
	command  []string // runs during the measurements
	services []*service
	begun    string // a file written when a compilation starts
	live     bool   // with go_live

	checkout string // a copy of the repository
	state    string // go_live's folder
	stop     func() // ends the command
}

// row is what is measured: a kind of edit with a way.
type row struct {
	*way
	name     string
	edit     edit
	original string // the edited file's original contents
}

// sample holds the durations of one edit, in seconds. Notice, Compile and Rest add up to Total.
type sample struct {
	Way      string  `json:"way"` // the row's name
	Edit     int     `json:"edit"`
	Total    float64 `json:"total"`
	Notice   float64 `json:"notice"`             // until the compiler starts
	Compile  float64 `json:"compile"`            // until the program is written
	Rest     float64 `json:"rest"`               // until every replica runs the new program
	Reported *stages `json:"reported,omitempty"` // by go_live itself
	live     time.Time
}

type bench struct {
	ctx     context.Context
	cancel  context.CancelCauseFunc
	started sync.WaitGroup
	cluster cluster
	api     string   // the URL of kubectl proxy
	work    string   // a temporary folder
	root    string   // of the repository
	stamp   string   // of this run
	states  []string // folders of go_live

	onNode, onHost *watcher

	mu sync.Mutex // protects the services' pods
}

func main() {
	log.SetFlags(log.Ltime)
	edits := flag.Int("edits", 30, "number of edits of a handler with the loop; each other row has half as many")
	only := flag.String("only", strings.Join(names, ","), "the ways to measure")
	results := flag.String("results", ".build/bench/loop",
		"prefix of the result files, relative to the repository; -PRODUCT is added")
	flag.Parse()
	wanted := strings.Split(*only, ",")
	for _, name := range wanted {
		if !slices.Contains(names, name) {
			log.Fatalf("-only: there is no way %q: must be some of %s", name, strings.Join(names, ","))
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := new(bench).run(ctx, *edits, wanted, *results); err != nil {
		log.Fatal(err)
	}
}

func (b *bench) run(ctx context.Context, edits int, wanted []string, results string) (err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer func() { // when their owners have ended
		for _, folder := range b.states {
			err = errors.Join(err, os.RemoveAll(folder))
		}
	}()
	b.ctx, b.cancel = ctx, cancel
	b.stamp = strconv.FormatInt(time.Now().Unix(), 36)
	if b.root, err = filepath.Abs(".."); err != nil {
		return err
	}
	if b.work, err = os.MkdirTemp("", "bench-loop-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.work)

	c, remove, err := makeCluster(ctx, b.root, wanted)
	if remove != nil {
		defer func() { err = errors.Join(err, remove()) }()
	}
	if err != nil {
		return err
	}
	defer b.started.Wait()
	defer cancel(nil)
	b.cluster = c
	tilt := []string{"tilt", "up", "--stream", "--port=0", "--context=" + c.Context}
	live := []*service{c.live("invoice-app"), c.live("payment-provider")}
	loop := &way{name: "loop", command: append(slices.Clone(tilt), "invoice-app", "payment-provider"),
		services: live, live: true}
	busy := &row{name: "loop-busy", edit: handler, way: &way{name: "loop-busy",
		command: append(slices.Clone(loop.command), "unit-tests"), services: live, live: true}}
	air, err := b.air()
	if err != nil {
		return err
	}
	rows := []*row{
		{name: "go-build", edit: handler, way: &way{name: "go-build"}},
		{name: "air", edit: handler, way: air},
		{name: "loop", edit: handler, way: loop},
		{name: "loop-domain", edit: domain, way: loop},
		{name: "loop-embedded", edit: embedded, way: loop},
		{name: "loop-internal", edit: internal, way: loop},
		{name: "docker-build", edit: handler, way: &way{name: "docker-build", command: tilt}},
		{name: "live-update", edit: handler, way: &way{name: "live-update", command: tilt}},
		// If it finds minikube's profile, skaffold uses the Docker in minikube's node, which a node with containerd lacks.
		{name: "skaffold", edit: handler, way: &way{name: "skaffold", command: []string{"env", "MINIKUBE_HOME=" + b.work,
			"skaffold", "dev", "--kube-context=" + c.Context, fmt.Sprintf("--default-repo=localhost:%d", c.RegistryPort),
			"--watch-poll-interval=200", "--tail=false", "--cleanup=false", "--interactive=false", "--update-check=false"}}},
	}
	rows = slices.DeleteFunc(rows, func(r *row) bool { return !slices.Contains(wanted, r.way.name) })

	if err := b.startWatchers(); err != nil {
		return err
	}
	if err := b.startProxy(); err != nil {
		return err
	}
	for _, r := range rows {
		if err := b.prepare(r); err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
	}
	for _, r := range rows {
		if _, err := b.measure(r, 0); err != nil {
			return fmt.Errorf("%s, first edit: %w", r.name, err)
		}
		b.settle(r.way)
	}

	var samples []sample
	for number := 1; number <= edits; number++ {
		for _, r := range rows {
			if r.name != "loop" && number%2 != 0 {
				continue
			}
			s, err := b.measure(r, number)
			if err != nil {
				return fmt.Errorf("%s, edit %d: %w", r.name, number, err)
			}
			samples = append(samples, s)
			b.settle(r.way)
		}
	}
	var testsTook float64
	var cost supervisorCost
	if slices.Contains(wanted, "loop") {
		loop.stop() // two cannot build for the same pods
		b.settle(loop)
		var more []sample
		if more, testsTook, err = b.measureBusy(busy); err != nil {
			return fmt.Errorf("%s: %w", busy.name, err)
		}
		samples = append(samples, more...)
		at := slices.IndexFunc(rows, func(r *row) bool { return r.name == "loop-internal" })
		rows = slices.Insert(rows, at+1, busy)
		if cost, err = b.supervisorCost(); err != nil {
			return err
		}
	}
	return report(filepath.Join(b.root, results+"-"+c.Product), rows, samples, testsTook, b.onNode.cpu(), cost)
}

// air returns what developers use without a cluster: a program that compiles and restarts the service on this machine.
func (b *bench) air() (*way, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer listener.Close()
	_, port, err := net.SplitHostPort(listener.Addr().String())
	temporary := filepath.Join(b.work, "air", "tmp")
	return &way{name: "air",
		command: []string{"env", "LISTEN_ADDR=127.0.0.1:" + port, "air", "--build.pre_cmd", "touch tmp/begun",
			"--build.cmd", "go build -o ./tmp/main ./invoice-app"},
		services: []*service{{name: "invoice-app", port: port, built: filepath.Join(temporary, "main")}},
		begun:    filepath.Join(temporary, "begun"),
	}, err
}

// prepare creates a row's copy of the repository, unless its way has one, and starts the way's command.
func (b *bench) prepare(r *row) error {
	if r.checkout == "" {
		r.checkout = filepath.Join(b.work, r.way.name)
		if err := checkouttest.Copy(b.root, r.checkout); err != nil {
			return fmt.Errorf("copy the checkout: %w", err)
		}
		if r.command != nil {
			if err := b.start(r.way); err != nil {
				return err
			}
		}
	}
	content, err := os.ReadFile(filepath.Join(r.checkout, r.edit.file))
	if err != nil {
		return err
	}
	r.original = string(content)
	if !strings.Contains(r.original, r.edit.text) {
		return fmt.Errorf("%s has no %q", r.edit.file, r.edit.text)
	}
	return nil
}

// start starts a way's command, and before it, on the cluster, creates its namespace and database.
func (b *bench) start(w *way) error {
	folder := w.checkout
	if w.services == nil {
		folder = filepath.Join(w.checkout, "bench", w.name)
		w.services = []*service{{name: "invoice-app", namespace: "bench-" + w.name, port: "8081",
			built: filepath.Join(folder, "bin/invoice-app")}}
		w.begun = filepath.Join(folder, "bin.begun")
		if err := b.prepareNamespace(w); err != nil {
			return err
		}
	}
	for _, s := range w.services {
		s.running = ""
		if s.namespace != "" && !s.watched {
			s.watched = true
			go b.watchPods(s)
		}
	}

	logs, err := os.Create(filepath.Join(b.root, ".build/bench", w.name+".log"))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(b.ctx)
	command := exec.CommandContext(ctx, w.command[0], w.command[1:]...)
	command.Dir = folder
	command.Stdout, command.Stderr = logs, logs
	command.Cancel = func() error { return command.Process.Signal(os.Interrupt) }
	command.WaitDelay = 20 * time.Second
	if err := command.Start(); err != nil {
		cancel()
		return err
	}
	ended := make(chan struct{})
	w.stop = func() {
		cancel()
		<-ended
	}
	b.started.Go(func() {
		defer close(ended)
		defer logs.Close()
		if err := command.Wait(); ctx.Err() == nil {
			b.cancel(fmt.Errorf("%s exited (%v): see %s", w.name, err, logs.Name()))
		}
	})
	if w.live {
		return b.awaitGoLive(w)
	}
	return nil
}

// prepareNamespace creates a namespace with Pod Security, passwords and the database, like invoice-app's
// own one.
func (b *bench) prepareNamespace(w *way) error {
	namespace := w.services[0].namespace
	if err := b.kubectl(fmt.Sprintf(`{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": %q,
		"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}`, namespace),
		"apply", "--filename=-"); err != nil {
		return err
	}
	if _, err := output(filepath.Join(w.checkout, "workspace/run"),
		"make-passwords", b.cluster.Context, namespace); err != nil {
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
`, namespace, image[:colon], image[colon+1:]), 0o644); err != nil {
		return err
	}
	if err := b.kubectl("", "apply", "--kustomize="+database); err != nil {
		return err
	}
	in := "--namespace=" + namespace
	if err := b.kubectl("", in, "rollout", "status", "statefulset/postgres", "--timeout=5m"); err != nil {
		return err
	}
	// PostgreSQL has a database named after the namespace; the service uses the one of its usual namespace.
	if err := b.kubectl("", in, "exec", "postgres-0", "--container=postgres", "--",
		"psql", "--quiet", "--command=CREATE DATABASE "+b.cluster.live("invoice-app").namespace+" OWNER owner",
		"postgres"); err != nil {
		return err
	}
	rendered, err := output("kubectl", "kustomize", filepath.Join(w.checkout, "bench", w.name))
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(w.checkout, "bench", w.name, "rendered.yaml"), []byte(rendered), 0o644)
}

// measure edits the code, and waits until the edit is live.
func (b *bench) measure(r *row, number int) (sample, error) {
	services := r.services[:min(r.edit.services, len(r.services))]
	for _, s := range services {
		if s.running == "" {
			if _, err := b.await(s); err != nil {
				return sample{}, err
			}
		}
	}
	code := strings.Replace(r.original, r.edit.text,
		fmt.Sprintf("%s (%s %s %d)", r.edit.text, r.name, b.stamp, number), 1)
	saved := time.Now()
	if err := os.WriteFile(filepath.Join(r.checkout, r.edit.file), []byte(code), 0o644); err != nil {
		return sample{}, err
	}
	s := sample{Way: r.name, Edit: number}
	var begun, built time.Time
	if r.command == nil {
		build := exec.Command("go", "build", "-o", filepath.Join(b.work, "program"), "./invoice-app")
		build.Dir = r.checkout
		if text, err := build.CombinedOutput(); err != nil {
			return s, fmt.Errorf("%w\n%s", err, text)
		}
		s.live = time.Now()
		begun, built = saved, s.live
	} else {
		var err error
		if s.live, err = b.await(services...); err != nil {
			return s, err
		}
		if begun, err = modified(r.begun); err != nil {
			return s, err
		}
		for _, service := range services {
			program, err := os.ReadFile(service.built)
			if err != nil {
				return s, err
			}
			if sum := fmt.Sprintf("%x", sha256.Sum256(program)); sum != service.running {
				return s, fmt.Errorf("%s has SHA-256 %s, but %s is running", service.built, sum, service.running)
			}
			written, err := modified(service.built)
			if err != nil {
				return s, err
			}
			if written.After(built) {
				built = written
			}
		}
	}
	s.Total = s.live.Sub(saved).Seconds()
	s.Notice = begun.Sub(saved).Seconds()
	s.Compile = built.Sub(begun).Seconds()
	s.Rest = s.live.Sub(built).Seconds()
	if r.live {
		var err error
		if s.Reported, err = r.reported(services[0].running); err != nil {
			return s, err
		}
	}
	log.Printf("edit %2d  %-13s %6.2f s  (notice %.2f, compile %.2f, rest %.2f)",
		number, s.Way, s.Total, s.Notice, s.Compile, s.Rest)
	return s, nil
}

func modified(file string) (time.Time, error) {
	info, err := os.Stat(file)
	if err != nil {
		return time.Time{}, err
	}
	return info.ModTime(), nil
}

// settle waits until the replaced pods have terminated, and the machine is idle again.
func (b *bench) settle(w *way) {
	for _, s := range w.services {
		for deadline := time.Now().Add(enough); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
			if _, others := b.replicas(s); others == 0 {
				break
			}
		}
	}
	time.Sleep(2 * time.Second)
}

// measureBusy measures edits that each come a second after the one before is live, so that its tests still run: three
// times five. It also returns how long the tests took that no edit has interrupted.
func (b *bench) measureBusy(r *row) (samples []sample, testsTook float64, err error) {
	if err := b.prepare(r); err != nil {
		return nil, 0, err
	}
	var took []float64
	for group := range 4 {
		edits := 6 // nothing runs at the first
		if group == 0 {
			edits = 1 // compiles the tests
		}
		for n := range edits {
			s, err := b.measure(r, group*10+n)
			if err != nil {
				return nil, 0, err
			}
			if n > 0 {
				samples = append(samples, s)
			}
			time.Sleep(time.Until(s.live.Add(time.Second)))
		}
		said, err := b.wait(r.way)
		if err != nil {
			return nil, 0, err
		}
		if said.Tests == nil {
			return nil, 0, errors.New("the tests have not run")
		}
		if group > 0 {
			took = append(took, said.Tests.Seconds)
		}
	}
	return samples, slices.Min(took), nil
}
