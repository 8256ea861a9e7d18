// Package button does what the buttons of `tilt up` say.
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

// Board is what the buttons act on.
type Board struct {
	Cluster  kubectl.Context
	Services services.List
	URL      string    // where its invoice-app answers
	Out      io.Writer // what has been done
	Answers  io.Writer // what invoice-app answers
}

// Press does what a button says. It reports whether there is such a button.
func (b Board) Press(ctx context.Context, name string) (found bool, err error) {
	switch name {
	case "pay-all":
		return true, b.payAll(ctx)
	case "add-invoices":
		return true, b.addInvoices(ctx)
	case "reset-data":
		return true, b.resetData(ctx)
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
		if status != http.StatusAccepted { // it takes long: the next call waits for its end
			break
		}
	}
	fmt.Fprintln(b.Out, "all are settled")
	return nil
}

func (b Board) addInvoices(ctx context.Context) error {
	const count = 1000
	unique := rand.Text() // twice within a second, from two pages at once
	invoices := make([]string, count)
	for i := range invoices {
		n := i + 1
		invoices[i] = fmt.Sprintf(`{"InvoiceId": "%s-%d", "Value": %d.%02d, "Currency": "EUR"}`, unique, n, n, n%100)
	}
	_, err := b.post(ctx, "/invoices", "["+strings.Join(invoices, ",\n")+"]")
	return err
}

// resetData empties the databases. That of a caller comes before those of whom it calls: with the invoices still
// there and the payments gone, what is paid already would be paid again.
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

// emptyAll is SQL that empties every table but the one that knows which migrations have run.
const emptyAll = `DO $$ BEGIN EXECUTE (
SELECT 'TRUNCATE ' || string_agg(format('%I.%I', schemaname, tablename), ', ') FROM pg_tables
WHERE schemaname = 'public' AND tablename <> 'goose_db_version'); END $$`

// empty asks the database's superuser, on its own machine.
func (b Board) empty(ctx context.Context, team string) error {
	psql := b.Cluster.Command(ctx, "--namespace="+team, "exec", "postgres-0", "--container=postgres", "--",
		"psql", "--quiet", "--no-psqlrc", "--set=ON_ERROR_STOP=1", "--command="+emptyAll, team)
	if err := process.Run(psql); err != nil {
		return err
	}
	fmt.Fprintf(b.Out, "the database of %s is empty\n", team)
	return nil
}

func (b Board) killPod(ctx context.Context) error {
	public := b.Services.Public()
	namespace := "--namespace=" + public.Team
	// Not one that is going already.
	pods, err := process.Output(b.Cluster.Command(ctx, namespace, "get", "pods",
		"--selector=app.kubernetes.io/name="+public.Name, "--output=go-template="+
			`{{range .items}}{{if not .metadata.deletionTimestamp}}{{.metadata.name}}{{"\n"}}{{end}}{{end}}`))
	if err != nil {
		return err
	}
	pod, _, _ := strings.Cut(pods, "\n")
	if pod == "" {
		return fmt.Errorf("%s has no pod that could be deleted", public.Name)
	}
	said, err := process.Output(b.Cluster.Command(ctx, namespace, "delete", "pod", pod, "--wait=false"))
	if err == nil {
		fmt.Fprintln(b.Out, said)
	}
	return err
}

// post posts JSON, and passes on what is answered. Any status but a 2xx is an error. (A proxy is for the way out of
// this machine: the standard library asks none for localhost.)
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
