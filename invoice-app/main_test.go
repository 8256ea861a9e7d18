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

func TestTheReferenceDocumentsEveryVariable(t *testing.T) {
	settings := config.New("invoice-app")
	readConfig(settings)
	reference, err := os.ReadFile("../docs/reference.md")
	require.NoError(t, err)
	assert.Contains(t, string(reference), settings.Markdown(), "docs/reference.md: the table of invoice-app's variables must read")
}

func TestALeaseMustOutliveTheCall(t *testing.T) {
	t.Setenv("CLAIM_LEASE", "5s")
	t.Setenv("PAYMENT_TIMEOUT", "3s")
	settings := config.New("invoice-app")
	readConfig(settings)
	assert.ErrorContains(t, settings.Err(), "CLAIM_LEASE=5s is refused: allowed is twice PAYMENT_TIMEOUT (3s) and more")
}

// run runs the service with args, as main does, and returns what it prints.
func run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	t.Setenv("LOG_LEVEL", "error")
	defer slog.SetDefault(slog.Default())
	var out bytes.Buffer
	command := newCommand()
	command.SetOut(&out)
	command.SetArgs(args)
	err := command.ExecuteContext(t.Context())
	return out.String(), err
}

func TestHelp(t *testing.T) {
	t.Chdir(t.TempDir())
	t.Setenv("LISTEN_ADDR", "wrong") // which help does not mind
	for _, args := range [][]string{{"help"}, {"--help"}, {"-h"}, {"migrate", "--help"}} {
		out, err := run(t, args...)
		require.NoError(t, err)
		assert.Contains(t, out, "import [--decimal-comma] FILE")
		assert.Contains(t, out, "LISTEN_ADDR")
	}
}

func TestWrongCommandLines(t *testing.T) {
	t.Chdir(t.TempDir())
	for want, args := range map[string][]string{
		`unknown command "pay"`:       {"pay"},
		`unknown command "now"`:       {"migrate", "now"},
		"accepts 1 arg(s)":            {"import"},
		"unknown flag: --no-such":     {"migrate", "--no-such"},
		"unknown flag: --grant-to":    {"--grant-to", "me"},
		"open none: no such file":     {"import", "none"},
		"unknown shorthand flag: 'x'": {"-x"},
	} {
		_, err := run(t, args...)
		assert.ErrorContains(t, err, want, "%q", args)
	}
	t.Setenv("LISTEN_ADDR", "wrong")
	_, err := run(t)
	assert.ErrorContains(t, err, `LISTEN_ADDR is "wrong"`)
}

func TestMigrateAndImport(t *testing.T) {
	t.Chdir(t.TempDir())
	require.NoError(t, os.WriteFile(".env", []byte("DATABASE_URL=sqlite:test.db\nSEED_INVOICES=true\n"), 0o600))
	require.NoError(t, os.WriteFile("two.csv", []byte("InvoiceId;Value;Currency;Note\nI1;12,15;EUR;\nnew;7,5;EUR;\n"), 0o600))
	_, err := run(t, "migrate")
	require.NoError(t, err)
	require.FileExists(t, "test.db")
	out, err := run(t, "import", "--decimal-comma", "two.csv")
	require.NoError(t, err)
	assert.Contains(t, out, "1 invoices added, 1 were there already")
	assert.Contains(t, out, `"Note"`)
	_, err = run(t, "import", "two.csv")
	assert.ErrorContains(t, err, "nothing was imported: two.csv:2: ")
	_, err = run(t, "migrate", "--grant-to", "me")
	assert.ErrorContains(t, err, "an SQLite file has no roles")
}
