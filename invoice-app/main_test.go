package main

import (
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
