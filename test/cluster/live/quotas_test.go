package live

import (
	"context"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"example.com/invoices/test/cluster/access"
)

// A team may create only so many objects of every kind that it may create. Its quota is tried where it
// binds the test alone, with nothing left of it.
func TestEveryKindIsCounted(t *testing.T) {
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

	for _, team := range teams {
		t.Run(team.namespace, func(t *testing.T) {
			namespace := newNamespace(t)
			require.Eventually(t, func() bool { // before the quota, which would refuse it
				_, err := client.CoreV1().ServiceAccounts(namespace).Get(context.Background(), "default", metav1.GetOptions{})
				return err == nil
			}, time.Minute, 100*time.Millisecond, "pods have their ServiceAccount")
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

			for _, cell := range access.Cells() {
				if cell.Who != team.user || cell.Namespace != team.namespace || cell.Subresource != "" ||
					cell.Verb != "create" || !cell.Allowed {
					continue
				}
				kind := schema.GroupResource{Group: cell.Group, Resource: cell.Resource}
				t.Run(kind.String(), func(t *testing.T) {
					manifest := maps.Clone(manifests[kind.String()])
					require.NotNil(t, manifest, "the test must know how to make one")
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
