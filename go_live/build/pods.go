package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// answerPatience is how long the pods may take to run a new program. The supervisor gives it 45 s to start.
	answerPatience = time.Minute
	// restartPatience is how long all pods may take to restart, one by one.
	restartPatience = 5 * time.Minute
	askEvery        = 100 * time.Millisecond
)

// pods asks the pods which program they run, through the API server.
type pods struct {
	context string // kubectl's
	socket  string // of kubectl proxy

	mu     sync.Mutex
	client *http.Client // nil until the proxy runs
	end    func()       // ends the proxy
	closed bool
}

// deployment and pod are the parts of these objects that matter here.
type deployment struct {
	Metadata struct{ Generation int }
	Spec     struct {
		Replicas int
		Selector struct{ MatchLabels map[string]string }
		Template struct {
			Spec struct{ Containers []struct{ Command []string } }
		}
	}
	Status struct{ ObservedGeneration, Replicas, UpdatedReplicas, AvailableReplicas int }
}

type pod struct {
	Metadata struct{ Name, DeletionTimestamp string }
	Status   struct {
		Phase                                    string
		InitContainerStatuses, ContainerStatuses []containerStatus
	}
}

type containerStatus struct {
	Name             string
	State, LastState struct{ Waiting, Terminated *containerState }
}

type containerState struct {
	Reason, Message string
	ExitCode        int
}

// answer is what the supervisor says of a program.
type answer struct {
	Serves bool
	Failed string // why it did not start
}

var errNoDeployment = errors.New("no Deployment runs it")

// supervised returns the program's Deployment, or errNoDeployment if there is none, or if it runs an image instead.
func (p *pods) supervised(ctx context.Context, of program) (deployment, error) {
	var d deployment
	err := p.get(ctx, of.deployment(), &d)
	if errors.Is(err, errNotFound) {
		return d, fmt.Errorf("%w: %s does not exist in namespace %s", errNoDeployment, of.Name, of.Namespace)
	}
	if err != nil {
		return d, err
	}
	for _, c := range d.Spec.Template.Spec.Containers {
		if len(c.Command) > 0 && (c.Command[0] == "/supervisor" || c.Command[0] == "/live/dlv") {
			return d, nil
		}
	}
	return d, fmt.Errorf("%w: %s runs an image, which something else has deployed", errNoDeployment, of.Name)
}

// restart restarts the program's pods one by one.
func (p *pods) restart(ctx context.Context, of program) error {
	if _, err := p.supervised(ctx, of); err != nil {
		return err
	}
	patch := fmt.Sprintf(`{"spec":{"template":{"metadata":{"annotations":{"kubectl.kubernetes.io/restartedAt":%q}}}}}`,
		time.Now().Format(time.RFC3339Nano))
	return p.call(ctx, http.MethodPatch, of.deployment(), strings.NewReader(patch), nil)
}

// await waits until every pod of the program runs the one with this SHA-256, and returns how many there are. If
// deploying, it also waits for the Deployment.
func (p *pods) await(
	ctx context.Context, of program, sum string, limit time.Duration, deploying bool,
) (int, error) {
	until := time.Now().Add(limit)
	for {
		n, waiting, err := p.look(ctx, of, sum)
		if deploying && errors.Is(err, errNoDeployment) {
			waiting, err = []string{err.Error()}, nil
		}
		if err != nil || len(waiting) == 0 {
			return n, err
		}
		if time.Now().After(until) {
			return n, fmt.Errorf("after %s, not all pods run %s: %s", limit, of.Name, strings.Join(waiting, "; "))
		}
		select {
		case <-ctx.Done():
			return n, ctx.Err()
		case <-time.After(askEvery):
		}
	}
}

// look returns how many pods there are, and what those say that do not run the program yet. It fails if a pod says that
// it will not run it.
func (p *pods) look(ctx context.Context, of program, sum string) (n int, waiting []string, err error) {
	d, err := p.supervised(ctx, of)
	if err != nil {
		return 0, nil, err
	}
	selector := []string{}
	for key, value := range d.Spec.Selector.MatchLabels {
		selector = append(selector, key+"="+value)
	}
	var list struct{ Items []pod }
	query := "?labelSelector=" + url.QueryEscape(strings.Join(selector, ","))
	if err := p.get(ctx, of.namespaced("/api/v1", "pods")+query, &list); err != nil {
		return 0, nil, err
	}
	list.Items = slices.DeleteFunc(list.Items, func(pod pod) bool {
		return pod.Metadata.DeletionTimestamp != "" || slices.Contains([]string{"Succeeded", "Failed"}, pod.Status.Phase)
	})
	if missing := d.Spec.Replicas - len(list.Items); missing > 0 {
		waiting = append(waiting, fmt.Sprintf("%d pods do not exist yet", missing))
	}
	s := d.Status
	if s.ObservedGeneration < d.Metadata.Generation || s.UpdatedReplicas < s.Replicas ||
		of.Debugger != "" && s.AvailableReplicas < s.Replicas {
		waiting = append(waiting, "its pods restart")
	}
	if of.Debugger != "" { // which cannot be asked
		return len(list.Items), waiting, nil
	}
	answers, errs := make([]answer, len(list.Items)), make([]error, len(list.Items))
	var all sync.WaitGroup
	for i, pod := range list.Items {
		all.Go(func() {
			errs[i] = p.get(ctx, fmt.Sprintf("%s/%s:%s/proxy/?program=%s",
				of.namespaced("/api/v1", "pods"), pod.Metadata.Name, of.StatusPort, sum), &answers[i])
		})
	}
	all.Wait()
	for i, pod := range list.Items {
		name, failed := pod.Metadata.Name, pod.failure()
		switch {
		case answers[i].Failed != "":
			return len(list.Items), nil, fmt.Errorf("pod %s: %s", name, answers[i].Failed)
		case answers[i].Serves:
		case failed != "":
			return len(list.Items), nil, fmt.Errorf("pod %s: %s", name, failed)
		case errs[i] != nil:
			waiting = append(waiting, fmt.Sprintf("pod %s does not answer: %v", name, errs[i]))
		default:
			waiting = append(waiting, fmt.Sprintf("pod %s runs another build", name))
		}
	}
	return len(list.Items), waiting, nil
}

