package production

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/audit/comparison"
	"example.com/invoices/internal/docstest"
	"example.com/invoices/workspace/services"
)

// moment is a time on a database's clock, and the rows that had been committed by then.
type moment struct {
	at   time.Time
	rows map[string]bool
}

// Statements that list what a restored database must contain again, each row with a time after all of it was committed.
var confirmed = map[string]string{
	"invoice-app":      `SELECT id || CASE WHEN paid_at IS NULL THEN '' ELSE ' paid' END, clock_timestamp() FROM invoices`,
	"payment-provider": `SELECT id || ' ' || amount_minor || ' ' || currency, clock_timestamp() FROM payments`,
}

type confirmedRow struct {
	Text string
	At   time.Time
}

// TestRestore destroys both databases under load, and restores them from the object store as docs/production.md says,
// to different moments: that of the payments is the earlier one, so that invoices are marked paid whose payments are
// missing.
func TestRestore(t *testing.T) {
	await(t, heals, healed)
	l := newLoad(seed)
	l.begin(t)
	time.Sleep(5 * time.Second)
	for _, name := range databases() {
		backUp(t, name)
	}
	moments := map[string]moment{}
	for _, service := range []string{"payment-provider", "invoice-app"} {
		time.Sleep(10 * time.Second)
		moments[service] = momentOf(t, service)
	}
	time.Sleep(10 * time.Second)
	for _, name := range databases() {
		archive(t, name)
	}
	l.end()

	patch := restorePatch(t)
	for _, service := range list.Services {
		scaleTo(t, service, 0)
	}
	for service, m := range moments {
		restore(t, teamOf(service), strings.ReplaceAll(patch, "TIME", m.at.Format(time.RFC3339Nano)))
	}
	for _, name := range databases() {
		await(t, heals, func(ctx context.Context) error { return whole(ctx, name) })
	}
	missing := 0
	for service, m := range moments {
		restored := query[confirmedRow](t, databaseURL(t, teamOf(service)), confirmed[service])
		for _, row := range restored {
			delete(m.rows, strings.TrimSuffix(row.Text, " paid"))
			delete(m.rows, row.Text)
		}
		t.Logf("%s: %d rows are restored, %d are missing", service, len(restored), len(m.rows))
		missing += len(m.rows)
	}
	figures.add("restore-lost", missing)
	assert.Zero(t, missing)

	before := compare(t)
	assert.Positive(t, before.PaidWithoutPayment, "the moments differ, so some payments must be missing")
	for _, service := range list.Services {
		scaleTo(t, service, 3)
	}
	await(t, heals, healed)
	t.Log(kubectl(t, "--namespace="+teamOf("invoice-app"), "exec", "deployment/invoice-app", "--container=invoice-app",
		"--", "/invoice-app", "reconcile"))
	e := exchange{kind: "pay all", method: http.MethodPost, path: "/invoices/pay"}
	require.True(t, l.send(t.Context(), &e, http.StatusOK), "%d %s", e.status, e.text)
	after := compare(t)
	assert.Zero(t, after.PaidWithoutPayment, "%+v", after)
	assert.Zero(t, after.PaidTwice, "%+v", after)
	assert.Zero(t, after.NotMarked, "%+v", after)
}

// restorePatch returns the patch in the documentation.
func restorePatch(t *testing.T) string {
	t.Helper()
	blocks := docstest.Pages(t, repository)["docs/production.md"].Blocks
	n := slices.IndexFunc(blocks, func(b docstest.Block) bool { return strings.Contains(b.Code, "recoveryTarget:") })
	require.GreaterOrEqual(t, n, 0)
	return blocks[n].Code
}

