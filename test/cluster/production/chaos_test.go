package production

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"example.com/invoices/workspace/services"
)

const (
	shortFaults, longFaults = 20, 200
	// recovers limits how long after the last fault everything must be paid, and the cluster be whole again.
	recovers = 5 * time.Minute
)

// chaos is a run of random faults under load.
type chaos struct {
	*testing.T
	load    *load
	draw    *rand.Rand
	jumping map[string]string // images by service: see jumpClock
}

// fault is a kind of fault. strike causes it once, and has ended what lasts when it returns; healing takes longer.
type fault struct {
	kind   string
	strike func(ctx context.Context, c *chaos) error
}

// kind of pods.
type group struct{ name, namespace, label string }

func (g group) pods(ctx context.Context) ([]corev1.Pod, error) {
	return pods(ctx, g.namespace, g.label)
}

// groups returns the kinds of pods that are killed and frozen.
func groups() (all []group) {
	for _, service := range list.Services {
		all = append(all, groupOf(service))
	}
	return append(all,
		group{"entry", services.Entry, ""},
		group{"operator", "cnpg-system", ""},
		group{"metrics-server", "kube-system", "app.kubernetes.io/name=metrics-server"},
		group{"object store", "object-store", ""},
	)
}

func groupOf(service services.Service) group {
	return group{service.Name, service.Team, "app.kubernetes.io/name=" + service.Name}
}

// instances returns the group of a database's instances with a role: primary or replica.
func instances(name, role string) group {
	return group{role + " of " + name, services.Databases, "cnpg.io/cluster=" + name + ",cnpg.io/instanceRole=" + role}
}

// faults returns all faults.
func faults() (all []fault) {
	killed := groups()
	for _, name := range databases() {
		killed = append(killed, instances(name, "replica"))
	}
	for _, g := range killed {
		all = append(all, fault{g.name + ": pod deleted", deleted(g)}, fault{g.name + ": killed", signaled(g, "KILL")},
			fault{g.name + ": frozen", frozen(g)})
	}
	for _, name := range databases() {
		primary := instances(name, "primary")
		all = append(all,
			fault{primary.name + ": killed", signaled(primary, "KILL")},
			fault{primary.name + ": frozen", frozen(primary)},
			fault{primary.name + ": pod deleted", func(ctx context.Context, c *chaos) error {
				return c.failOver(ctx, name, false)
			}},
			fault{primary.name + ": destroyed with its volume", func(ctx context.Context, c *chaos) error {
				return c.failOver(ctx, name, true)
			}},
			fault{"volume of " + name + " full", func(ctx context.Context, c *chaos) error {
				return c.fillVolume(ctx, name)
			}},
		)
	}
	edges := map[string][2]string{}
	for _, service := range list.Services {
		if !testing.Short() { // the program is built from scratch, with another clock
			all = append(all, fault{service.Name + ": clock jumps", func(ctx context.Context, c *chaos) error {
				return c.jumpClock(ctx, groupOf(service))
			}})
		}
		edges[service.Name+" and its database"] = [2]string{service.Team, services.Databases}
		for _, called := range service.Calls {
			edges[service.Name+" and "+called] = [2]string{service.Team, teamOf(called)}
		}
		if service.Public {
			edges["entry and "+service.Name] = [2]string{services.Entry, service.Team}
		}
	}
	edges["instances of the databases"] = [2]string{services.Databases, services.Databases}
	for _, name := range slices.Sorted(maps.Keys(edges)) {
		all = append(all, fault{"network cut: " + name, networkCut(edges[name])})
	}
	return append(all,
		fault{"worker stopped hard", func(ctx context.Context, c *chaos) error { return c.stopWorkerHard(ctx) }},
		fault{"API server killed", func(ctx context.Context, c *chaos) error { return c.killAPIServer(ctx) }},
	)
}

