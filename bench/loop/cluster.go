package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// supervisorCost is the cost of our loop's PID 1, in bytes.
type supervisorCost struct {
	Image    int64   `json:"image"`
	Resident []int64 `json:"resident"`
}

type pod struct {
	Metadata struct{ Name, DeletionTimestamp string }
	Status   struct {
		PodIP      string
		Conditions []struct{ Type, Status string }
	}
}

func output(name string, arguments ...string) (string, error) {
	text, err := exec.Command(name, arguments...).Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = fmt.Errorf("%s: %w\n%s", strings.Join(append([]string{name}, arguments...), " "), err, exit.Stderr)
	}
	return strings.TrimSpace(string(text)), err
}

func (b *bench) kubectl(input string, arguments ...string) error {
	command := exec.Command("kubectl", append([]string{"--context=" + b.cluster.Context}, arguments...)...)
	command.Stdin = strings.NewReader(input)
	if text, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(command.Args, " "), err, text)
	}
	return nil
}

// watcher is a process of ../watcher.
type watcher struct {
	in  io.WriteCloser
	out chan string // what it prints
}

// startWatchers runs a watcher on the node, which can reach all pods, and one on this machine.
func (b *bench) startWatchers() (err error) {
	const program = "/usr/local/bin/bench-watcher"
	watcherFile := filepath.Join(b.root, ".build/bench/watcher")
	if _, err := output("docker", "cp", watcherFile, b.cluster.Node+":"+program); err != nil {
		return err
	}
	if b.onNode, err = startWatcher(b.ctx, "docker", "exec", "--interactive", b.cluster.Node, program); err != nil {
		return err
	}
	b.onHost, err = startWatcher(b.ctx, "go", "run", "./watcher")
	return err
}

func startWatcher(ctx context.Context, name string, args ...string) (*watcher, error) {
	command := exec.CommandContext(ctx, name, args...)
	command.Stderr = os.Stderr
	w := &watcher{out: make(chan string)}
	command.Cancel = func() error { return w.in.Close() } // then it exits
	var err error
	if w.in, err = command.StdinPipe(); err != nil {
		return nil, err
	}
	said, err := command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	go func() {
		for lines := bufio.NewScanner(said); lines.Scan(); {
			w.out <- lines.Text()
		}
	}()
	return w, command.Start()
}

// cpu ends the watcher, and returns how much of a core it has used.
func (w *watcher) cpu() (cpu string) {
	w.in.Close()
	for found := false; !found; { // skip results that it printed twice
		cpu, found = strings.CutPrefix(<-w.out, "cpu ")
	}
	return cpu
}

func (b *bench) startProxy() error {
	proxy := exec.CommandContext(b.ctx, "kubectl", "--context="+b.cluster.Context, "proxy", "--port=0")
	said, err := proxy.StdoutPipe()
	if err != nil {
		return err
	}
	if err := proxy.Start(); err != nil {
		return err
	}
	line, err := bufio.NewReader(said).ReadString('\n') // Starting to serve on 127.0.0.1:40123
	if err != nil {
		return fmt.Errorf("kubectl proxy: %w", err)
	}
	b.api = "http://" + strings.TrimSpace(line[strings.LastIndex(line, " "):])
	return nil
}

// watchPods keeps a service's pods up to date.
func (b *bench) watchPods(s *service) {
	for b.ctx.Err() == nil {
		b.mu.Lock()
		s.pods = map[string]pod{}
		b.mu.Unlock()
		response, err := http.Get(b.api + "/api/v1/namespaces/" + s.namespace +
			"/pods?watch=1&labelSelector=app.kubernetes.io/name=" + s.name)
		if err != nil {
			time.Sleep(time.Second)
			continue
		}
		for events := json.NewDecoder(response.Body); ; {
			var event struct {
				Type   string
				Object pod
			}
			if err := events.Decode(&event); err != nil {
				break
			}
			b.mu.Lock()
			if event.Type == "DELETED" {
				delete(s.pods, event.Object.Metadata.Name)
			} else {
				s.pods[event.Object.Metadata.Name] = event.Object
			}
			b.mu.Unlock()
		}
		response.Body.Close()
	}
}

