package e2e

import (
	"bufio"
	"context"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"example.com/invoices/workspace/services"
)

// Each way to publish a service that is not public is refused in its namespace, and works in another one.
func TestOnlyThePublicServiceIsPublished(t *testing.T) {
	long(t)
	elsewhere := newNamespace(t)
	for _, service := range list.Services {
		if !service.Public {
			t.Run(service.Name, func(t *testing.T) { cannotBePublished(t, service, elsewhere) })
		}
	}
}

func cannotBePublished(t *testing.T, service services.Service, elsewhere string) {
	for _, kind := range []corev1.ServiceType{corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer} {
		t.Run(string(kind), func(t *testing.T) {
			published := &corev1.Service{
				ObjectMeta: metav1.ObjectMeta{Name: "published"},
				Spec: corev1.ServiceSpec{
					Type:     kind,
					Selector: map[string]string{"app.kubernetes.io/name": service.Name},
					Ports:    []corev1.ServicePort{{Port: int32(service.Port), TargetPort: intstr.FromString("http")}},
				},
			}
			if kind == corev1.ServiceTypeLoadBalancer {
				no := false // otherwise its node port would be refused first
				published.Spec.AllocateLoadBalancerNodePorts = &no
			}
			_, err := client.CoreV1().Services(service.Team).Create(t.Context(), published, dryRunCreate)
			require.True(t, apierrors.IsForbidden(err), "%v", err)
			assert.ErrorContains(t, err, "exceeded quota")

			_, err = client.CoreV1().Services(elsewhere).Create(t.Context(), published, dryRunCreate)
			assert.NoError(t, err)
			published.Spec.Type, published.Spec.AllocateLoadBalancerNodePorts = corev1.ServiceTypeClusterIP, nil
			_, err = client.CoreV1().Services(service.Team).Create(t.Context(), published, dryRunCreate)
			assert.NoError(t, err)
		})
	}

	t.Run("hostPort", func(t *testing.T) {
		pod := podLike(podsOf(t, service.Name)[0])
		pod.Spec.Containers[0].Ports[0].HostPort = int32(service.Port)
		_, err := client.CoreV1().Pods(service.Team).Create(t.Context(), pod, dryRunCreate)
		require.True(t, apierrors.IsForbidden(err), "%v", err)
		assert.ErrorContains(t, err, `violates PodSecurity "restricted:latest": hostPort`)

		pod.Spec.Containers[0].Ports[0].HostPort = 0
		_, err = client.CoreV1().Pods(service.Team).Create(t.Context(), pod, dryRunCreate)
		assert.NoError(t, err)
	})
}

func TestOnlyInvoiceAppAnswersOutside(t *testing.T) {
	nodes, err := client.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	for _, address := range nodes.Items[0].Status.Addresses {
		if address.Type != corev1.NodeInternalIP {
			continue
		}
		dial := func(port string) error {
			connection, err := net.DialTimeout("tcp", net.JoinHostPort(address.Address, port), 3*time.Second)
			if err == nil {
				connection.Close()
			}
			return err
		}
		assert.NoError(t, dial("30081"), "invoice-app's NodePort")
		for _, service := range list.Services {
			assert.Error(t, dial(fmt.Sprint(service.Port)), "the port of %s itself", service.Name)
		}
	}
}

// Under tilt up, each program serves Go's profiles at a port that Tilt forwards. Released programs do not.
func TestReleasedProgramsServeNoProfiles(t *testing.T) {
	awaitEverything(t)
	for _, service := range list.Services {
		forward := command(t, "kubectl", "--context="+kubeContext, "--namespace="+service.Team, "port-forward",
			"pod/"+podsOf(t, service.Name)[0].Name, fmt.Sprintf(":%d", service.Port), ":6060")
		output, err := forward.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, forward.Start())
		t.Cleanup(func() { _ = forward.Wait() }) // it ends with t.Context
		lines := bufio.NewScanner(output)
		at := map[string]string{}
		for len(at) < 2 && lines.Scan() {
			if local, port, ok := strings.Cut(lines.Text(), " -> "); ok && strings.Contains(local, "127.0.0.1") {
				at[port] = "http://" + local[strings.LastIndex(local, " ")+1:]
			}
		}
		require.Len(t, at, 2)
		response, err := http.Get(at[fmt.Sprint(service.Port)] + "/livez")
		require.NoError(t, err)
		response.Body.Close()
		_, err = http.Get(at["6060"] + "/debug/pprof/")
		assert.Error(t, err, service.Name)
	}
}

