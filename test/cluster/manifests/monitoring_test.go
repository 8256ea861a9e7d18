package manifests

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/yaml"
)

// The metrics of production, and those of `tilt up -- --observe`.
func TestMonitoring(t *testing.T) {
	for _, overlay := range []string{"development", "production"} {
		t.Run(overlay, func(t *testing.T) {
			documents := build(t, filepath.Join(repository, "k8s/monitoring", overlay))
			objects := decodeStrictly(t, documents)

			t.Run("pods pass Pod Security restricted", func(t *testing.T) {
				evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
				require.NoError(t, err)
				restricted := api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}
				found := workloads(objects)
				require.Len(t, found, 2, "VictoriaMetrics and the audit")
				for _, workload := range found {
					results := evaluator.EvaluatePod(restricted, &workload.template.ObjectMeta, &workload.template.Spec)
					verdict := policy.AggregateCheckResults(results)
					assert.True(t, verdict.Allowed, "%s: %s", workload.GetName(), verdict.ForbiddenDetail())
				}
			})
			if overlay == "development" { // the other one is a part of the overlay production
				t.Run("kube-score has no complaint", func(t *testing.T) {
					kubeScore(t, append(build(t, filepath.Join(folder, overlay)), documents...))
				})
			}
			t.Run("Go's memory limit is 90 % of the container's", func(t *testing.T) { memoryLimits(t, workloads(objects)) })
			t.Run("credentials stay where they belong", func(t *testing.T) { credentials(t, objects) })
			t.Run("images are pulled only if missing", func(t *testing.T) { pulling(t, objects) })
			t.Run("exceptions have a reason", func(t *testing.T) { exceptions(t, objects) })
			t.Run("only VictoriaMetrics reads metrics", func(t *testing.T) { readers(t, objects) })
			t.Run("every service is scraped", func(t *testing.T) { scraped(t, objects) })
		})
	}
}

// readers checks that each policy names its clients, and that nobody can connect to VictoriaMetrics.
func readers(t *testing.T, objects []runtime.Object) {
	metrics := map[string]bool{}
	for _, object := range objects {
		p, ok := object.(*networkingv1.NetworkPolicy)
		if !ok {
			continue
		}
		for _, rule := range p.Spec.Ingress {
			require.NotEmpty(t, rule.From, "%s admits everybody", p.Name)
			require.NotEmpty(t, rule.Ports, "%s admits to all ports", p.Name)
			for _, from := range rule.From {
				require.NotNil(t, from.PodSelector, "%s names no pods", p.Name)
				who := from.PodSelector.MatchLabels["app.kubernetes.io/name"]
				assert.Contains(t, []string{"victoria-metrics", "audit"}, who, p.Name)
				if who == "victoria-metrics" {
					metrics[p.Namespace+"/"+p.Name] = true
				}
			}
			assert.NotEqual(t, "victoria-metrics", p.Spec.PodSelector.MatchLabels["app.kubernetes.io/name"], p.Name)
		}
	}
	want := map[string]bool{"monitoring/audit": true}
	for _, service := range readList(t).Services {
		want[service.Team+"/"+service.Name+"-metrics"] = true
	}
	assert.Equal(t, want, metrics)
}

// scraped compares the targets with the Services that find their pods.
func scraped(t *testing.T, objects []runtime.Object) {
	found := map[string]int32{}
	var targets []string
	for _, object := range objects {
		switch object := object.(type) {
		case *corev1.Service:
			require.Equal(t, corev1.ClusterIPNone, object.Spec.ClusterIP, "%s: each pod has an address in the DNS", object.Name)
			found[object.Name+"."+object.Namespace+".svc.cluster.local"] = object.Spec.Ports[0].Port
		case *corev1.ConfigMap:
			var configuration struct {
				ScrapeConfigs []struct {
					DNS []struct {
						Names []string `json:"names"`
						Port  int32    `json:"port"`
					} `json:"dns_sd_configs"`
				} `json:"scrape_configs"`
			}
			require.NoError(t, yaml.Unmarshal([]byte(object.Data["scrape.yaml"]), &configuration))
			for _, job := range configuration.ScrapeConfigs {
				for _, target := range job.DNS {
					for _, name := range target.Names {
						targets = append(targets, name)
						assert.Equal(t, found[name], target.Port, name)
					}
				}
			}
		}
	}
	for _, service := range readList(t).Services {
		assert.Contains(t, targets, service.Name+"-metrics."+service.Team+".svc.cluster.local")
	}
}

// Dashboards are JSON, and every metric's panel has a title.
func TestDashboards(t *testing.T) {
	files, err := filepath.Glob(repository + "/k8s/monitoring/*/*.json")
	require.NoError(t, err)
	more, err := filepath.Glob(repository + "/k8s/monitoring/base/dashboards/*.json")
	require.NoError(t, err)
	files = append(files, more...)
	require.Len(t, files, 2)
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		var dashboard struct {
			Title string
			Rows  []struct {
				Title  string
				Panels []struct {
					Title       string
					Expr, Alias []string
					Width       int
					Unit        string
					ShowLegend  *bool
				}
			}
		}
		require.NoError(t, yaml.UnmarshalStrict(text, &dashboard), file)
		assert.NotEmpty(t, dashboard.Title)
		for _, row := range dashboard.Rows {
			width := 0
			for _, panel := range row.Panels {
				assert.NotEmpty(t, panel.Title, row.Title)
				assert.Len(t, panel.Alias, len(panel.Expr), panel.Title)
				width += panel.Width
			}
			assert.Zero(t, width%12, "%s: the panels fill the row", row.Title)
		}
	}
}
