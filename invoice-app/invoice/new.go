package invoice

import (
	"errors"
	"strings"

	"example.com/invoices/internal/identifier"
	"example.com/invoices/internal/money"
)

// InvalidError says what is wrong with an invoice from outside, and how to correct it.
type InvalidError struct{ Text string }

func (e *InvalidError) Error() string { return e.Text }

// New checks the fields of an invoice from outside; value is the text of a JSON number. Its error
// is an *InvalidError.
func New(id, value, currency string) (Invoice, error) {
	if wrong := identifier.Check(id); wrong != "" {
		return Invoice{}, &InvalidError{"InvoiceId " + wrong}
	}
	if value == "" {
		return Invoice{}, &InvalidError{"Value is missing"}
	}
	if currency == "" {
		return Invoice{}, &InvalidError{"Currency is missing"}
	}
	amount, err := money.Parse(value, currency)
	if errors.Is(err, money.ErrUnknownCurrency) && strings.ToUpper(currency) != currency {
		return Invoice{}, &InvalidError{err.Error() + ": codes must be in upper case, like EUR"}
	}
	if err != nil {
		return Invoice{}, &InvalidError{err.Error()}
	}
	return Invoice{ID: id, Amount: amount}, nil
}
