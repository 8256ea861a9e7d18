package production

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"example.com/invoices/workspace/services"
)

// TestNoRequestFails changes the running system under load, in every way that must not be noticed outside.
func TestNoRequestFails(t *testing.T) {
	await(t, heals, healed)
	l := newLoad(seed)
	l.begin(t)
	quiet(t, l, "nothing happens", func(*testing.T) { time.Sleep(5 * time.Second) })
	quiet(t, l, "certificates are renewed", func(t *testing.T) {
		run(t, "workspace/run", "make-certificates", cluster.Context, "--renew")
	})
	passwords := rotation{}
	quiet(t, l, "passwords are added", passwords.step("add"))
	for _, service := range list.Services {
		quiet(t, l, "rolling update of "+service.Name, func(t *testing.T) {
			restart(t, service.Team, service.Name)
		})
	}
	quiet(t, l, "restart of the entry", func(t *testing.T) { restart(t, services.Entry, services.Entry) })
	for _, service := range list.Services {
		quiet(t, l, "eviction of a pod of "+service.Name, func(t *testing.T) { evict(t, service.Team, service.Name) })
	}
	quiet(t, l, "scale up and down", scale)
	quiet(t, l, "the new passwords are used", passwords.step("use"))
	for _, name := range databases() {
		quiet(t, l, "switchover of "+name, func(t *testing.T) { switchOver(t, name, "") })
	}
	nodes, err := workers(t.Context())
	require.NoError(t, err)
	for _, node := range nodes {
		quiet(t, l, "drain of "+node, func(t *testing.T) { drain(t, node) })
	}
	away := time.Minute
	if !testing.Short() {
		away = 11 * time.Minute // longer than a token lives
	}
	quiet(t, l, "API server away for "+away.String(), func(t *testing.T) { stopAPIServer(t, away) })
	quiet(t, l, "the renewed certificates are in use", awaitCertificates)
	quiet(t, l, "the old passwords are removed", passwords.step("remove"))
	violations := l.finish(t, recovers)
	t.Log(l.report())
	figures.add("failed-requests", len(l.since(0)))
	assert.Empty(t, violations)
}

// rotation is the time of the last step of the rotation of the passwords.
type rotation struct{ time.Time }

// step takes a step, once every pod has noticed the one before, which other changes do not wait for.
func (r *rotation) step(name string) func(*testing.T) {
	return func(t *testing.T) {
		const delivery = 2*time.Minute + time.Second
		time.Sleep(time.Until(r.Add(delivery)))
		run(t, "workspace/run", "rotate-passwords", cluster.Context, name)
		r.Time = time.Now()
	}
}

// quiet runs a subtest under load, waits until the cluster is whole again, and expects that no request has failed.
func quiet(t *testing.T, l *load, name string, change func(t *testing.T)) {
	t.Run(name, func(t *testing.T) {
		mark := l.mark()
		change(t)
		await(t, heals, healed)
		time.Sleep(2 * time.Second) // for responses to what was sent before
		failures := l.since(mark)
		for _, f := range failures[:min(10, len(failures))] {
			t.Log(f)
		}
		assert.Empty(t, len(failures), "requests failed")
	})
}

// restart replaces all pods of a Deployment, as a release does.
func restart(t *testing.T, namespace, name string) {
	t.Helper()
	kubectl(t, "--namespace="+namespace, "rollout", "restart", "deployment/"+name)
	kubectl(t, "--namespace="+namespace, "rollout", "status", "deployment/"+name, "--timeout="+heals.String())
}

// evict evicts a pod of a service, as the tools that empty nodes do.
func evict(t *testing.T, namespace, service string) {
	t.Helper()
	found, err := pods(t.Context(), namespace, "app.kubernetes.io/name="+service)
	require.NoError(t, err)
	require.NotEmpty(t, found)
	require.NoError(t, client.PolicyV1().Evictions(namespace).Evict(t.Context(), &policyv1.Eviction{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: found[0].Name},
	}))
	await(t, heals, func(ctx context.Context) error {
		staying, err := pods(ctx, namespace, "app.kubernetes.io/name="+service)
		if err == nil && len(staying) > 0 && staying[0].Name == found[0].Name {
			return fmt.Errorf("pod %s is not evicted", found[0].Name)
		}
		return err
	})
}

// scale doubles the pods of every service, and goes back.
func scale(t *testing.T) {
	for _, replicas := range []int32{6, 3} {
		for _, service := range list.Services {
			limitScale(t, service, replicas, replicas)
		}
		for _, service := range list.Services {
			awaitScale(t, service, replicas)
		}
	}
	for _, service := range list.Services {
		limitScale(t, service, 3, 6)
	}
}

// awaitScale waits until a service has so many pods, all of them available.
func awaitScale(t *testing.T, service services.Service, replicas int32) {
	t.Helper()
	await(t, heals, func(ctx context.Context) error {
		d, err := client.AppsV1().Deployments(service.Team).Get(ctx, service.Name, metav1.GetOptions{})
		if err == nil && (*d.Spec.Replicas != replicas || !rolledOut(*d)) {
			err = fmt.Errorf("%s has %d of %d pods", service.Name, d.Status.AvailableReplicas, replicas)
		}
		return err
	})
}

