package production

import (
	"bufio"
	"context"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"example.com/invoices/internal/historytest"
	"example.com/invoices/workspace/services"
)

// databaseURL returns a URL of a team's database on its current primary, for its application role, through a port of
// this machine until the test ends.
func databaseURL(t *testing.T, team string) string {
	t.Helper()
	d, err := getDatabase(context.Background(), team)
	require.NoError(t, err)
	forward := command("kubectl", "--context", cluster.Context, "--namespace="+services.Databases,
		"port-forward", "--address=127.0.0.1", "pod/"+d.Status.CurrentPrimary, ":5432")
	said, err := forward.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, forward.Start())
	t.Cleanup(func() {
		_ = forward.Process.Kill()
		_ = forward.Wait()
	})
	line, err := bufio.NewReader(said).ReadString('\n')
	require.NoError(t, err)
	port := regexp.MustCompile(`127\.0\.0\.1:(\d+) `).FindStringSubmatch(line)
	require.NotNil(t, port, "%q", line)

	secret, err := client.CoreV1().Secrets(services.Databases).Get(context.Background(), team+"-application",
		metav1.GetOptions{})
	require.NoError(t, err)
	role := url.UserPassword(string(secret.Data["username"]), string(secret.Data["password"]))
	return fmt.Sprintf("postgres://%s@127.0.0.1:%s/%s?sslmode=require", role, port[1], team)
}

// query collects the rows of a statement.
func query[T any](t *testing.T, url, statement string, arguments ...any) []T {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), url)
	require.NoError(t, err)
	defer conn.Close(context.Background())
	rows, _ := conn.Query(context.Background(), statement, arguments...) // the error is returned below
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[T])
	require.NoError(t, err)
	return found
}

// checkRows compares what was recorded with both databases and with the list of invoice-app, and checks that each
// payment was made before a client saw its invoice paid: otherwise it was made again after it had been lost.
func (l *load) checkRows(t *testing.T, list map[string]historytest.Shown, invoicing, payments string) {
	t.Helper()
	mine := l.prefix + "%"
	type timed struct {
		historytest.PaymentRow
		Made time.Time
	}
	var paid []historytest.PaymentRow
	for _, p := range query[timed](t, payments,
		`SELECT id, amount_minor, currency, created_at FROM payments WHERE id LIKE $1`, mine) {
		paid = append(paid, p.PaymentRow)
		if seen, known := l.paid[p.ID]; known && p.Made.After(seen) {
			l.Violate(historytest.AtMostOnce, "%q was seen paid at %s, but its payment was made at %s", p.ID, seen, p.Made)
		}
	}
	listed := map[string]historytest.Shown{}
	for id, i := range list {
		if strings.HasPrefix(id, l.prefix) {
			listed[id] = i
		}
	}
	l.Book.Check(query[historytest.InvoiceRow](t, invoicing, `SELECT id, amount_minor, currency, paid_at IS NOT NULL,
		rejected_reason IS NOT NULL FROM invoices WHERE id LIKE $1`, mine), paid, listed)
}

// teamOf returns the team of a service, which is also its namespace and its database.
func teamOf(service string) string {
	found, _ := list.Find(service)
	return found.Team
}
