package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The documented command imports invoices in a pod, which is read-only and has no folder for temporary files.
func TestImportIntoThePod(t *testing.T) {
	long(t)
	awaitEverything(t)
	prefix := fmt.Sprintf("import-%d-", time.Now().UnixNano())
	imported := func(rows string) (output string, err error) {
		run := command(t, "kubectl", "--context", kubeContext, "--namespace="+namespaceOf("invoice-app"),
			"exec", "--stdin", "deploy/invoice-app", "--", "/invoice-app", "import", "-")
		run.Stdin = strings.NewReader("InvoiceId;Value;Currency;Note\r\n" + rows)
		written, err := run.CombinedOutput()
		return string(written), err
	}

	const count = 1200 // more than one chunk
	var rows strings.Builder
	for n := range count {
		fmt.Fprintf(&rows, "%s%d;12.34;EUR;x\r\n", prefix, n)
	}
	output, err := imported(rows.String())
	require.NoError(t, err, output)
	assert.Contains(t, output, fmt.Sprintf("%d invoices added, 0 already present", count))
	assert.Contains(t, output, `"Note"`, "the ignored column is named")
	found := 0
	for _, i := range decodeInvoices(t, call(t, http.MethodGet, "/invoices", nil)) {
		if strings.HasPrefix(i.InvoiceId, prefix) {
			found++
		}
	}
	assert.Equal(t, count, found)

	output, err = imported(prefix + "new;1;EUR;\r\n" + prefix + "bad;1,5;EUR;\r\n")
	assert.Error(t, err)
	assert.Contains(t, output, "nothing was imported: -:3: Value")
	status, _, err := ask(http.MethodGet, "/invoices/"+prefix+"new", nil)
	require.NoError(t, err)
	assert.Equal(t, http.StatusNotFound, status)

	call(t, http.MethodPost, "/invoices/pay", nil) // so that the following tests have little to pay
}
