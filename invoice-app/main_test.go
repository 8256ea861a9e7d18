package main

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/internal/config"
	"example.com/invoices/invoice-app/store"
)

func TestReferenceDocumentsEveryVariable(t *testing.T) {
	settings := config.New("invoice-app")
	readConfig(settings)
	reference, err := os.ReadFile("../docs/reference.md")
	require.NoError(t, err)
	assert.Contains(t, string(reference), settings.Markdown(),
		"docs/reference.md: the table of invoice-app's variables must read")
}

func TestLeaseMustOutliveTheCall(t *testing.T) {
	t.Setenv("CLAIM_LEASE", "5s")
	t.Setenv("PAYMENT_TIMEOUT", "3s")
	settings := config.New("invoice-app")
	readConfig(settings)
	assert.ErrorContains(t, settings.Err(), "CLAIM_LEASE=5s is invalid: must be at least twice PAYMENT_TIMEOUT (3s)")
}

// run runs the program's command line, and returns what it writes to standard output.
func run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	command := newCommand()
	command.SetOut(&out)
	command.SetArgs(args)
	err := command.ExecuteContext(t.Context())
	return out.String(), err
}

func TestReconcile(t *testing.T) {
	defer slog.SetDefault(slog.Default())
	const all = `[{"id":"I1","status":200},{"id":"I2","status":200},{"id":"I3","status":200}]`
	answer := all
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, answer)
	}))
	defer site.Close()
	for name, value := range map[string]string{
		"DATABASE_URL": "sqlite:" + t.TempDir() + "/test.db", "SEED_INVOICES": "true", "LOG_LEVEL": "error",
		"PAYMENT_PROVIDER_URL": site.URL, "PAY_PATIENCE": "10ms",
	} {
		t.Setenv(name, value)
	}
	out, err := run(t, "reconcile")
	require.NoError(t, err)
	assert.Equal(t, "0 payments confirmed, 0 refused, 0 without an answer\n", out, "none is paid")

	invoices, err := store.Open(t.Context(), os.Getenv("DATABASE_URL"), 1)
	require.NoError(t, err)
	claims, err := invoices.Claim(t.Context(), 0, 3, 3, time.Minute)
	require.NoError(t, err)
	require.NoError(t, invoices.MarkPaid(t.Context(), claims))
	invoices.Close()
	out, err = run(t, "reconcile")
	require.NoError(t, err)
	assert.Equal(t, "3 payments confirmed, 0 refused, 0 without an answer\n", out)

	answer = strings.Replace(all, `"I2","status":200`, `"I2","status":422,"code":"payment_mismatch","error":"other"`, 1)
	answer = strings.Replace(answer, `"I3","status":200`, `"I3","status":500`, 1)
	out, err = run(t, "reconcile")
	require.EqualError(t, err, "2 paid invoices could not be reconciled: see above")
	assert.Regexp(t, "^I2: other\nI3: .+\n1 payments confirmed, 1 refused, 1 without an answer\n$", out)

	site.Close()
	_, err = run(t, "reconcile", "--after", "1")
	assert.ErrorContains(t, err, "not finished; continue with --after 1: payment-provider does not answer: ")
}

func TestMigrateAndImport(t *testing.T) {
	t.Chdir(t.TempDir())
	defer slog.SetDefault(slog.Default())
	t.Setenv("DATABASE_URL", "sqlite:test.db")
	t.Setenv("SEED_INVOICES", "true")
	t.Setenv("LOG_LEVEL", "error")
	require.NoError(t, os.WriteFile("two.csv",
		[]byte("InvoiceId;Value;Currency;Note\nI1;12,15;EUR;\nnew;7,5;EUR;\n"), 0o600))
	_, err := run(t, "migrate")
	require.NoError(t, err)
	require.FileExists(t, "test.db")
	out, err := run(t, "import", "--decimal-comma", "two.csv")
	require.NoError(t, err)
	assert.Contains(t, out, "1 invoices added, 1 already present")
	assert.Contains(t, out, `"Note"`)
	_, err = run(t, "import", "two.csv")
	assert.ErrorContains(t, err, "nothing was imported: two.csv:2: ")
	_, err = run(t, "import")
	assert.ErrorContains(t, err, "accepts 1 arg(s), received 0")
	_, err = run(t, "import", "none")
	assert.ErrorContains(t, err, "nothing was imported: open none: no such file")
	_, err = run(t, "migrate", "--grant-to", "me")
	assert.ErrorContains(t, err, "an SQLite file has no roles")
}
