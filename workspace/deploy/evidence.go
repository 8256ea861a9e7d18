package deploy

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"time"

	"example.com/invoices/workspace/process"
)

// pod is one line of kubectl get pods --all-namespaces.
type pod struct {
	namespace, name string
	ready           bool
}

// pods returns the pods that have not completed.
func (d *Deployment) pods(ctx context.Context) []pod {
	said, _ := process.Output(d.Cluster.Kubectl(ctx, "get", "pods", "--all-namespaces", "--no-headers"))
	var all []pod
	for line := range strings.Lines(said) {
		fields := strings.Fields(line) // namespace, name, 1/1, status …
		if len(fields) < 4 || fields[3] == "Completed" {
			continue
		}
		ready, of, _ := strings.Cut(fields[2], "/")
		all = append(all, pod{fields[0], fields[1], ready == of})
	}
	return all
}

// heartbeat reports progress, because tilt ci prints nothing while it waits.
func (d *Deployment) heartbeat(ctx context.Context) {
	began := time.Now()
	ticks := time.NewTicker(d.Console.Every)
	defer ticks.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticks.C:
		}
		up, all := 0, 0
		for _, pod := range d.pods(ctx) {
			if strings.HasPrefix(pod.namespace, "kube-") || strings.HasPrefix(pod.namespace, "local-path") {
				continue
			}
			all++
			if pod.ready {
				up++
			}
		}
		if ctx.Err() == nil {
			d.Console.Say("  %s pods ready: %d of %d", process.Minutes(time.Since(began)), up, all)
		}
	}
}

// collectEvidence saves diagnostics after a failed deployment, and prints the most useful part.
func (d *Deployment) collectEvidence(ctx context.Context) {
	kubectl := func(args ...string) []byte {
		var out bytes.Buffer
		command := d.Cluster.Kubectl(ctx, args...)
		command.Stdout, command.Stderr = &out, &out
		_ = command.Run() // errors are in the output
		return out.Bytes()
	}
	keep := func(name string, data []byte) {
		if err := os.WriteFile(filepath.Join(d.Cluster.Evidence, name), data, 0o644); err != nil {
			d.Console.Say("%v", err)
		}
	}
	keep("objects.txt", kubectl("get", "all", "--all-namespaces", "--output", "wide"))
	keep("nodes.txt", kubectl("describe", "nodes"))
	events := kubectl("get", "events", "--all-namespaces", "--sort-by", ".lastTimestamp")
	keep("events.txt", events)
	var of bytes.Buffer
	for _, pod := range d.pods(ctx) {
		if pod.ready {
			continue
		}
		of.Write(kubectl("describe", "pod", "--namespace", pod.namespace, pod.name))
		logs := []string{"logs", "--namespace", pod.namespace, pod.name, "--all-containers", "--prefix", "--tail", "40"}
		of.Write(kubectl(append(logs, "--previous")...))
		of.Write(kubectl(logs...))
	}
	keep("pods.txt", of.Bytes())
	_, _ = d.Console.Out.Write(process.LastLines(events, 20))
	_, _ = d.Console.Out.Write(process.LastLines(of.Bytes(), 100))
}
