// Package wire defines the representation of an invoice outside the service: the names of its
// fields, and its JSON.
package wire

import (
	"encoding/json"
	"fmt"

	"example.com/invoices/invoice-app/invoice"
)

// The names of an invoice's fields: the keys of a JSON object, or the columns of a CSV file.
const (
	InvoiceID = "InvoiceId"
	Value     = "Value"
	Currency  = "Currency"
	IsPaid    = "IsPaid"
)

// Invoice is an invoice as JSON. The first four fields, their spelling and their order are the original API's.
type Invoice struct {
	InvoiceID string `json:"InvoiceId"`
	Value     json.Number
	Currency  string
	IsPaid    bool
	Rejected  string `json:",omitempty"`
}

// New returns the JSON form of i.
func New(i invoice.Invoice) (Invoice, error) {
	number, err := i.Amount.Number()
	if err != nil {
		return Invoice{}, fmt.Errorf("show invoice %q: %w", i.ID, err)
	}
	return Invoice{i.ID, json.Number(number), i.Amount.Currency, i.Paid, i.Rejected}, nil
}
