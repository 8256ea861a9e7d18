package money

import (
	"math/big"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestParse(t *testing.T) {
	for _, test := range []struct {
		literal, currency string
		minor             int64
		number            string
	}{
		{"12.15", "EUR", 1215, "12.15"},
		{"12.150", "EUR", 1215, "12.15"},
		{"1e2", "EUR", 10000, "100"},
		{"1215e-2", "EUR", 1215, "12.15"},
		{"1.215E+1", "EUR", 1215, "12.15"},
		{"10.5", "GBP", 1050, "10.5"},
		{"7", "DKK", 700, "7"},
		{"0.01", "EUR", 1, "0.01"},
		{"500", "JPY", 500, "500"},
		{"500.0", "JPY", 500, "500"},
		{"1.234", "KWD", 1234, "1.234"},
		{"131072.01", "EUR", 13107201, "131072.01"}, // the same float32 as the next
		{"131072.02", "EUR", 13107202, "131072.02"},
		{"92233720368547758.07", "EUR", 9223372036854775807, "92233720368547758.07"},
		{"12." + "15" + strings.Repeat("0", 500), "EUR", 1215, "12.15"},
	} {
		amount, err := Parse(test.literal, test.currency)
		if assert.NoError(t, err, test.literal) {
			assert.Equal(t, Amount{test.minor, test.currency}, amount, test.literal)
			number, err := amount.Number()
			assert.NoError(t, err)
			assert.Equal(t, test.number, number)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, test := range []struct {
		literal, currency string
		why               error
	}{
		{"0", "EUR", ErrNotPositive},
		{"0.00", "EUR", ErrNotPositive},
		{"-0", "EUR", ErrNotPositive},
		{"-1", "EUR", ErrNotPositive},
		{"12.155", "EUR", ErrTooPrecise},
		{"0.5", "JPY", ErrTooPrecise},
		{"1e-400", "EUR", ErrTooPrecise},
		{"1e-2000000000", "EUR", ErrTooPrecise},
		{"92233720368547758.08", "EUR", ErrOverflow},
		{"1e400", "EUR", ErrOverflow},
		{"1e2000000000", "EUR", ErrOverflow},
		{"1e99999999999999999999", "EUR", ErrOverflow},
		{strings.Repeat("9", 2000), "EUR", ErrOverflow},
		{"", "EUR", ErrNotANumber},
		{"NaN", "EUR", ErrNotANumber},
		{"Inf", "EUR", ErrNotANumber},
		{"+1", "EUR", ErrNotANumber},
		{"01", "EUR", ErrNotANumber},
		{"1_000", "EUR", ErrNotANumber},
		{"0x10", "EUR", ErrNotANumber},
		{"1,5", "EUR", ErrNotANumber},
		{" 1", "EUR", ErrNotANumber},
		{`"1"`, "EUR", ErrNotANumber},
		{"true", "EUR", ErrNotANumber},
		{"1", "eur", ErrUnknownCurrency},
		{"1", "XXX", ErrUnknownCurrency},
		{"1", "", ErrUnknownCurrency},
	} {
		_, err := Parse(test.literal, test.currency)
		assert.ErrorIs(t, err, test.why, "%.40s %s", test.literal, test.currency)
	}
}

// An amount that was agreed before its currency was withdrawn keeps its value, but no new amount
// can be agreed.
func TestWithdrawnCurrency(t *testing.T) {
	number, err := Amount{1215, "BGN"}.Number()
	require.NoError(t, err)
	assert.Equal(t, "12.15", number)
	_, err = Parse("12.15", "BGN")
	require.ErrorIs(t, err, ErrWithdrawn)
	assert.EqualError(t, err, `currency "BGN" was withdrawn as of 2026: use the one that replaced it`)
	amount, err := ParseHistoric("12.15", "BGN")
	require.NoError(t, err)
	assert.Equal(t, Amount{1215, "BGN"}, amount)
	for code := range withdrawn {
		assert.NotContains(t, exponents, code)
	}
}

func TestUnknownStoredCurrencyIsAnError(t *testing.T) {
	for _, currency := range []string{"", "XXX", "eur", "EURO"} {
		number, err := Amount{1215, currency}.Number()
		require.ErrorIs(t, err, ErrUnknownCurrency, currency)
		assert.Empty(t, number)
		text, err := Text(big.NewInt(1215), currency)
		require.ErrorIs(t, err, ErrUnknownCurrency, currency)
		assert.Empty(t, text)
	}
}

func TestTextHasAllDecimals(t *testing.T) {
	more, _ := new(big.Int).SetString("18446744073709551614", 10) // than an Amount
	for _, c := range []struct {
		minor          *big.Int
		currency, want string
	}{
		{big.NewInt(1215), "EUR", "12.15"}, {big.NewInt(1050), "EUR", "10.50"},
		{big.NewInt(5), "EUR", "0.05"}, {new(big.Int), "EUR", "0.00"},
		{big.NewInt(500), "JPY", "500"}, {big.NewInt(1005), "KWD", "1.005"}, {big.NewInt(1215), "BGN", "12.15"},
		{more, "EUR", "184467440737095516.14"},
	} {
		text, err := Text(c.minor, c.currency)
		require.NoError(t, err)
		assert.Equal(t, c.want, text)
	}
}

// FuzzParse compares Parse with exact rational arithmetic.
func FuzzParse(f *testing.F) {
	for _, literal := range []string{"12.15", "1e2", "0", "-1", "1e-400", "92233720368547758.07", "12.155", "1E+05"} {
		f.Add(literal, "EUR")
	}
	f.Add("500", "JPY")
	f.Add("1.234", "KWD")
	f.Fuzz(func(t *testing.T, literal, currency string) {
		amount, err := Parse(literal, currency)
		if err != nil {
			return
		}
		exact, ok := new(big.Rat).SetString(literal)
		require.True(t, ok, "accepted %q, which is not a number", literal)
		scale := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(exponents[currency])), nil)
		want := new(big.Rat).Mul(exact, new(big.Rat).SetInt(scale))
		require.Zero(t, want.Cmp(new(big.Rat).SetInt64(amount.Minor)), "%s became %d", literal, amount.Minor)
		require.Positive(t, amount.Minor)

		number, err := amount.Number()
		require.NoError(t, err)
		again, err := Parse(number, currency)
		require.NoError(t, err)
		require.Equal(t, amount, again, "the amount changed when it was shown")
	})
}