// failure says why the pod cannot start, or is empty.
func (p pod) failure() string {
	for _, c := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		ended, waiting := c.State.Terminated, c.State.Waiting
		if waiting != nil && waiting.Reason == "CrashLoopBackOff" {
			ended = c.LastState.Terminated
		}
		switch {
		case ended != nil && ended.ExitCode != 0:
			why := "see its log"
			if lines := strings.Split(strings.TrimSpace(ended.Message), "\n"); lines[0] != "" {
				why = lines[len(lines)-1]
			}
			return fmt.Sprintf("container %s ended with exit code %d: %s", c.Name, ended.ExitCode, why)
		case waiting != nil && !slices.Contains(
			[]string{"", "ContainerCreating", "PodInitializing", "CrashLoopBackOff"}, waiting.Reason):
			return fmt.Sprintf("container %s: %s: %s", c.Name, waiting.Reason, waiting.Message)
		}
	}
	return ""
}

// freeVolume makes the program's volume available to its claim.
func (p *pods) freeVolume(ctx context.Context, of program) error {
	return freeVolume(ctx, func(ctx context.Context, args ...string) (string, error) {
		command := exec.CommandContext(ctx, "kubectl",
			append([]string{"--context=" + p.context, "--namespace=" + of.Namespace}, args...)...)
		var stderr bytes.Buffer
		command.Stderr = &stderr
		said, err := command.Output()
		if err != nil {
			return "", fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
		}
		return string(said), nil
	}, "live-"+of.Namespace+"-"+of.Name, of.Name+"-live")
}

func (p program) deployment() string {
	return p.namespaced("/apis/apps/v1", "deployments") + "/" + p.Name
}

func (p program) namespaced(api, kind string) string {
	return api + "/namespaces/" + p.Namespace + "/" + kind
}

var errNotFound = errors.New("not found")

func (p *pods) get(ctx context.Context, path string, into any) error {
	return p.call(ctx, http.MethodGet, path, nil, into)
}

// call sends a request to the API server, and decodes the JSON response.
func (p *pods) call(ctx context.Context, method, path string, body io.Reader, into any) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	client, err := p.proxy(ctx)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://localhost"+path, body)
	if err != nil {
		return err
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/merge-patch+json")
	}
	response, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("context %s: %w", p.context, err)
	}
	defer response.Body.Close()
	said, err := io.ReadAll(response.Body)
	switch {
	case err != nil:
		return err
	case response.StatusCode == http.StatusNotFound:
		return errNotFound
	case response.StatusCode >= http.StatusBadRequest:
		return fmt.Errorf("%s: %s", response.Status, bytes.TrimSpace(said[:min(len(said), 200)]))
	case into == nil:
		return nil
	}
	return json.Unmarshal(said, into)
}

// proxy returns a client that reaches the API server through kubectl proxy, which is started on first use: it knows
// every way to log in, and a new kubectl for each request would take as long as a program takes to start.
func (p *pods) proxy(ctx context.Context) (*http.Client, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.client != nil {
		return p.client, nil
	}
	if p.closed {
		return nil, errors.New("the watcher ends")
	}
	if err := os.RemoveAll(p.socket); err != nil {
		return nil, err
	}
	var stderr bytes.Buffer
	kubectl := exec.Command("kubectl", "proxy", "--context="+p.context, "--unix-socket="+p.socket)
	kubectl.Stderr = &stderr
	kubectl.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // kubectl may be a script, or start others to log in
	if err := kubectl.Start(); err != nil {
		return nil, err
	}
	p.end = func() { _ = syscall.Kill(-kubectl.Process.Pid, syscall.SIGKILL) } // fails if it has ended
	ended := make(chan struct{})
	go func() {
		_ = kubectl.Wait() // its output says why
		close(ended)
		p.mu.Lock()
		defer p.mu.Unlock()
		p.client = nil
	}()
	for {
		if connection, err := net.Dial("unix", p.socket); err == nil {
			connection.Close()
			dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "unix", p.socket)
			}
			p.client = &http.Client{Transport: &http.Transport{DialContext: dial}}
			return p.client, nil
		}
		select {
		case <-ended:
			return nil, fmt.Errorf("kubectl proxy ended: %s", bytes.TrimSpace(stderr.Bytes()))
		case <-ctx.Done():
			p.end()
			return nil, ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// close ends the proxy.
func (p *pods) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	if p.end != nil {
		p.end()
	}
}
