package api

import (
	"bytes"
	"errors"

	"example.com/invoices/invoice-app/importer"
	"example.com/invoices/invoice-app/invoice"
)

// Decode parses one invoice, or a JSON list of them, up to the first invalid one. Its error is a
// *server.Failure.
func Decode(body []byte) ([]invoice.Invoice, error) {
	var list []invoice.Invoice
	for i, err := range importer.NewReader(bytes.NewReader(body), importer.Options{Format: importer.JSON}).All() {
		if err != nil {
			return nil, refusal(errors.Unwrap(err)) // the position in the list says more than the line
		}
		list = append(list, i)
	}
	return list, nil
}