// TestNothingIsLostOrDoubled causes random faults while invoices arrive and are paid, and then compares both databases
// with what clients were told.
func TestNothingIsLostOrDoubled(t *testing.T) {
	number := longFaults
	if testing.Short() {
		number = shortFaults
	}
	if text := os.Getenv("PRODUCTION_FAULTS"); text != "" {
		var err error
		number, err = strconv.Atoi(text)
		require.NoError(t, err)
	}
	await(t, heals, healed)
	c := &chaos{T: t, load: newLoad(seed), draw: rand.New(rand.NewPCG(seed, 2)), jumping: map[string]string{}}
	t.Logf("PRODUCTION_SEED=%d PRODUCTION_FAULTS=%d", seed, number)
	c.load.begin(t)
	ctx := context.Background()
	var deck []fault
	counts := map[string]int{}
	for n := 0; n < number; {
		if len(deck) == 0 { // each kind once, before any of them again
			deck = faults()
			c.draw.Shuffle(len(deck), func(i, j int) { deck[i], deck[j] = deck[j], deck[i] })
		}
		next := deck[0]
		deck = deck[1:]
		began := time.Now()
		if err := next.strike(ctx, c); err != nil {
			t.Logf("%s %s: not possible now: %v", began.Format(time.TimeOnly), next.kind, err)
			time.Sleep(time.Second)
			continue
		}
		t.Logf("%s %3d %s: %s", began.Format(time.TimeOnly), n, next.kind, time.Since(began).Round(100*time.Millisecond))
		counts[next.kind]++
		n++
		time.Sleep(c.between(0, 4*time.Second))
	}
	began := time.Now()
	await(t, recovers, healed) // also with clocks that jump
	c.resetClocks(ctx)
	await(t, heals, healed)
	t.Logf("whole again after %s", time.Since(began).Round(time.Second))
	violations := c.load.finish(t, recovers)
	t.Log(c.load.report())
	for _, kind := range slices.Sorted(maps.Keys(counts)) {
		t.Logf("  %3d %s", counts[kind], kind)
	}
	doubled, lost := count(violations)
	figures.add("faults", number)
	figures.add("doubled", doubled)
	figures.add("lost", lost)
	assert.Empty(t, violations)
}

// between returns a random duration.
func (c *chaos) between(least, most time.Duration) time.Duration {
	return least + time.Duration(c.draw.Int64N(int64(most-least)))
}

// victim returns a random pod of a group.
func (c *chaos) victim(ctx context.Context, g group) (corev1.Pod, error) {
	// The random number is drawn in any case, so that a seed repeats the run whatever the pods are doing.
	number := c.draw.Uint64()
	found, err := g.pods(ctx)
	switch {
	case err != nil:
		return corev1.Pod{}, err
	case len(found) == 0:
		return corev1.Pod{}, fmt.Errorf("there is no pod of %s", g.name)
	}
	return found[number%uint64(len(found))], nil
}

// deleted deletes a pod without giving it time.
func deleted(g group) func(context.Context, *chaos) error {
	return func(ctx context.Context, c *chaos) error {
		pod, err := c.victim(ctx, g)
		if err != nil {
			return err
		}
		return deletePod(ctx, pod)
	}
}

func deletePod(ctx context.Context, pod corev1.Pod) error {
	now := int64(0)
	return client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &now})
}

// signaled sends a signal to the processes of a pod.
func signaled(g group, name string) func(context.Context, *chaos) error {
	return func(ctx context.Context, c *chaos) error {
		pod, err := c.victim(ctx, g)
		if err != nil {
			return err
		}
		return signal(ctx, pod, name)
	}
}

// frozen freezes a pod for less or more than a claim lasts.
func frozen(g group) func(context.Context, *chaos) error {
	return func(ctx context.Context, c *chaos) error {
		pod, err := c.victim(ctx, g)
		duration := c.between(time.Second, 20*time.Second)
		if err != nil {
			return err
		}
		return freeze(ctx, pod, duration)
	}
}

// networkCut cuts the network between the pods of two namespaces.
func networkCut(namespaces [2]string) func(context.Context, *chaos) error {
	return func(ctx context.Context, c *chaos) error {
		duration := c.between(2*time.Second, 20*time.Second)
		a, err := pods(ctx, namespaces[0], "")
		if err != nil {
			return err
		}
		b, err := pods(ctx, namespaces[1], "")
		if err != nil {
			return err
		}
		nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		var names []string
		for _, node := range nodes.Items {
			names = append(names, node.Name)
		}
		return cut(ctx, names, a, b, duration)
	}
}

// failOver destroys the primary of a database, which must be whole, and measures the time until an invoice that was
// added afterwards is paid.
func (c *chaos) failOver(ctx context.Context, name string, volume bool) error {
	await(c.T, heals, func(ctx context.Context) error { return whole(ctx, name) })
	d, err := getDatabase(ctx, name)
	if err != nil {
		return err
	}
	primary := d.Status.CurrentPrimary
	pod, err := client.CoreV1().Pods(services.Databases).Get(ctx, primary, metav1.GetOptions{})
	if err != nil {
		return err
	}
	began := time.Now()
	if volume { // the claim is gone when its pod is, with everything on the volume
		err := client.CoreV1().PersistentVolumeClaims(services.Databases).Delete(ctx, primary, metav1.DeleteOptions{})
		if err != nil {
			return err
		}
	}
	if err := deletePod(ctx, *pod); err != nil {
		return err
	}
	took, err := c.load.timeToPay(ctx, began)
	if err != nil {
		return err
	}
	c.Logf("paying went on %s after the primary of %s was destroyed", took.Round(100*time.Millisecond), name)
	figures.failover(took)
	return nil
}

