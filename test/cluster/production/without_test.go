package production

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"example.com/invoices/internal/historytest"
	"example.com/invoices/workspace/services"
)

// TestWithoutProtection takes one protection away at a time, and expects a figure to show it: otherwise the tests above
// prove nothing. It leaves databases that differ, so it is the last one, on a cluster that is removed.
func TestWithoutProtection(t *testing.T) {
	if testing.Short() {
		t.Skip("only in the long form")
	}
	for _, lack := range []struct {
		name   string
		figure string
		take   func(t *testing.T)
		strike func(t *testing.T)
	}{
		{"preStop", "failed-requests", withoutPreStop, func(t *testing.T) { restart(t, services.Entry, services.Entry) }},
		{"failover quorum", "lost", func(t *testing.T) {
			configure(t, `[{"op":"replace","path":"/spec/postgresql/synchronous/failoverQuorum","value":false}]`)
		}, loseBothCopies},
		{"required durability", "lost", func(t *testing.T) {
			configure(t, `[{"op":"replace","path":"/spec/postgresql/synchronous/failoverQuorum","value":false},
				{"op":"replace","path":"/spec/postgresql/synchronous/dataDurability","value":"preferred"}]`)
		}, loseOnlyCopy},
		{"synchronous replication", "lost", func(t *testing.T) {
			configure(t, `[{"op":"remove","path":"/spec/postgresql/synchronous"}]`)
		}, loseOnlyCopy},
	} {
		t.Run(lack.name, func(t *testing.T) {
			await(t, heals, available)
			lack.take(t)
			await(t, heals, available)
			l := newLoad(seed)
			l.begin(t)
			time.Sleep(10 * time.Second)
			mark := l.mark()
			lack.strike(t)
			await(t, heals, available)
			failed := len(l.since(mark))
			violations := l.finish(t, recovers)
			_, lost := count(violations)
			t.Logf("failed-requests %d, lost %d", failed, lost)
			for _, v := range violations[:min(5, len(violations))] {
				t.Log(v)
			}
			assert.Positive(t, map[string]int{"failed-requests": failed, "lost": lost}[lack.figure], lack.figure)
		})
	}
}

// count returns how many payments or invoices violations say were doubled and lost.
func count(violations []historytest.Violation) (doubled, lost int) {
	for _, v := range violations {
		switch v.Rule {
		case historytest.AtMostOnce:
			doubled++
		case historytest.KeepsInvoices, historytest.PaidMeansPaid:
			lost++
		}
	}
	return doubled, lost
}

// available is healed for databases without a failover quorum.
func available(ctx context.Context) error {
	for _, name := range databases() {
		d, err := getDatabase(ctx, name)
		if err != nil {
			return err
		}
		if d.Status.ReadyInstances != d.Spec.Instances || d.Status.CurrentPrimary != d.Status.TargetPrimary {
			return fmt.Errorf("database %s: %d of %d instances are Ready", name, d.Status.ReadyInstances, d.Spec.Instances)
		}
	}
	return nil
}

// victimDatabase is the database that the tests break: that of the payments.
func victimDatabase() string { return teamOf("payment-provider") }

// configure patches the database, and restores it when the test ends.
func configure(t *testing.T, patch string) {
	t.Helper()
	name := victimDatabase()
	var before struct {
		Spec struct {
			PostgreSQL struct{ Synchronous map[string]any } `json:"postgresql"`
		}
	}
	require.NoError(t, get(t.Context(), databasesAPI+"clusters/"+name, &before))
	change := func(patch string) {
		kubectl(t, "--namespace="+services.Databases, "patch", "clusters.postgresql.cnpg.io", name, "--type=json",
			"--patch="+patch)
	}
	change(patch)
	synchronous := asJSON(t, before.Spec.PostgreSQL.Synchronous)
	t.Cleanup(func() {
		change(`[{"op":"add","path":"/spec/postgresql/synchronous","value":` + synchronous + `}]`)
		await(t, heals, healed)
	})
	time.Sleep(30 * time.Second) // until every instance has read it
}

// withoutPreStop lets the entry's pods stop at once.
func withoutPreStop(t *testing.T) {
	patch := func(operation string) {
		kubectl(t, "--namespace="+services.Entry, "patch", "deployment", services.Entry, "--type=json", "--patch="+operation)
		kubectl(t, "--namespace="+services.Entry, "rollout", "status", "deployment/"+services.Entry)
	}
	const path = "/spec/template/spec/containers/0/lifecycle"
	d, err := client.AppsV1().Deployments(services.Entry).Get(t.Context(), services.Entry, metav1.GetOptions{})
	require.NoError(t, err)
	lifecycle := asJSON(t, d.Spec.Template.Spec.Containers[0].Lifecycle)
	patch(`[{"op":"remove","path":"` + path + `"}]`)
	t.Cleanup(func() { patch(`[{"op":"add","path":"` + path + `","value":` + lifecycle + `}]`) })
}

// loseOnlyCopy stops the replication to both replicas while payments are made, and then destroys the primary.
func loseOnlyCopy(t *testing.T) {
	replicas := replicasOf(t)
	for _, replica := range replicas {
		signalReplication(t, replica, "STOP")
	}
	time.Sleep(15 * time.Second)
	destroy(t, primaryOf(t))
	for _, replica := range replicas {
		signalReplication(t, replica, "CONT")
	}
}

// loseBothCopies stops the replication to one replica while payments are made, and then destroys the primary and the
// other one.
func loseBothCopies(t *testing.T) {
	primary, replicas := primaryOf(t), replicasOf(t)
	signalReplication(t, replicas[0], "STOP")
	time.Sleep(15 * time.Second)
	destroy(t, replicas[1])
	destroy(t, primary)
	signalReplication(t, replicas[0], "CONT")
}

func primaryOf(t *testing.T) corev1.Pod {
	t.Helper()
	found, err := instances(victimDatabase(), "primary").pods(t.Context())
	require.NoError(t, err)
	require.Len(t, found, 1)
	return found[0]
}

func replicasOf(t *testing.T) []corev1.Pod {
	t.Helper()
	found, err := instances(victimDatabase(), "replica").pods(t.Context())
	require.NoError(t, err)
	require.Len(t, found, 2)
	return found
}

// destroy deletes an instance with its volume.
func destroy(t *testing.T, pod corev1.Pod) {
	t.Helper()
	err := client.CoreV1().PersistentVolumeClaims(pod.Namespace).Delete(t.Context(), pod.Name, metav1.DeleteOptions{})
	require.NoError(t, err)
	require.NoError(t, deletePod(t.Context(), pod))
}

// signalReplication sends a signal to the process with which a replica receives the write-ahead log.
func signalReplication(t *testing.T, pod corev1.Pod, name string) {
	t.Helper()
	_, id, _ := strings.Cut(pod.Status.ContainerStatuses[0].ContainerID, "://")
	_, err := onNode(t.Context(), pod.Spec.NodeName, processes+`
		for process in $pids; do
			case $(tr '\0' ' ' <"/proc/$process/cmdline") in *walreceiver*) kill -s "$2" "$process" ;; esac
		done`, id, name)
	require.NoError(t, err)
}
