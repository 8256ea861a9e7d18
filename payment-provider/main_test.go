package main

import (
	"log/slog"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/internal/config"
)

func TestReferenceDocumentsEveryVariable(t *testing.T) {
	settings := config.New("payment-provider")
	readConfig(settings)
	reference, err := os.ReadFile("../docs/reference.md")
	require.NoError(t, err)
	assert.Contains(t, string(reference), settings.Markdown(),
		"docs/reference.md: the table of payment-provider's variables must read")
}

func TestMigrate(t *testing.T) {
	t.Chdir(t.TempDir())
	defer slog.SetDefault(slog.Default())
	t.Setenv("DATABASE_URL", "sqlite:test.db")
	t.Setenv("LOG_LEVEL", "error")
	command := newCommand()
	command.SetArgs([]string{"migrate"})
	require.NoError(t, command.ExecuteContext(t.Context()))
	assert.FileExists(t, "test.db")
}

func TestCallersHaveEitherCertificatesOrTokens(t *testing.T) {
	t.Setenv("TLS_FOLDER", "tls")
	t.Setenv("CALLER_NAMES", "invoice-app")
	for _, name := range []string{"CALLER_KEYS_FILE", "CALLER_ISSUER", "CALLER_AUDIENCE", "CALLER_ACCOUNT"} {
		t.Setenv(name, "system:serviceaccount:team:name")
	}
	settings := config.New("payment-provider")
	readConfig(settings)
	assert.ErrorContains(t, settings.Err(), "are both set: callers have either a certificate or a token")
}
