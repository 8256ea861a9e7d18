// Package production tests the cluster that `workspace/run production` makes: under load from outside, it changes,
// breaks and destroys what runs there, and checks that no request fails, and that no payment is lost or doubled.
//
// Without -short it runs the long form. PRODUCTION_SEED repeats the random choices of a run, and PRODUCTION_FAULTS sets
// the number of faults.
package production

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"example.com/invoices/test/cluster/target"
	"example.com/invoices/workspace/services"
)

// heals is a generous limit for everything that must happen after a change or a fault. It only ends a test that hangs.
const heals = 10 * time.Minute

// Set by TestMain and connect, and used by all tests.
var (
	client     kubernetes.Interface
	cluster    target.Target
	repository string        // the root of the checkout
	list       services.List // the services
	seed       uint64        // of all random choices
	pictures   string        // folder for pictures of impossible histories
)

func TestMain(m *testing.M) {
	if err := connect(); err != nil {
		fmt.Fprintf(os.Stderr, "these tests need a cluster made by workspace/run production: %v\n", err)
		os.Exit(1)
	}
	code := m.Run()
	fmt.Printf("PRODUCTION_SEED=%d\n%s", seed, &figures)
	if file := os.Getenv("FIGURES"); file != "" {
		if err := os.WriteFile(file, []byte(figures.String()), 0o644); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

func connect() (err error) {
	if repository, err = filepath.Abs("../../.."); err != nil {
		return err
	}
	if list, err = services.Read(repository); err != nil {
		return err
	}
	if cluster, err = target.Production(repository); err != nil {
		return err
	}
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(
		clientcmd.NewDefaultClientConfigLoadingRules(),
		&clientcmd.ConfigOverrides{CurrentContext: cluster.Context}).ClientConfig()
	if err != nil {
		return err
	}
	config.QPS = -1 // no limit: the cluster is ours
	config.WarningHandler = rest.NoWarnings{}
	config.Timeout = time.Minute
	if client, err = kubernetes.NewForConfig(config); err != nil {
		return err
	}
	seed = rand.Uint64N(1_000_000)
	if text := os.Getenv("PRODUCTION_SEED"); text != "" {
		if seed, err = strconv.ParseUint(text, 10, 63); err != nil {
			return fmt.Errorf("PRODUCTION_SEED: %w", err)
		}
	}
	if pictures, err = os.MkdirTemp("", "histories-"); err != nil {
		return err
	}
	caller, err = newCaller()
	return err
}

// newCaller gets a certificate for a caller from outside, and trusts the cluster's authority.
func newCaller() (*tls.Config, error) {
	folder, err := os.MkdirTemp("", "caller-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(folder)
	request := command("workspace/run", "make-client-certificate", cluster.Context, folder, "production-test")
	if said, err := request.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%v: %w\n%s", request.Args, err, said)
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(folder, "tls.crt"), filepath.Join(folder, "tls.key"))
	if err != nil {
		return nil, err
	}
	authority, err := os.ReadFile(filepath.Join(folder, "ca.crt"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(authority) {
		return nil, errors.New("ca.crt has no certificate")
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: roots}, nil
}

// figures are the results that are printed after the tests, one a line.
var figures = results{sums: map[string]int{}}

type results struct {
	mu        sync.Mutex
	sums      map[string]int
	failovers []time.Duration
}

// add adds n to a figure.
func (r *results) add(name string, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sums[name] += n
}

func (r *results) failover(took time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failovers = append(r.failovers, took)
}

// String lists the figures, one a line: those that were measured, and the median of the failovers.
func (r *results) String() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(r.sums)) {
		fmt.Fprintln(&b, name, r.sums[name])
	}
	if n := len(r.failovers); n > 0 {
		slices.Sort(r.failovers)
		fmt.Fprintf(&b, "failover-seconds %.1f\n", r.failovers[n/2].Seconds())
	}
	return b.String()
}

// command returns a command that runs in the checkout.
func command(name string, arguments ...string) *exec.Cmd {
	c := exec.Command(name, arguments...)
	c.Dir = repository
	return c
}

// run runs a command and returns its output, which is shown if the command fails.
func run(t *testing.T, name string, arguments ...string) string {
	t.Helper()
	c := command(name, arguments...)
	output, err := c.CombinedOutput()
	require.NoError(t, err, "%v:\n%s", c.Args, output)
	return strings.TrimSpace(string(output))
}

// kubectl runs kubectl on the cluster, and returns its output.
func kubectl(t *testing.T, arguments ...string) string {
	t.Helper()
	return run(t, "kubectl", append([]string{"--context", cluster.Context}, arguments...)...)
}

func asJSON(t *testing.T, value any) string {
	t.Helper()
	text, err := json.Marshal(value)
	require.NoError(t, err)
	return string(text)
}

// pods returns the pods that are not being deleted, sorted by name, in a namespace with a label.
func pods(ctx context.Context, namespace, label string) ([]corev1.Pod, error) {
	found, err := client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: label})
	if err != nil {
		return nil, err
	}
	staying := slices.DeleteFunc(found.Items, func(pod corev1.Pod) bool { return pod.DeletionTimestamp != nil })
	slices.SortFunc(staying, func(a, b corev1.Pod) int { return cmp.Compare(a.Name, b.Name) })
	return staying, nil
}

