package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"example.com/invoices/internal/server"
	"example.com/invoices/invoice-app/importer"
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

// Decode reads one invoice, or a JSON list of them, up to the first that is
// wrong. Its error is a *server.Failure with the answer that it gets.
func Decode(body []byte) ([]invoice.Invoice, error) {
	var list []invoice.Invoice
	for i, err := range importer.NewReader(bytes.NewReader(body), importer.Options{Format: importer.JSON}).All() {
		if err != nil {
			return nil, refusal(errors.Unwrap(err)) // the place in the list says more than the line
		}
		list = append(list, i)
	}
	return list, nil
}

// refusal makes an importer's error the answer that it gets.
func refusal(err error) *server.Failure {
	var failure *server.Failure // of the body
	var conflict *invoice.ConflictError
	var invalid *invoice.InvalidError
	switch {
	case errors.As(err, &failure):
		return failure
	case errors.As(err, &conflict):
		return &server.Failure{Status: http.StatusConflict, Text: err.Error()}
	case errors.As(err, &invalid):
		return &server.Failure{Status: http.StatusBadRequest, Text: err.Error()}
	}
	return &server.Failure{Status: http.StatusBadRequest, Code: server.CodeMalformed, Text: err.Error()}
}

func refuse(format string, args ...any) error {
	return &server.Failure{Status: http.StatusBadRequest, Text: fmt.Sprintf(format, args...)}
}
