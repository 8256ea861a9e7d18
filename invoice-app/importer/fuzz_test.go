package importer

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"example.com/invoices/invoice-app/invoice"
)

func FuzzCSV(f *testing.F) {
	for _, text := range []string{
		plain,
		"\uFEFFsep=;\r\nInvoice ID;Value;Currency;Is Paid\r\nA1;12,15;EUR;false\r\n;;;\r\n",
		"currency\tnote\tinvoice_id\tvalue\rEUR\t\"a\rb\"\tA1\t1.5\r",
		inUTF16(plain, 1, 0),
	} {
		f.Add([]byte(text), false)
		f.Add([]byte(text), true)
	}
	f.Fuzz(func(t *testing.T, text []byte, decimalComma bool) {
		fuzz(t, text, Options{Format: CSV, DecimalComma: decimalComma})
	})
}

func FuzzJSONLines(f *testing.F) {
	for _, text := range []string{
		"{\"InvoiceId\":\"A1\",\"Value\":131072.01,\"Currency\":\"EUR\"}\n\n" +
			"{\"invoice_id\":\"A, 2\",\"Value\":5e2,\"Currency\":\"JPY\",\"x\":[{}]}\n",
		`[{"InvoiceId":"A1","Value":1,"Currency":"KWD","IsPaid":false},{}]`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		fuzz(t, text, Options{Format: JSONLines})
		fuzz(t, text, Options{Format: JSON})
		fuzz(t, text, Options{})
	})
}

// fuzz reads text, and then what a person would write for its invoices.
func fuzz(t *testing.T, text []byte, options Options) {
	most := bytes.Count(text, []byte("\n")) + bytes.Count(text, []byte("\r")) + 1
	var list []invoice.Invoice
	r := NewReader(bytes.NewReader(text), options)
	var failed error
	for i, err := range r.All() {
		if err != nil {
			failed = err
			break
		}
		list = append(list, i)
	}
	if failed != nil {
		var where *Error
		require.ErrorAs(t, failed, &where)
		require.Positive(t, where.Line)
		require.LessOrEqual(t, where.Line, most+1, "an error at the end is on the line that is missing")
	}
	line := 0
	for n := range list {
		require.GreaterOrEqual(t, r.lines.of(n), line)
		line = r.lines.of(n)
		require.LessOrEqual(t, line, most)
	}

	again := NewReader(iotest.HalfReader(bytes.NewReader(text)), options)
	count := 0
	for i, err := range again.All() {
		if err != nil {
			require.Equal(t, failed.Error(), err.Error(), "it depends on how the text arrives")
			break
		}
		require.Equal(t, list[count], i)
		count++
	}
	require.Len(t, list, count)

	var table bytes.Buffer
	rows := csv.NewWriter(&table)
	_ = rows.Write([]string{"InvoiceId", "Value", "Currency"})
	var objects []string
	for _, i := range list {
		value, err := i.Amount.Number()
		require.NoError(t, err)
		_ = rows.Write([]string{i.ID, value, i.Amount.Currency})
		id, err := json.Marshal(i.ID)
		require.NoError(t, err)
		objects = append(objects, `{"InvoiceId":`+string(id)+`,"Value":`+value+`,"Currency":"`+i.Amount.Currency+`"}`)
	}
	rows.Flush()
	for _, text := range []string{table.String(), "[" + strings.Join(objects, ",\n") + "]"} {
		same, _, err := read(strings.NewReader(text), Options{})
		require.NoError(t, err)
		require.Equal(t, list, same)
	}
}
