package e2e

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"example.com/invoices/test/cluster/access"
)

// A fork bomb reaches the limit of its pod, and the node has processes left for all others.
func TestProcessesOfAPodAreBounded(t *testing.T) {
	long(t)
	const bound = 512 // podPidsLimit in the cluster's definition

	phase, output := runToEnd(t, shellPod(t, namespaceOf("payment-provider"), "stranger",
		fmt.Sprintf(`exec sh -c '
			n=0
			trap "echo \$n started" EXIT
			while [ $n -lt %d ]; do
				sleep 600 &
				n=$((n + 1))
			done'`, bound+100))) // bash would continue after the first fork that fails

	assert.Equal(t, corev1.PodFailed, phase, output)
	assert.Contains(t, output, "Cannot fork")
	count := regexp.MustCompile(`(\d+) started`).FindStringSubmatch(output) // the order of stdout and stderr varies
	require.NotNil(t, count, output)
	started, err := strconv.Atoi(count[1])
	require.NoError(t, err)
	assert.InDelta(t, bound, started, 50, "the pod itself has some, too")
	nodes, err := client.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	for _, node := range nodes.Items {
		for _, condition := range node.Status.Conditions {
			assert.Equal(t, condition.Type == corev1.NodeReady, condition.Status == corev1.ConditionTrue,
				"%s of %s: %s", condition.Type, node.Name, condition.Message)
		}
	}
}

// Overwritten versions of an object use space in etcd until etcd compacts them, and no quota limits how often a team
// writes: they must be gone long before a single client can fill etcd.
func TestOverwrittenVersionsLeaveEtcd(t *testing.T) {
	long(t)
	inUse := func() int {
		metrics := mustRun(t, command(t, "docker", "exec", cluster.Node, "curl", "--silent", "http://127.0.0.1:2381/metrics"))
		var bytes float64
		for line := range strings.Lines(metrics) {
			_, _ = fmt.Sscanf(line, "etcd_mvcc_db_total_size_in_use_in_bytes %g", &bytes)
		}
		require.NotZero(t, bytes)
		return int(bytes)
	}
	const size, writes = 1_000_000, 100
	maps := as(t, "team-"+namespaceOf("payment-provider")).CoreV1().ConfigMaps(namespaceOf("payment-provider"))
	written, err := maps.Create(t.Context(), &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "overwritten-"}}, metav1.CreateOptions{})
	require.NoError(t, err)
	t.Cleanup(func() { _ = maps.Delete(context.Background(), written.Name, metav1.DeleteOptions{}) })

	for n := range writes {
		written.ResourceVersion = ""
		written.Data = map[string]string{"content": strings.Repeat(string(rune('a'+n%26)), size)}
		_, err := maps.Update(t.Context(), written, metav1.UpdateOptions{})
		require.NoError(t, err)
	}
	full := inUse()
	require.Greater(t, full, size*writes/2, "the old versions use space at first")

	// By default, the API server keeps all of them for at least five minutes.
	require.Eventually(t, func() bool { return inUse() < full-size*writes/2 }, 4*time.Minute, 5*time.Second)
}

// A team's requests never delay those of another team or of the cluster's components: requests are queued by user, and
// users have their own priority level.
func TestRequestsAreQueuedByUser(t *testing.T) {
	long(t)
	flows, err := client.FlowcontrolV1().FlowSchemas().Get(t.Context(), "global-default", metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, flowcontrolv1.FlowDistinguisherMethodByUserType, flows.Spec.DistinguisherMethod.Type)
	level, err := client.FlowcontrolV1().PriorityLevelConfigurations().Get(t.Context(),
		flows.Spec.PriorityLevelConfiguration.Name, metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, flowcontrolv1.LimitResponseTypeQueue, level.Spec.Limited.LimitResponse.Type)

	for _, team := range teams() {
		config, err := clientcmd.BuildConfigFromFlags("", kubeconfig(t, team.user))
		require.NoError(t, err)
		asTeam, err := rest.HTTPClientFor(config)
		require.NoError(t, err)
		response, err := asTeam.Get(config.Host + "/api/v1/namespaces/" + team.namespace + "/configmaps")
		require.NoError(t, err)
		response.Body.Close()
		assert.Equal(t, string(flows.UID), response.Header.Get(flowcontrolv1.ResponseHeaderMatchedFlowSchemaUID), team.user)
	}
}