// databases returns the names of the database clusters, which are those of their teams.
func databases() (names []string) {
	for _, team := range list.Teams() {
		if _, found := team.WithDatabase(); found {
			names = append(names, team.Name)
		}
	}
	return names
}

// database is a CloudNativePG cluster.
type database struct {
	Spec struct {
		Instances int
	}
	Status struct {
		Phase          string
		ReadyInstances int
		CurrentPrimary string
		TargetPrimary  string
		InstanceNames  []string
	}
}

// quorum is the operator's record of the instances that it can promote.
type quorum struct {
	Status struct {
		Method        string
		StandbyNames  []string
		StandbyNumber int
		Primary       string
	}
}

const databasesAPI = "/apis/postgresql.cnpg.io/v1/namespaces/" + services.Databases + "/"

func getDatabase(ctx context.Context, name string) (d database, err error) {
	return d, get(ctx, databasesAPI+"clusters/"+name, &d)
}

// get reads an object from the API server.
func get(ctx context.Context, path string, into any) error {
	data, err := client.CoreV1().RESTClient().Get().AbsPath(path).DoRaw(ctx)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, into)
}

// whole reports whether every instance of a database is Ready, and the failover quorum is recorded: only then can the
// primary be destroyed without a decision by a person.
func whole(ctx context.Context, name string) error {
	d, err := getDatabase(ctx, name)
	if err != nil {
		return err
	}
	if d.Status.ReadyInstances != d.Spec.Instances || d.Status.CurrentPrimary != d.Status.TargetPrimary {
		return fmt.Errorf("database %s: %d of %d instances are Ready, primary %s, to be %s: %s", name,
			d.Status.ReadyInstances, d.Spec.Instances, d.Status.CurrentPrimary, d.Status.TargetPrimary, d.Status.Phase)
	}
	var q quorum
	if err := get(ctx, databasesAPI+"failoverquorums/"+name, &q); err != nil {
		return err
	}
	if q.Status.StandbyNumber != 1 || q.Status.Primary != d.Status.CurrentPrimary ||
		len(q.Status.StandbyNames) != d.Spec.Instances-1 {
		return fmt.Errorf("database %s: the failover quorum is not recorded: %+v", name, q.Status)
	}
	return nil
}

// healed reports what of the cluster is not as it should be, or nil.
func healed(ctx context.Context) error {
	nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, node := range nodes.Items {
		if node.Spec.Unschedulable || !slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
			return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
		}) {
			return fmt.Errorf("node %s is not ready", node.Name)
		}
	}
	deployments, err := client.AppsV1().Deployments("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, d := range deployments.Items {
		if !rolledOut(d) {
			return fmt.Errorf("deployment %s: %d of %d pods are available, %d up to date, %d in total",
				d.Name, d.Status.AvailableReplicas, *d.Spec.Replicas, d.Status.UpdatedReplicas, d.Status.Replicas)
		}
	}
	for _, name := range databases() {
		if err := whole(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

func rolledOut(d appsv1.Deployment) bool {
	return d.Status.ObservedGeneration >= d.Generation && d.Status.Replicas == *d.Spec.Replicas &&
		d.Status.UpdatedReplicas == *d.Spec.Replicas && d.Status.AvailableReplicas == *d.Spec.Replicas
}

// await waits until check returns nil.
func await(t *testing.T, within time.Duration, check func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	for {
		err := check(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			require.FailNow(t, "still after "+within.String(), "%v", err)
		case <-time.After(500 * time.Millisecond):
		}
	}
}
