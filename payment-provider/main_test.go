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
	settings := config.New("payment-provider")
	readConfig(settings)
	reference, err := os.ReadFile("../docs/reference.md")
	require.NoError(t, err)
	assert.Contains(t, string(reference), settings.Markdown(), "docs/reference.md: the table of payment-provider's variables must read")
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

func TestCommandLine(t *testing.T) {
	t.Chdir(t.TempDir())
	require.NoError(t, os.WriteFile(".env", []byte("DATABASE_URL=sqlite:test.db\n"), 0o600))
	_, err := run(t, "migrate")
	require.NoError(t, err)
	require.FileExists(t, "test.db")
	for want, args := range map[string][]string{
		`unknown command "pay"`:       {"pay"},
		`unknown command "now"`:       {"migrate", "now"},
		"unknown flag: --no-such":     {"migrate", "--no-such"},
		"an SQLite file has no roles": {"migrate", "--grant-to", "me"},
	} {
		_, err := run(t, args...)
		assert.ErrorContains(t, err, want, "%q", args)
	}
	t.Setenv("LISTEN_ADDR", "wrong")
	_, err = run(t)
	assert.ErrorContains(t, err, `LISTEN_ADDR is "wrong"`)
	out, err := run(t, "help") // which does not mind
	require.NoError(t, err)
	assert.Contains(t, out, "migrate [--grant-to ROLE]")
	assert.Contains(t, out, "LISTEN_ADDR")
}
