// Package money holds exact amounts: an integer number of a currency's minor
// units. No value ever passes through a binary float.
package money

import (
	"errors"
	"fmt"
	"math/big"
	"regexp"
	"strings"

	"github.com/shopspring/decimal"
)

// Why an amount is invalid. Parse wraps one of these; their texts can be shown to the sender of
// the amount.
var (
	ErrNotANumber      = errors.New("is not a number")
	ErrNotPositive     = errors.New("must be greater than zero")
	ErrTooPrecise      = errors.New("has more decimals than the currency")
	ErrOverflow        = errors.New("is too large")
	ErrUnknownCurrency = errors.New("is not a current ISO 4217 code")
	ErrWithdrawn       = errors.New("was withdrawn")
)

// Amount is a positive sum of money. The zero Amount is not valid.
type Amount struct {
	Minor    int64  // in the currency's minor unit: 1215 for 12.15 EUR, 500 for 500 JPY
	Currency string // ISO 4217, upper case
}

// jsonNumber is the grammar of RFC 8259, section 6. A decimal library accepts more ("+1", "1_000",
// "Inf"), and what is valid here must not depend on it.
var jsonNumber = regexp.MustCompile(`^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$`)

const (
	maxLiteral  = 1000 // characters; nobody has a reason to write more zeros
	maxExponent = 1000 // so that 1e999999999 is not written out in full
)

// Parse parses the text of a JSON number as an amount of currency. Different spellings of one
// amount (12.150, 1e2) give the same Amount. It returns ErrUnknownCurrency, ErrWithdrawn,
// ErrNotANumber, ErrNotPositive, ErrTooPrecise or ErrOverflow, wrapped with the invalid text.
func Parse(literal, currency string) (Amount, error) {
	if old, is := withdrawn[currency]; is {
		return Amount{}, fmt.Errorf("currency %q %w as of %d: use the one that replaced it",
			currency, ErrWithdrawn, old.since)
	}
	return ParseHistoric(literal, currency)
}

// digits returns the number of decimals that a currency has or, if it was withdrawn, had.
func digits(currency string) (n uint8, known bool) {
	if n, known = exponents[currency]; known {
		return n, true
	}
	old, known := withdrawn[currency]
	return old.digits, known
}

// ParseHistoric parses an amount that was agreed in the past. It is Parse, but accepts withdrawn
// currencies, too.
func ParseHistoric(literal, currency string) (Amount, error) {
	digits, known := digits(currency)
	if !known {
		return Amount{}, fmt.Errorf("currency %.20q %w", currency, ErrUnknownCurrency)
	}
	refuse := func(why error) (Amount, error) {
		return Amount{}, fmt.Errorf("value %.40s %w", literal, why)
	}
	if !jsonNumber.MatchString(literal) {
		return refuse(ErrNotANumber)
	}
	if len(literal) > maxLiteral {
		return refuse(ErrOverflow)
	}
	value, err := decimal.NewFromString(literal)
	if err != nil { // the grammar is right, so only the exponent can be too large for the library
		if strings.Contains(strings.ToLower(literal), "e-") {
			return refuse(ErrTooPrecise)
		}
		return refuse(ErrOverflow)
	}
	switch {
	case value.Sign() <= 0:
		return refuse(ErrNotPositive)
	case value.Exponent() > maxExponent:
		return refuse(ErrOverflow)
	case value.Exponent() < -2*maxExponent:
		return refuse(ErrTooPrecise)
	}
	minor := value.Shift(int32(digits))
	if !minor.IsInteger() {
		return refuse(ErrTooPrecise)
	}
	if !minor.BigInt().IsInt64() {
		return refuse(ErrOverflow)
	}
	return Amount{Minor: minor.BigInt().Int64(), Currency: currency}, nil
}

// Number returns the amount in major units as a JSON number, without trailing zeros: 12.15, 10.5,
// 7. It returns ErrUnknownCurrency rather than a number that could be a hundred times too large.
func (a Amount) Number() (string, error) {
	digits, known := digits(a.Currency)
	if !known {
		return "", unknownStored(a.Currency)
	}
	return decimal.New(a.Minor, -int32(digits)).String(), nil
}

func unknownStored(currency string) error {
	return fmt.Errorf("stored currency %.20q %w, nor a withdrawn one: this program does not know its decimals",
		currency, ErrUnknownCurrency)
}

// Text returns a sum of minor units in major units as people write it, with all decimals of the
// currency: 12.15, 10.50, 7.00. Its error is that of Number.
func Text(minor *big.Int, currency string) (string, error) {
	digits, known := digits(currency)
	if !known {
		return "", unknownStored(currency)
	}
	return decimal.NewFromBigInt(minor, -int32(digits)).StringFixed(int32(digits)), nil
}
