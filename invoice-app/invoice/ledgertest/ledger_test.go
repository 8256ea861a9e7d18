package ledgertest

import (
	"testing"

	"example.com/invoices/invoice-app/invoice"
)

func TestLedger(t *testing.T) {
	Test(t, func(_ *testing.T, invoices []invoice.Invoice) Store { return New(invoices...) })
}
