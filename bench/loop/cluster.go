package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
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

// startWatcher runs the watcher on the node, which can reach all pods.
func (b *bench) startWatcher() error {
	const program = "/usr/local/bin/bench-watcher"
	watcherFile := filepath.Join(b.root, ".build/bench/watcher")
	if _, err := output("docker", "cp", watcherFile, b.cluster.Node+":"+program); err != nil {
		return err
	}
	watcher := exec.CommandContext(b.ctx, "docker", "exec", "--interactive", b.cluster.Node, program)
	watcher.Stderr = os.Stderr
	var err error
	if b.watcherIn, err = watcher.StdinPipe(); err != nil {
		return err
	}
	said, err := watcher.StdoutPipe()
	if err != nil {
		return err
	}
	go func() {
		for lines := bufio.NewScanner(said); lines.Scan(); {
			b.watcherOut <- lines.Text()
		}
	}()
	return watcher.Start()
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

// watchPods keeps b.pods up to date.
func (b *bench) watchPods(namespace string) {
	for b.ctx.Err() == nil {
		b.mu.Lock()
		b.pods[namespace] = map[string]pod{}
		b.mu.Unlock()
		response, err := http.Get(b.api + "/api/v1/namespaces/" + namespace +
			"/pods?watch=1&labelSelector=app.kubernetes.io/name=invoice-app")
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
				delete(b.pods[namespace], event.Object.Metadata.Name)
			} else {
				b.pods[namespace][event.Object.Metadata.Name] = event.Object
			}
			b.mu.Unlock()
		}
		response.Body.Close()
	}
}

// replicas returns the addresses of the Ready pods that are not being deleted, or nil if their number is
// wrong; and the number of all pods.
func (b *bench) replicas(namespace string) (addresses []string, all int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range b.pods[namespace] {
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
	all = len(b.pods[namespace])
	if len(addresses) != replica {
		return nil, all
	}
	return addresses, all
}

// await waits until every replica runs the same new program, and returns its SHA-256 and the time.
func (b *bench) await(namespace, before string) (running string, at time.Time, err error) {
	var sent string
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(enough)
	for {
		select {
		case <-tick.C:
			addresses, _ := b.replicas(namespace)
			query := strings.Join(append([]string{cmp.Or(before, "any"), "8081"}, addresses...), " ")
			if query != sent {
				sent = query
				if _, err := fmt.Fprintln(b.watcherIn, query); err != nil {
					return "", at, fmt.Errorf("watcher: %w", err)
				}
			}
		case line := <-b.watcherOut:
			var nanoseconds int64
			if _, err := fmt.Sscan(line, &running, &nanoseconds); err != nil {
				return "", at, fmt.Errorf("watcher printed %q", line)
			}
			if running != before {
				return running, time.Unix(0, nanoseconds), nil
			}
		case <-timeout:
			return "", at, fmt.Errorf("no new program in %s after %s: see .build/bench/*.log", namespace, enough)
		case <-b.ctx.Done():
			return "", at, context.Cause(b.ctx)
		}
	}
}

// loopSplits returns the durations that our loop's supervisors log for each part of an update.
func (b *bench) loopSplits() (map[string][]float64, error) {
	text, err := output("kubectl", "--context="+b.cluster.Context, "--namespace="+b.cluster.namespace("invoice-app"),
		"logs", "--tail=-1", "--selector=app.kubernetes.io/name=invoice-app", "--container=invoice-app")
	if err != nil {
		return nil, err
	}
	splits := map[string][]float64{}
	for line := range strings.Lines(text) {
		_, said, found := strings.Cut(line, "updated: ")
		if !found {
			continue
		}
		said, _, _ = strings.Cut(said, " (")
		for part := range strings.SplitSeq(said, ", ") {
			space := strings.LastIndex(part, " ")
			took, err := time.ParseDuration(part[space+1:])
			if err != nil {
				return nil, fmt.Errorf("%q: %w", line, err)
			}
			splits[part[:space]] = append(splits[part[:space]], took.Seconds())
		}
	}
	return splits, nil
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
	ref, err := output("kubectl", "--context="+b.cluster.Context, "--namespace="+b.cluster.namespace("invoice-app"),
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
