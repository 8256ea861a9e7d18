package wire

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/internal/money"
	"example.com/invoices/invoice-app/invoice"
)

func TestInvoiceAsJSON(t *testing.T) {
	i := invoice.Invoice{Seq: 7, ID: "I1", Amount: money.Amount{Minor: 1250, Currency: "EUR"}, Paid: true}
	shown, err := New(i)
	require.NoError(t, err)
	text, err := json.Marshal(shown)
	require.NoError(t, err)
	assert.Equal(t, `{"`+InvoiceID+`":"I1","`+Value+`":12.5,"`+Currency+`":"EUR","`+IsPaid+`":true}`, string(text))

	i.Amount.Currency = "none"
	_, err = New(i)
	assert.ErrorContains(t, err, `show invoice "I1"`)
}
