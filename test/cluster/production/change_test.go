package production

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"example.com/invoices/internal/checkouttest"
	"example.com/invoices/workspace/service"
	"example.com/invoices/workspace/services"
)

// edit replaces all occurrences of old, of which there must be one, in a file; an empty old writes a new file.
type edit struct{ file, old, new string }

// Releases of a schema change that moves the end of a claim to a new column, as docs/operations.md describes such a
// change: each release runs beside the one before. Claims are what every payment begins with.
const (
	migrationsOfInvoices = "invoice-app/store/migrations/postgres/"
	storeOfInvoices      = "invoice-app/store/postgres.go"
	grantsOfInvoices     = "invoice-app/store/store.go"
)

// expand adds the column, and makes a program that writes both columns, and respects the claims in both.
var expand = []edit{
	{migrationsOfInvoices + "00090_expand.sql", "",
		"-- +goose Up\nALTER TABLE invoices ADD COLUMN leased_until timestamptz NOT NULL DEFAULT '-infinity';\n"},
	{grantsOfInvoices, `"claimed_until", `, `"claimed_until", "leased_until", `},
	{storeOfInvoices, `claimed_until = '-infinity'`, `claimed_until = '-infinity', leased_until = '-infinity'`},
	{storeOfInvoices, `SET claimed_until = clock_timestamp() + $4`,
		`SET claimed_until = clock_timestamp() + $4, leased_until = clock_timestamp() + $4`},
	{storeOfInvoices, `SET claimed_until = clock_timestamp() + wait`,
		`SET claimed_until = clock_timestamp() + wait, leased_until = clock_timestamp() + wait`},
	{storeOfInvoices, `(claimed_until <= clock_timestamp() OR claimed_until > clock_timestamp() + $5)`,
		`(greatest(claimed_until, leased_until) <= clock_timestamp()
			OR greatest(claimed_until, leased_until) > clock_timestamp() + $5)`},
	{storeOfInvoices, `greatest(claimed_until, clock_timestamp())`,
		`greatest(claimed_until, leased_until, clock_timestamp())`},
}

// move makes a program that uses only the new column.
var move = []edit{
	{migrationsOfInvoices + "00090_expand.sql", "", expand[0].new},
	{grantsOfInvoices, `"claimed_until", `, `"leased_until", `},
	{storeOfInvoices, `claimed_until`, `leased_until`},
}

// contract drops the old column.
var contract = append(move[:len(move):len(move)],
	edit{migrationsOfInvoices + "00091_contract.sql", "",
		"-- +goose Up\nALTER TABLE invoices DROP COLUMN claimed_until;\n"})

// Bad releases of invoice-app.
var badReleases = map[string][]edit{
	"crashes at start": {{"invoice-app/main.go", "func main() {", "func main() { if len(os.Args) == 1 { panic(0) };"}},
	"never ready":      {{"internal/server/health.go", "err := r.check(ctx)", `err := errors.New("broken")`}},
	"slow": {{"internal/server/exchange.go", "s.router.ServeHTTP(x, request)",
		"time.Sleep(5 * time.Second); s.router.ServeHTTP(x, request)"}},
}

// release builds the image of a service from a changed copy of the checkout, with further flags of go build, pushes it
// to the cluster's registry, and returns its name by digest.
func release(t *testing.T, name string, edits []edit, flags ...string) string {
	t.Helper()
	folder := t.TempDir()
	require.NoError(t, checkouttest.Copy(repository, folder,
		append([]string{services.File, "go.mod", "go.sum", "internal"}, list.Names()...)...))
	for _, e := range edits {
		file := filepath.Join(folder, e.file)
		content := e.new
		if e.old != "" {
			before, err := os.ReadFile(file)
			require.NoError(t, err)
			require.Contains(t, string(before), e.old, e.file)
			content = strings.ReplaceAll(string(before), e.old, e.new)
		}
		require.NoError(t, os.WriteFile(file, []byte(content), 0o600))
	}
	t.Chdir(folder)
	t.Setenv("GOFLAGS", strings.Join(flags, " "))
	registry, _, _ := strings.Cut(imageOf(t, name), "/")
	found, _ := list.Find(name)
	image, err := service.BuildImage(t.Context(), found, t.TempDir(), registry, runtime.GOARCH)
	require.NoError(t, err)
	return registry + "/" + name + "@" + image.Digest.String()
}

// imageOf returns the image that a service's Deployment runs.
func imageOf(t *testing.T, service string) string {
	t.Helper()
	d, err := client.AppsV1().Deployments(teamOf(service)).Get(t.Context(), service, metav1.GetOptions{})
	require.NoError(t, err)
	return d.Spec.Template.Spec.Containers[0].Image
}

// roll makes a service run an image, in its init container, too.
func roll(t *testing.T, service, image string) {
	t.Helper()
	kubectl(t, "--namespace="+teamOf(service), "set", "image", "deployment/"+service, "*="+image)
}

// TestChanges releases new and bad versions under load, and goes back to the present one.
func TestChanges(t *testing.T) {
	const app = "invoice-app"
	await(t, heals, healed)
	present := imageOf(t, app)
	t.Cleanup(func() {
		roll(t, app, present)
		kubectl(t, "--namespace="+teamOf(app), "rollout", "status", "deployment/"+app, "--timeout="+heals.String())
	})
	l := newLoad(seed)
	l.begin(t)
	to := func(image string) func(*testing.T) {
		return func(t *testing.T) {
			roll(t, app, image)
			kubectl(t, "--namespace="+teamOf(app), "rollout", "status", "deployment/"+app, "--timeout="+heals.String())
		}
	}
	for name, edits := range badReleases {
		if testing.Short() && name != "crashes at start" {
			continue
		}
		image := release(t, app, edits)
		quiet(t, l, "bad release: "+name, func(t *testing.T) {
			roll(t, app, image)
			stopsByItself(t, app)
			kubectl(t, "--namespace="+teamOf(app), "rollout", "undo", "deployment/"+app)
		})
	}
	expanded := release(t, app, expand)
	quiet(t, l, "expand", to(expanded))
	quiet(t, l, "the previous release on the new schema", to(present))
	if !testing.Short() {
		quiet(t, l, "expand again", to(expanded))
		quiet(t, l, "move", to(release(t, app, move)))
		quiet(t, l, "contract", to(release(t, app, contract)))
	}
	violations := l.finish(t, recovers)
	t.Log(l.report())
	figures.add("failed-requests", len(l.since(0)))
	assert.Empty(t, violations)
}

// stopsByItself waits until a rollout counts as failed, in the short form only until its first pod had time to become
// ready, and expects that all pods of the release before still serve.
func stopsByItself(t *testing.T, service string) {
	t.Helper()
	get := func(ctx context.Context) *appsv1.Deployment {
		d, err := client.AppsV1().Deployments(teamOf(service)).Get(ctx, service, metav1.GetOptions{})
		require.NoError(t, err)
		return d
	}
	if testing.Short() {
		time.Sleep(45 * time.Second)
	} else {
		await(t, heals, func(ctx context.Context) error {
			if slices.ContainsFunc(get(ctx).Status.Conditions, func(c appsv1.DeploymentCondition) bool {
				return c.Reason == "ProgressDeadlineExceeded"
			}) {
				return nil
			}
			return fmt.Errorf("the rollout of %s has not stopped", service)
		})
	}
	d := get(t.Context())
	assert.Equal(t, int32(1), d.Status.UpdatedReplicas, "a pod of the bad release")
	assert.Equal(t, *d.Spec.Replicas, d.Status.AvailableReplicas, "the pods of the release before")
}
