package production

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// onNode runs a shell script as root on a node, which is a container, and returns its output.
func onNode(ctx context.Context, node, script string, arguments ...string) (string, error) {
	command := exec.CommandContext(ctx, "docker",
		append([]string{"exec", node, "sh", "-euc", script, "sh"}, arguments...)...)
	var said bytes.Buffer
	command.Stdout, command.Stderr = &said, &said
	if err := command.Run(); err != nil {
		return "", fmt.Errorf("on %s: %w: %.500s", node, err, said.String())
	}
	return strings.TrimSpace(said.String()), nil
}

// processes is the beginning of a script: it sets $pids to the processes of the container $1.
const processes = `
first=$(cat "/run/containerd/io.containerd.runtime.v2.task/k8s.io/$1/init.pid")
space=$(readlink "/proc/$first/ns/pid")
pids=
for process in /proc/[0-9]*; do
	[ "$(readlink "$process/ns/pid" 2>/dev/null)" != "$space" ] || pids="$pids ${process#/proc/}"
done
`

// signal sends a signal to all processes of a pod's first container at once.
func signal(ctx context.Context, pod corev1.Pod, name string) error {
	if len(pod.Status.ContainerStatuses) == 0 || pod.Status.ContainerStatuses[0].State.Running == nil {
		return fmt.Errorf("pod %s does not run", pod.Name)
	}
	_, id, _ := strings.Cut(pod.Status.ContainerStatuses[0].ContainerID, "://")
	_, err := onNode(ctx, pod.Spec.NodeName, processes+`kill -s "$2" $pids`, id, name)
	return err
}

// freeze stops a pod for a while. The pod may be killed meanwhile.
func freeze(ctx context.Context, pod corev1.Pod, duration time.Duration) error {
	if err := signal(ctx, pod, "STOP"); err != nil {
		return err
	}
	time.Sleep(duration)
	_ = signal(context.WithoutCancel(ctx), pod, "CONT")
	return nil
}

// cut drops all packets between the pods of two sets, in both directions, for a while.
func cut(ctx context.Context, nodes []string, a, b []corev1.Pod, duration time.Duration) error {
	var pairs []string
	for _, one := range a {
		for _, other := range b {
			if one.Status.PodIP != "" && other.Status.PodIP != "" {
				pairs = append(pairs, one.Status.PodIP+" "+other.Status.PodIP, other.Status.PodIP+" "+one.Status.PodIP)
			}
		}
	}
	rules := []string{"add table inet chaos", "add chain inet chaos cut { type filter hook forward priority -400; }"}
	for _, pair := range pairs {
		from, to, _ := strings.Cut(pair, " ")
		rules = append(rules, fmt.Sprintf("add rule inet chaos cut ip saddr %s ip daddr %s drop", from, to))
	}
	for _, node := range nodes {
		if _, err := onNode(ctx, node, `printf '%s\n' "$@" | nft -f -`, rules...); err != nil {
			return err
		}
		defer func() {
			_, _ = onNode(context.WithoutCancel(ctx), node, `nft delete table inet chaos`)
		}()
	}
	time.Sleep(duration)
	return nil
}