// Connections succeed exactly where services.yaml lists them: every address (a pod's, a Service's and its name) is
// tried from everywhere. Probers that may use DNS must be able to resolve a name, so that an unknown name cannot pass
// for a refusal. Each address is reachable from somewhere, otherwise a failure to connect would prove nothing; the pods
// of a service without callers are Ready, so they listen.
func TestNetworkEdges(t *testing.T) {
	outside := newNamespace(t)

	doors := map[string]string{"API server": serviceAddress(t, "default", "kubernetes")}
	doorsOf := func(service string) []string { return []string{service, service + " by service", service + " by name"} }
	databaseOf := func(team string) []string { return []string{team + " database", team + " database by name"} }
	for _, service := range list.Services {
		names := doorsOf(service.Name)
		doors[names[0]] = fmt.Sprintf("%s %d", podsOf(t, service.Name)[0].Status.PodIP, service.Port)
		doors[names[1]] = serviceAddress(t, service.Team, service.Name)
		doors[names[2]] = fmt.Sprintf("%s.%s.svc.cluster.local. %d", service.Name, service.Team, service.Port)
		if service.Database {
			names := databaseOf(service.Team)
			doors[names[0]] = pods(t, service.Team, "postgres")[0].Status.PodIP + " 5432"
			doors[names[1]] = fmt.Sprintf("postgres.%s.svc.cluster.local. 5432", service.Team)
		}
	}

	type prober struct {
		namespace, application string
		reaches                []string
	}
	public := append([]string{"DNS", "API server"}, doorsOf(list.Public().Name)...)
	probers := map[string]prober{"stranger": {outside, "stranger", public}}
	for _, team := range list.Teams() {
		probers["stranger in "+team.Name] = prober{team.Name, "stranger", nil}
	}
	for _, service := range list.Services {
		reaches := []string{"DNS"}
		for _, callee := range service.Calls {
			reaches = append(reaches, doorsOf(callee)...)
		}
		if service.Database {
			reaches = append(reaches, databaseOf(service.Team)...)
			probers["postgres of "+service.Team] = prober{service.Team, "postgres", nil}
		}
		probers[service.Name] = prober{service.Team, service.Name, reaches}
		if len(service.Calls) > 0 {
			probers["stranger with the labels of "+service.Name] = prober{outside, service.Name, public}
		}
	}
	for name, prober := range probers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			assert.ElementsMatch(t, prober.reaches, probe(t, prober.namespace, prober.application, doors, prober.reaches))
		})
	}
}

// serviceAddress returns a Service's address and port, separated by a space.
func serviceAddress(t *testing.T, namespace, name string) string {
	t.Helper()
	service, err := client.CoreV1().Services(namespace).Get(t.Context(), name, metav1.GetOptions{})
	require.NoError(t, err)
	return fmt.Sprintf("%s %d", service.Spec.ClusterIP, service.Spec.Ports[0].Port)
}

