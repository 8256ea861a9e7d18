package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/go-json-experiment/json/jsontext"

	"example.com/invoices/internal/identifier"
	"example.com/invoices/internal/money"
	"example.com/invoices/internal/server"
	"example.com/invoices/invoice-app/invoice"
)

// answer is an invoice as it is shown. The first four fields, and their order,
// are the original API's.
type answer struct {
	InvoiceId string //nolint:revive,staticcheck // the original spelling
	Value     json.Number
	Currency  string
	IsPaid    bool
	Rejected  string `json:",omitempty"`
}

func newAnswer(i invoice.Invoice) (answer, error) {
	number, err := i.Amount.Number()
	if err != nil {
		return answer{}, fmt.Errorf("show invoice %q: %w", i.ID, err)
	}
	return answer{i.ID, json.Number(number), i.Amount.Currency, i.Paid, i.Rejected}, nil
}

// request is an invoice as it is sent.
type request struct {
	InvoiceId string         //nolint:revive,staticcheck // the original spelling
	Value     jsontext.Value // the literal's text: no float on the way
	Currency  string
	IsPaid    bool
}

// Decode reads one invoice, or a JSON list of them. Its error is a
// *server.Failure with the answer that it gets.
func Decode(body []byte) ([]invoice.Invoice, error) {
	if !bytes.HasPrefix(bytes.TrimLeft(body, " \t\r\n"), []byte("[")) {
		var one request
		if err := server.Decode(body, &one); err != nil {
			return nil, err
		}
		i, err := one.invoice()
		return []invoice.Invoice{i}, err
	}
	var many []request
	if err := server.Decode(body, &many); err != nil {
		return nil, err
	}
	list := make([]invoice.Invoice, len(many))
	for n, r := range many {
		i, err := r.invoice()
		if err != nil {
			return nil, refuse("invoice %d of the list: %v", n+1, err)
		}
		list[n] = i
	}
	return list, nil
}

func (r request) invoice() (invoice.Invoice, error) {
	value := string(r.Value)
	if value == "null" {
		value = ""
	}
	if r.IsPaid {
		// Adding it as unpaid would have it paid a second time.
		return invoice.Invoice{}, refuse("IsPaid is true: only unpaid invoices can be added")
	}
	return NewInvoice(r.InvoiceId, value, r.Currency)
}

// NewInvoice checks the three fields of an invoice from outside. Its error is
// a *server.Failure that names the field.
func NewInvoice(id, value, currency string) (invoice.Invoice, error) {
	if wrong := identifier.Check(id); wrong != "" {
		return invoice.Invoice{}, refuse("InvoiceId %s", wrong)
	}
	if value == "" {
		return invoice.Invoice{}, refuse("Value is missing")
	}
	if currency == "" {
		return invoice.Invoice{}, refuse("Currency is missing")
	}
	amount, err := money.Parse(value, currency)
	if err != nil {
		return invoice.Invoice{}, refuse("%v", err)
	}
	return invoice.Invoice{ID: id, Amount: amount}, nil
}

func refuse(format string, args ...any) error {
	return &server.Failure{Status: http.StatusBadRequest, Text: fmt.Sprintf(format, args...)}
}