// replicas returns the addresses of the Ready pods that are not being deleted, or nil if their number is
// wrong; and the number of all other pods.
func (b *bench) replicas(s *service) (addresses []string, others int) {
	if s.namespace == "" {
		return []string{"127.0.0.1"}, 0
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range s.pods {
		if p.Metadata.DeletionTimestamp != "" {
			continue
		}
		for _, condition := range p.Status.Conditions {
			if condition.Type == "Ready" && condition.Status == "True" {
				addresses = append(addresses, p.Status.PodIP)
			}
		}
	}
	slices.Sort(addresses)
	others = len(s.pods) - len(addresses)
	if len(addresses) != replica {
		return nil, others
	}
	return addresses, others
}

// await waits until the replicas of each service run the same new program, and returns the time.
func (b *bench) await(services ...*service) (at time.Time, err error) {
	watcher := b.onNode
	if services[0].namespace == "" {
		watcher = b.onHost
	}
	var sent string
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(enough)
	for {
		select {
		case <-tick.C:
			var query []string
			for _, s := range services {
				addresses, _ := b.replicas(s)
				query = append(query, strings.Join(append([]string{cmp.Or(s.running, "any"), s.port}, addresses...), "/"))
			}
			if line := strings.Join(query, " "); line != sent {
				sent = line
				if _, err := fmt.Fprintln(watcher.in, line); err != nil {
					return at, fmt.Errorf("watcher: %w", err)
				}
			}
		case line := <-watcher.out:
			said := strings.Fields(line)
			if len(said) != len(services)+1 {
				continue // printed twice, after an edit of other services
			}
			nanoseconds, err := strconv.ParseInt(said[len(services)], 10, 64)
			if err != nil {
				return at, fmt.Errorf("watcher printed %q", line)
			}
			old := false
			for i, s := range services {
				old = old || said[i] == s.running
			}
			if old {
				continue // printed twice
			}
			for i, s := range services {
				s.running = said[i]
			}
			return time.Unix(0, nanoseconds), nil
		case <-timeout:
			return at, fmt.Errorf("no new program after %s: see .build/bench/*.log", enough)
		case <-b.ctx.Done():
			return at, context.Cause(b.ctx)
		}
	}
}

// imageSize returns the size of an image's layers in a registry on localhost.
func imageSize(ref string) (size int64, err error) {
	registry, image, _ := strings.Cut(ref, "/")
	repository, tag, _ := strings.Cut(image, ":")
	request, err := http.NewRequest(http.MethodGet, "http://"+registry+"/v2/"+repository+"/manifests/"+tag, nil)
	if err != nil {
		return 0, err
	}
	request.Header.Set("Accept", "application/vnd.docker.distribution.manifest.v2+json") // Docker has pushed it
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("%s: %s", request.URL, response.Status)
	}
	var manifest struct{ Layers []struct{ Size int64 } }
	if err := json.NewDecoder(response.Body).Decode(&manifest); err != nil {
		return 0, fmt.Errorf("%s: %w", request.URL, err)
	}
	for _, layer := range manifest.Layers {
		size += layer.Size
	}
	return size, nil
}

// supervisorCost measures what our loop's PID 1 adds to an image and to a pod: the compressed size of an
// image with nothing else, and the resident memory of each process.
func (b *bench) supervisorCost() (cost supervisorCost, err error) {
	ref, err := output("kubectl", "--context="+b.cluster.Context, "--namespace="+b.cluster.live("invoice-app").namespace,
		"get", "deployment", "invoice-app",
		"--output=jsonpath={.spec.template.spec.containers[0].image}")
	if err != nil {
		return cost, err
	}
	if cost.Image, err = imageSize(ref); err != nil {
		return cost, err
	}
	text, err := output("docker", "exec", b.cluster.Node, "sh", "-c", "grep -hE '^(Name|VmRSS):' /proc/[0-9]*/status")
	if err != nil && text == "" { // with output, it only means that a process exited in the meantime
		return cost, err
	}
	var name string
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if fields[0] == "Name:" {
			name = fields[1]
		} else if name == "supervisor" {
			var kilobytes int64
			if _, err := fmt.Sscan(fields[1], &kilobytes); err != nil {
				return cost, err
			}
			cost.Resident = append(cost.Resident, kilobytes<<10)
		}
	}
	return cost, nil
}
