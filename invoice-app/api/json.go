package api

import (
	"bytes"
	"errors"

	"example.com/invoices/invoice-app/importer"
	"example.com/invoices/invoice-app/invoice"
)

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
