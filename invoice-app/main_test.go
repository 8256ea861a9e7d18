package main

import (
	"bytes"
	"log/slog"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/internal/config"
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

func TestMigrateAndImport(t *testing.T) {
	t.Chdir(t.TempDir())
	defer slog.SetDefault(slog.Default())
	run := func(args ...string) (string, error) {
		var out bytes.Buffer
		command := newCommand()
		command.SetOut(&out)
		command.SetArgs(args)
		err := command.ExecuteContext(t.Context())
		return out.String(), err
	}
	t.Setenv("DATABASE_URL", "sqlite:test.db")
	t.Setenv("SEED_INVOICES", "true")
	t.Setenv("LOG_LEVEL", "error")
	require.NoError(t, os.WriteFile("two.csv",
		[]byte("InvoiceId;Value;Currency;Note\nI1;12,15;EUR;\nnew;7,5;EUR;\n"), 0o600))
	_, err := run("migrate")
	require.NoError(t, err)
	require.FileExists(t, "test.db")
	out, err := run("import", "--decimal-comma", "two.csv")
	require.NoError(t, err)
	assert.Contains(t, out, "1 invoices added, 1 already present")
	assert.Contains(t, out, `"Note"`)
	_, err = run("import", "two.csv")
	assert.ErrorContains(t, err, "nothing was imported: two.csv:2: ")
	_, err = run("import")
	assert.ErrorContains(t, err, "accepts 1 arg(s), received 0")
	_, err = run("import", "none")
	assert.ErrorContains(t, err, "nothing was imported: open none: no such file")
	_, err = run("migrate", "--grant-to", "me")
	assert.ErrorContains(t, err, "an SQLite file has no roles")
}
