// Package button implements the buttons of `tilt up`.
package button

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"example.com/invoices/workspace/kubectl"
	"example.com/invoices/workspace/process"
	"example.com/invoices/workspace/services"
)

// Board holds the target of the buttons.
type Board struct {
	Cluster  kubectl.Context
	Services services.List
	URL      string    // of the cluster's invoice-app
	Out      io.Writer // receives the result
	Answers  io.Writer // receives invoice-app's responses
}

// Press runs the action of a button, on a service if it belongs to one. It reports whether the button exists.
func (b Board) Press(ctx context.Context, name string, service ...string) (found bool, err error) {
	if wanted := name == "rebuild-schema"; wanted != (len(service) == 1) {
		return false, nil
	}
	switch name {
	case "pay-all":
		return true, b.payAll(ctx)
	case "add-invoices":
		return true, b.addInvoices(ctx)
	case "reset-data":
		return true, b.resetData(ctx)
	case "rebuild-schema":
		return true, b.rebuildSchema(ctx, service[0])
	case "kill-pod":
		return true, b.killPod(ctx)
	}
	return false, nil
}

func (b Board) payAll(ctx context.Context) error {
	for {
		status, err := b.post(ctx, "/invoices/pay", "")
		if err != nil {
			return err
		}
		if status != http.StatusAccepted { // paying continues, and the next call waits for it
			break
		}
	}
	fmt.Fprintln(b.Out, "all invoices are settled")
	return nil
}

func (b Board) addInvoices(ctx context.Context) error {
	const count = 1000
	unique := rand.Text() // the button may be pressed twice within a second, or on two pages at once
	invoices := make([]string, count)
	for i := range invoices {
		n := i + 1
		invoices[i] = fmt.Sprintf(`{"InvoiceId": "%s-%d", "Value": %d.%02d, "Currency": "EUR"}`, unique, n, n, n%100)
	}
	_, err := b.post(ctx, "/invoices", "["+strings.Join(invoices, ",\n")+"]")
	return err
}

// resetData empties the databases. A caller's database comes before those of its callees: if the payments were deleted
// while the invoices still existed, paid invoices would be paid again.
func (b Board) resetData(ctx context.Context) error {
	for _, service := range slices.Backward(b.Services.Ordered()) {
		if !service.Database {
			continue
		}
		if err := b.empty(ctx, service.Team); err != nil {
			return err
		}
	}
	return nil
}

// emptyAll is the SQL that empties every table except the one that records the migrations.
const emptyAll = `DO $$ BEGIN EXECUTE coalesce((
SELECT 'TRUNCATE ' || string_agg(format('%I.%I', schemaname, tablename), ', ') FROM pg_tables
WHERE schemaname = 'public' AND tablename <> 'goose_db_version'), ''); END $$`

func (b Board) empty(ctx context.Context, team string) error {
	if err := b.sql(ctx, team, emptyAll); err != nil {
		return err
	}
	fmt.Fprintf(b.Out, "the database of %s is empty\n", team)
	return nil
}

// newSchema is the SQL that makes the database as it was before the first migration.
const newSchema = `SET client_min_messages = warning; SET lock_timeout = '10s'; DROP SCHEMA public CASCADE;
CREATE SCHEMA public AUTHORIZATION pg_database_owner; GRANT USAGE ON SCHEMA public TO PUBLIC`

// rebuildSchema deletes the service's schema, which the init containers of its new pods create again. If the payments
// were deleted while their callers' invoices still existed, paid invoices would be paid again: so callers come first.
func (b Board) rebuildSchema(ctx context.Context, name string) error {
	service, _ := b.Services.Find(name)
	if !service.Database {
		return fmt.Errorf("%q is not a service with a database", name)
	}
	for _, caller := range slices.Backward(b.Services.Ordered()) {
		if caller.Database && b.calls(caller, name) {
			if err := b.empty(ctx, caller.Team); err != nil {
				return err
			}
		}
	}
	if err := b.sql(ctx, service.Team, newSchema); err != nil {
		return err
	}
	fmt.Fprintf(b.Out, "the schema of %s is deleted: its pods restart, and migrate before they serve\n", name)
	said, err := process.Output(b.Cluster.Command(ctx, "--namespace="+service.Team,
		"rollout", "restart", "deployment/"+name))
	if err == nil {
		fmt.Fprintln(b.Out, said)
	}
	return err
}

// calls reports whether a service calls another one, directly or through others.
func (b Board) calls(caller services.Service, name string) bool {
	return slices.ContainsFunc(b.Services.Callees(caller), func(callee services.Service) bool {
		return callee.Name == name || b.calls(callee, name)
	})
}

// sql runs SQL in the team's database as superuser, in the database's own container.
func (b Board) sql(ctx context.Context, team, statements string) error {
	return process.Run(b.Cluster.Command(ctx, "--namespace="+team, "exec", "postgres-0", "--container=postgres", "--",
		"psql", "--quiet", "--no-psqlrc", "--set=ON_ERROR_STOP=1", "--command="+statements, team))
}

func (b Board) killPod(ctx context.Context) error {
	public := b.Services.Public()
	namespace := "--namespace=" + public.Team
	// Skip pods that are already terminating.
	pods, err := process.Output(b.Cluster.Command(ctx, namespace, "get", "pods",
		"--selector=app.kubernetes.io/name="+public.Name, "--output=go-template="+
			`{{range .items}}{{if not .metadata.deletionTimestamp}}{{.metadata.name}}{{"\n"}}{{end}}{{end}}`))
	if err != nil {
		return err
	}
	pod, _, _ := strings.Cut(pods, "\n")
	if pod == "" {
		return fmt.Errorf("%s has no pod to delete", public.Name)
	}
	said, err := process.Output(b.Cluster.Command(ctx, namespace, "delete", "pod", pod, "--wait=false"))
	if err == nil {
		fmt.Fprintln(b.Out, said)
	}
	return err
}

// post posts JSON and copies the response to Answers. Any status other than 2xx is an error. (The standard library uses
// no proxy for localhost.)
func (b Board) post(ctx context.Context, path, body string) (status int, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, b.URL+path, strings.NewReader(body))
	if err != nil {
		return 0, err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	if _, err := io.Copy(b.Answers, response.Body); err != nil {
		return 0, fmt.Errorf("POST %s: %w", request.URL, err)
	}
	fmt.Fprintln(b.Answers)
	if response.StatusCode/100 != 2 {
		return 0, fmt.Errorf("POST %s: %s", request.URL, response.Status)
	}
	return response.StatusCode, nil
}