// timeToPay adds an invoice, and returns the time from began until a client sees it paid.
func (l *load) timeToPay(ctx context.Context, began time.Time) (time.Duration, error) {
	invoice := l.newInvoices(1)
	l.insist(ctx, invoice)
	for time.Since(began) < recovers {
		if shown, found := l.read(ctx, invoice[0].ID); found && shown.IsPaid {
			return time.Since(began), nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return 0, fmt.Errorf("nothing is paid %s after the fault", recovers)
}

// stopWorkerHard cuts the power of a worker for a while.
func (c *chaos) stopWorkerHard(ctx context.Context) error {
	nodes, err := workers(ctx)
	node, duration := c.draw.Uint64(), c.between(5*time.Second, 60*time.Second)
	if err != nil {
		return err
	}
	name := nodes[node%uint64(len(nodes))]
	run(c.T, "docker", "kill", name)
	time.Sleep(duration)
	run(c.T, "docker", "start", name)
	return nil
}

// workers returns the names of the nodes that are not the control plane.
func workers(ctx context.Context) (names []string, err error) {
	nodes, err := client.CoreV1().Nodes().List(ctx,
		metav1.ListOptions{LabelSelector: "!node-role.kubernetes.io/control-plane"})
	if err != nil {
		return nil, err
	}
	for _, node := range nodes.Items {
		names = append(names, node.Name)
	}
	slices.Sort(names)
	return names, nil
}

// killAPIServer kills the API server, which the kubelet starts again.
func (c *chaos) killAPIServer(ctx context.Context) error {
	found, err := pods(ctx, "kube-system", "component=kube-apiserver")
	if err != nil {
		return err
	}
	return signal(ctx, found[0], "KILL")
}

// room is how much a bounded volume can grow, in MiB: more than the write-ahead log needs, so that it is full only
// while it is filled.
const room = "600"

// fillVolume moves the data of a replica to a small file system, makes it the primary in half of the cases, fills the
// file system for a while, and moves the data back.
func (c *chaos) fillVolume(ctx context.Context, name string) error {
	pod, err := c.victim(ctx, instances(name, "replica"))
	promote, duration := c.draw.IntN(2) == 0, c.between(5*time.Second, 20*time.Second)
	if err != nil {
		return err
	}
	claim, err := client.CoreV1().PersistentVolumeClaims(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	volume, err := client.CoreV1().PersistentVolumes().Get(ctx, claim.Spec.VolumeName, metav1.GetOptions{})
	if err != nil {
		return err
	}
	folder := folderOf(volume.Spec)
	if folder == "" {
		return fmt.Errorf("the volume of %s is not a folder of its node", pod.Name)
	}
	if err := c.whileDown(ctx, pod, `
		size=$(($(du -sm "$1" | cut -f1) + $2))
		mkdir "$1.whole"
		mv "$1"/* "$1.whole"
		mount -t tmpfs -o "size=${size}m,mode=0777" tmpfs "$1"
		cp -a "$1.whole/." "$1"`, folder, room); err != nil {
		return err
	}
	if promote {
		switchOver(c.T, name, pod.Name)
	}
	if _, err := onNode(ctx, pod.Spec.NodeName, `cat /dev/zero >"$1/full" 2>/dev/null || true`, folder); err != nil {
		return err
	}
	time.Sleep(duration)
	if _, err := onNode(ctx, pod.Spec.NodeName, `rm "$1/full"`, folder); err != nil {
		return err
	}
	await(c.T, heals, func(ctx context.Context) error { return whole(ctx, name) })
	return c.whileDown(ctx, pod, `
		rm -rf "$1.whole"
		mkdir "$1.whole"
		cp -a "$1/." "$1.whole"
		umount "$1"
		mv "$1.whole"/* "$1"
		rmdir "$1.whole"`, folder)
}

func folderOf(volume corev1.PersistentVolumeSpec) string {
	switch {
	case volume.Local != nil:
		return volume.Local.Path
	case volume.HostPath != nil:
		return volume.HostPath.Path
	}
	return ""
}

// whileDown runs a script on the node of a database instance while its pod cannot run there, and waits until the
// database is whole again.
func (c *chaos) whileDown(ctx context.Context, pod corev1.Pod, script string, arguments ...string) error {
	await(c.T, heals, func(ctx context.Context) error { return whole(ctx, pod.Labels["cnpg.io/cluster"]) })
	kubectl(c.T, "cordon", pod.Spec.NodeName)
	kubectl(c.T, "--namespace="+pod.Namespace, "delete", "pod", pod.Name)
	_, err := onNode(ctx, pod.Spec.NodeName, script, arguments...)
	kubectl(c.T, "uncordon", pod.Spec.NodeName)
	if err == nil {
		await(c.T, heals, func(ctx context.Context) error { return whole(ctx, pod.Labels["cnpg.io/cluster"]) })
	}
	return err
}