// The number of objects is limited for every kind that a team may create. The test applies the team's quota, used up,
// to its own namespace.
func TestEveryKindIsCounted(t *testing.T) {
	long(t)
	labels := map[string]any{"app.kubernetes.io/name": "extra"}
	pod := map[string]any{"containers": []any{map[string]any{"name": "extra", "image": "extra"}}}
	port := []any{map[string]any{"port": 80}}
	workload := map[string]any{"selector": map[string]any{"matchLabels": labels},
		"template": map[string]any{"metadata": map[string]any{"labels": labels}, "spec": pod}}
	manifests := map[string]map[string]any{
		"deployments.apps":            {"kind": "Deployment", "spec": workload},
		"statefulsets.apps":           {"kind": "StatefulSet", "spec": workload},
		"pods":                        {"kind": "Pod", "spec": pod},
		"services":                    {"kind": "Service", "spec": map[string]any{"ports": port}},
		"configmaps":                  {"kind": "ConfigMap"},
		"serviceaccounts":             {"kind": "ServiceAccount"},
		"poddisruptionbudgets.policy": {"kind": "PodDisruptionBudget"},
	}

	for _, team := range teams() {
		t.Run(team.namespace, func(t *testing.T) {
			namespace := newNamespace(t)
			require.Eventually(t, func() bool { // before there is a quota, which would refuse it
				_, err := client.CoreV1().ServiceAccounts(namespace).Get(context.Background(), "default", metav1.GetOptions{})
				return err == nil
			}, time.Minute, 100*time.Millisecond, "the ServiceAccount of pods exists")
			quota, err := client.CoreV1().ResourceQuotas(team.namespace).Get(t.Context(), "team", metav1.GetOptions{})
			require.NoError(t, err)
			used := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "team"}}
			used.Spec.Hard = corev1.ResourceList{}
			for name := range quota.Spec.Hard {
				if strings.HasPrefix(string(name), "count/") {
					used.Spec.Hard[name] = resource.MustParse("0")
				}
			}
			quotas := client.CoreV1().ResourceQuotas(namespace)
			_, err = quotas.Create(t.Context(), used, metav1.CreateOptions{})
			require.NoError(t, err)
			require.Eventually(t, func() bool {
				now, err := quotas.Get(context.Background(), "team", metav1.GetOptions{})
				return err == nil && len(now.Status.Hard) == len(used.Spec.Hard)
			}, time.Minute, 100*time.Millisecond, "the quota is in force")

			for _, cell := range access.Cells(list) {
				if cell.Who != team.user || cell.Namespace != team.namespace || cell.Subresource != "" ||
					cell.Verb != "create" || !cell.Allowed {
					continue
				}
				kind := schema.GroupResource{Group: cell.Group, Resource: cell.Resource}
				t.Run(kind.String(), func(t *testing.T) {
					manifest := maps.Clone(manifests[kind.String()])
					require.NotNil(t, manifest, "the test must know how to create one")
					path := "/api/v1"
					if cell.Group != "" {
						path = "/apis/" + cell.Group + "/v1"
					}
					manifest["apiVersion"] = strings.TrimPrefix(strings.TrimPrefix(path, "/apis/"), "/api/")
					manifest["metadata"] = map[string]any{"name": "extra"}
					err := client.Discovery().RESTClient().Post().
						AbsPath(path, "namespaces", namespace, cell.Resource).Param("dryRun", metav1.DryRunAll).
						SetHeader("Content-Type", "application/json").Body(encode(t, manifest)).Do(t.Context()).Error()
					assert.ErrorContains(t, err, "exceeded quota: team, requested: count/"+kind.String()+"=1")
				})
			}
		})
	}
}
