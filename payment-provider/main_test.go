package main

import (
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/internal/config"
)

func TestTheREADMEDocumentsEveryVariable(t *testing.T) {
	settings := config.New("payment-provider")
	readConfig(settings)
	readme, err := os.ReadFile("../README.md")
	require.NoError(t, err)
	assert.Contains(t, string(readme), settings.Markdown(), "the table of payment-provider's variables is to be")
}