// probe runs a pod that tries each door, and returns the names of the open ones; "DNS" means that names are resolved.
// The network policies take a moment to apply to a new pod, and longer on a busy machine: a door that should be open
// has a minute to open, and one that should be shut must be shut three times in a row within a minute, since a
// connection may be slow once.
func probe(t *testing.T, namespace, application string, doors map[string]string, expected []string) []string {
	t.Helper()
	var script strings.Builder
	script.WriteString(`opens() { timeout 5 bash -c ": 2>/dev/null >/dev/tcp/$1/$2"; }
resolves() { timeout 5 getent hosts kubernetes.default.svc.cluster.local. >/dev/null; }
open() { # NAME COMMAND...
	local name=$1
	shift
	until "$@"; do
		((SECONDS < 60)) || return 0
		sleep 1
	done
	echo "$name"
}
shut() { # NAME COMMAND...
	local name=$1 failed=0
	shift
	while ((failed < 3)); do
		if ! "$@"; then
			((++failed))
		elif ((SECONDS < 60)); then
			failed=0
		else
			echo "$name"
			return
		fi
		sleep 1
	done
}
`)
	for _, name := range append(slices.Collect(maps.Keys(doors)), "DNS") {
		function, command := "shut", "opens "+doors[name]
		if slices.Contains(expected, name) {
			function = "open"
		}
		if name == "DNS" {
			command = "resolves"
		}
		fmt.Fprintf(&script, "%s '%s' %s &\n", function, name, command)
	}
	script.WriteString("wait\necho done\n")

	phase, output := runToEnd(t, shellPod(t, namespace, application, script.String()))
	require.Equal(t, corev1.PodSucceeded, phase, output)

	lines := strings.Split(strings.TrimSpace(output), "\n")
	require.Equal(t, "done", lines[len(lines)-1], output)
	return lines[:len(lines)-1]
}

// runToEnd runs a pod until it terminates, and returns its phase and its log.
func runToEnd(t *testing.T, pod *corev1.Pod) (corev1.PodPhase, string) {
	t.Helper()
	pod = runPod(t, pod)
	if !assert.Eventually(t, func() bool {
		now, err := client.CoreV1().Pods(pod.Namespace).Get(context.Background(), pod.Name, metav1.GetOptions{})
		if err == nil {
			pod = now
		}
		return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
	}, 4*time.Minute, time.Second, "the pod terminates") {
		t.Fatal(mustRun(t, command(t, "kubectl", "--context="+kubeContext, "--namespace="+pod.Namespace,
			"describe", "pod", pod.Name)))
	}
	output, err := client.CoreV1().Pods(pod.Namespace).GetLogs(pod.Name, &corev1.PodLogOptions{}).DoRaw(t.Context())
	require.NoError(t, err)
	if pod.Status.Phase == corev1.PodFailed {
		t.Logf("%s/%s failed: %s %s %+v", pod.Namespace, pod.Name,
			pod.Status.Reason, pod.Status.Message, pod.Status.ContainerStatuses)
	}
	return pod.Status.Phase, string(output)
}

// shellPod returns a pod that runs a script once, labelled as an application of its namespace.
func shellPod(t *testing.T, namespace, application, script string) *corev1.Pod {
	t.Helper()
	// The database's image has a shell; the services' images contain only the service.
	pod := podLike(pods(t, namespaceOf("invoice-app"), "postgres")[0])
	container := pod.Spec.Containers[0]
	pod.Namespace = namespace
	pod.GenerateName = "probe-"
	pod.Labels = map[string]string{"app.kubernetes.io/name": application}
	pod.Spec.ServiceAccountName = "default"
	pod.Spec.Volumes = nil
	pod.Spec.InitContainers = nil
	pod.Spec.RestartPolicy = corev1.RestartPolicyNever
	container.Resources.Requests["cpu"] = resource.MustParse("10m") // a small node has room for all
	pod.Spec.Containers = []corev1.Container{{
		Name:            "probe",
		Image:           container.Image,
		ImagePullPolicy: container.ImagePullPolicy,
		Command:         []string{"bash", "-c", script},
		SecurityContext: container.SecurityContext,
		Resources:       container.Resources,
		// Never Ready, so that a Service with the same labels sends nothing here.
		ReadinessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{
			Exec: &corev1.ExecAction{Command: []string{"false"}}}},
	}}
	return pod
}

// podLike returns a pod with the same specification and no labels, so that no controller adopts it.
func podLike(pod corev1.Pod) *corev1.Pod {
	spec := pod.Spec.DeepCopy()
	spec.NodeName = ""
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, GenerateName: "like-" + pod.Name},
		Spec:       *spec,
	}
}