// limitScale limits how many pods the autoscaler gives a service.
func limitScale(t *testing.T, service services.Service, least, most int32) {
	t.Helper()
	patch := fmt.Sprintf(`{"spec":{"minReplicas":%d,"maxReplicas":%d}}`, least, most)
	_, err := client.AutoscalingV2().HorizontalPodAutoscalers(service.Team).Patch(t.Context(), service.Name,
		types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	require.NoError(t, err)
}

// switchOver makes an instance the primary of a database: the named one, or any replica.
func switchOver(t *testing.T, name, instance string) {
	t.Helper()
	d, err := getDatabase(t.Context(), name)
	require.NoError(t, err)
	if instance == d.Status.CurrentPrimary {
		return
	}
	for _, candidate := range d.Status.InstanceNames {
		if instance == "" && candidate != d.Status.CurrentPrimary {
			instance = candidate
		}
	}
	patch := asJSON(t, map[string]any{"status": map[string]any{
		"targetPrimary": instance, "targetPrimaryTimestamp": time.Now().UTC().Format("2006-01-02T15:04:05.000000Z07:00"),
		"phase": "Switchover in progress", "phaseReason": "Switching over to " + instance,
	}})
	_, err = client.CoreV1().RESTClient().Patch(types.MergePatchType).
		AbsPath(databasesAPI + "clusters/" + name + "/status").Body([]byte(patch)).DoRaw(t.Context())
	require.NoError(t, err)
	await(t, heals, func(ctx context.Context) error {
		d, err := getDatabase(ctx, name)
		if err == nil && d.Status.CurrentPrimary != instance {
			err = fmt.Errorf("the primary of %s is %s, not %s: %s", name, d.Status.CurrentPrimary, instance, d.Status.Phase)
		}
		return err
	})
	await(t, heals, func(ctx context.Context) error { return whole(ctx, name) })
}

// drain empties a node, and then lets it be used again.
func drain(t *testing.T, node string) {
	defer kubectl(t, "uncordon", node)
	kubectl(t, "drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout="+heals.String())
}

// stopAPIServer stops the API server for a while. Nothing else of the control plane stops, since requests from outside
// arrive at its node.
func stopAPIServer(t *testing.T, duration time.Duration) {
	const manifest = "/etc/kubernetes/manifests/kube-apiserver.yaml"
	ctx := context.Background()
	_, err := onNode(ctx, cluster.Node, `mv "$1" /etc/kubernetes/`, manifest)
	require.NoError(t, err)
	began := time.Now()
	defer func() {
		_, err := onNode(ctx, cluster.Node, `mv /etc/kubernetes/kube-apiserver.yaml "$1"`, manifest)
		require.NoError(t, err)
		await(t, heals, func(ctx context.Context) error {
			_, err := client.Discovery().ServerVersion()
			return err
		})
	}()
	require.Eventually(t, func() bool {
		_, err := client.Discovery().ServerVersion()
		return err != nil
	}, heals, time.Second, "the API server still answers")
	time.Sleep(duration - time.Since(began))
}

// awaitCertificates waits until the entry and every pod of the services use the certificate that is in their Secret.
func awaitCertificates(t *testing.T) {
	t.Helper()
	const lifetime = "tls_certificate_expiry_timestamp_seconds "
	expiry := func(secret *corev1.Secret) time.Time {
		block, _ := pem.Decode(secret.Data[corev1.TLSCertKey])
		require.NotNil(t, block)
		certificate, err := x509.ParseCertificate(block.Bytes)
		require.NoError(t, err)
		return certificate.NotAfter
	}
	for _, service := range list.Services {
		secret, err := client.CoreV1().Secrets(service.Team).Get(t.Context(), service.Name+"-tls", metav1.GetOptions{})
		require.NoError(t, err)
		want := expiry(secret)
		await(t, heals, func(ctx context.Context) error {
			found, err := pods(ctx, service.Team, "app.kubernetes.io/name="+service.Name)
			if err != nil {
				return err
			}
			for _, pod := range found {
				body, err := client.CoreV1().Pods(pod.Namespace).
					ProxyGet("https", pod.Name, fmt.Sprint(service.Port), "/metrics", nil).DoRaw(ctx)
				if err != nil {
					return err
				}
				_, value, _ := strings.Cut(string(body), "\n"+lifetime)
				value, _, _ = strings.Cut(value, "\n")
				seconds, err := strconv.ParseFloat(value, 64)
				if err != nil || int64(seconds) != want.Unix() {
					return fmt.Errorf("%s uses the certificate that ends at %q, not at %d", pod.Name, value, want.Unix())
				}
			}
			return nil
		})
	}
	secret, err := client.CoreV1().Secrets(services.Entry).Get(t.Context(), services.Entry+"-tls", metav1.GetOptions{})
	require.NoError(t, err)
	conn, err := tls.Dial("tcp", strings.TrimPrefix(cluster.InvoiceApp, "https://"), caller)
	require.NoError(t, err)
	defer conn.Close()
	assert.Equal(t, expiry(secret), conn.ConnectionState().PeerCertificates[0].NotAfter, "the entry's certificate")
}