// backUp makes a base backup.
func backUp(t *testing.T, name string) {
	t.Helper()
	backup := fmt.Sprintf("%s-%d", name, time.Now().Unix())
	apply(t, map[string]any{
		"apiVersion": "postgresql.cnpg.io/v1", "kind": "Backup",
		"metadata": map[string]any{"name": backup, "namespace": services.Databases},
		"spec":     map[string]any{"cluster": map[string]any{"name": name}},
	})
	await(t, heals, func(ctx context.Context) error {
		var b struct{ Status struct{ Phase, Error string } }
		err := get(ctx, databasesAPI+"backups/"+backup, &b)
		if err == nil && b.Status.Phase != "completed" {
			err = fmt.Errorf("backup of %s: %s %s", name, b.Status.Phase, b.Status.Error)
		}
		return err
	})
}

// apply applies an object.
func apply(t *testing.T, object any) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "object.json")
	require.NoError(t, os.WriteFile(file, []byte(asJSON(t, object)), 0o600))
	kubectl(t, "apply", "--server-side", "--force-conflicts", "--filename="+file)
}

// momentOf reads what a service's database has confirmed.
func momentOf(t *testing.T, service string) moment {
	t.Helper()
	rows := query[confirmedRow](t, databaseURL(t, teamOf(service)), confirmed[service])
	require.NotEmpty(t, rows)
	m := moment{rows[0].At.UTC(), map[string]bool{}}
	for _, row := range rows {
		m.rows[row.Text] = true
	}
	return m
}

// archive waits until everything that was written so far is in the object store.
func archive(t *testing.T, name string) {
	t.Helper()
	d, err := getDatabase(t.Context(), name)
	require.NoError(t, err)
	psql := func(statement string) string {
		return kubectl(t, "--namespace="+services.Databases, "exec", d.Status.CurrentPrimary, "--container=postgres", "--",
			"psql", "--no-psqlrc", "--tuples-only", "--no-align", "--quiet", "--command="+statement)
	}
	written := psql("SELECT pg_walfile_name(pg_switch_wal())")
	await(t, heals, func(context.Context) error {
		if archived := psql("SELECT last_archived_wal FROM pg_stat_archiver"); archived < written {
			return fmt.Errorf("%s is archived, not yet %s", archived, written)
		}
		return nil
	})
}

// scaleTo sets the number of a service's pods, and waits for it. With 0, its autoscaler does nothing.
func scaleTo(t *testing.T, service services.Service, replicas int32) {
	t.Helper()
	kubectl(t, "--namespace="+service.Team, "scale", "deployment/"+service.Name, fmt.Sprintf("--replicas=%d", replicas))
	awaitScale(t, service, replicas)
}

// restore destroys a database with all its volumes, and creates it again with the patch of the documentation.
func restore(t *testing.T, name, patch string) {
	t.Helper()
	var manifest struct {
		APIVersion string         `json:"apiVersion"`
		Kind       string         `json:"kind"`
		Metadata   map[string]any `json:"metadata"`
		Spec       map[string]any `json:"spec"`
	}
	require.NoError(t, get(t.Context(), databasesAPI+"clusters/"+name, &manifest))
	manifest.Metadata = map[string]any{"name": name, "namespace": services.Databases}
	kubectl(t, "--namespace="+services.Databases, "delete", "clusters.postgresql.cnpg.io/"+name)
	kubectl(t, "--namespace="+services.Databases, "wait", "--for=delete", "persistentvolumeclaims,pods",
		"--selector=cnpg.io/cluster="+name, "--timeout="+heals.String())

	folder := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(folder, "cluster.yaml"), []byte(asJSON(t, manifest)), 0o600))
	kustomization, err := json.Marshal(map[string]any{
		"resources": []string{"cluster.yaml"},
		"patches": []any{map[string]any{
			"target": map[string]any{"kind": "Cluster", "name": name},
			"patch":  strings.ReplaceAll(patch, "TEAM", name),
		}},
	})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(folder, "kustomization.yaml"), kustomization, 0o600))
	kubectl(t, "apply", "--server-side", "--force-conflicts", "--kustomize="+folder)
}

func compare(t *testing.T) *comparison.Figures {
	t.Helper()
	result, err := comparison.Compare(context.Background(), databaseURL(t, teamOf("invoice-app")),
		databaseURL(t, teamOf("payment-provider")))
	require.NoError(t, err)
	return result
}
