package e2e

import (
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A stopped cluster resumes with all its data, on the ports that it was created with.
func TestStoppingLosesNothing(t *testing.T) {
	awaitEverything(t)
	paid := addUnpaid(t)
	call(t, http.MethodPost, "/invoices/pay", nil)
	payment := paymentOf(t, paid)
	unpaid := addUnpaid(t)
	before := uids(t)
	images := "http://" + registry(t) + "/v2/"

	mustRun(t, command(t, "./deploy.sh", "--stop"))
	_, _, err := ask(http.MethodGet, "/invoices", nil)
	require.Error(t, err, "the cluster is stopped")
	_, err = http.Get(images)
	require.Error(t, err, "and so is its registry")
	mustRun(t, command(t, "./deploy.sh", "--stop")) // again
	deploy := command(t, "./deploy.sh")
	deploy.Env = slices.DeleteFunc(os.Environ(), func(variable string) bool {
		return strings.HasPrefix(variable, "INVOICE_APP_PORT=") || strings.HasPrefix(variable, "REGISTRY_PORT=")
	})
	mustRun(t, deploy)

	require.NoError(t, connect()) // the API server may have another port now
	awaitEverything(t)
	assert.Equal(t, before, uids(t))
	invoices := decodeInvoices(t, call(t, http.MethodGet, "/invoices", nil))
	paid.IsPaid, unpaid.IsPaid = true, true // by test.sh, the last step of deploying
	assert.Contains(t, invoices, paid)
	assert.Contains(t, invoices, unpaid)
	assert.JSONEq(t, payment, paymentOf(t, paid))
}
