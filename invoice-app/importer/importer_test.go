package importer

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"unicode/utf16"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/internal/money"
	"example.com/invoices/invoice-app/invoice"
	"example.com/invoices/invoice-app/store"
)

func openStore(t *testing.T) store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "invoices.db"), 1)
	require.NoError(t, err)
	t.Cleanup(s.Close)
	return s
}

// read returns the invoices in text, and the errors and names that the Reader reports.
func read(text io.Reader, options Options) (list []invoice.Invoice, r *Reader, err error) {
	r = NewReader(text, options)
	for i, err := range r.All() {
		if err != nil {
			return nil, r, err
		}
		list = append(list, i)
	}
	return list, r, nil
}

// inUTF16 returns text in UTF-16 with a byte-order mark.
func inUTF16(text string, high, low int) string {
	var b []byte
	for _, unit := range utf16.Encode([]rune("\uFEFF" + text)) {
		pair := [2]byte{}
		pair[high], pair[low] = byte(unit>>8), byte(unit)
		b = append(b, pair[:]...)
	}
	return string(b)
}

var two = []invoice.Invoice{
	{ID: "A1", Amount: money.Amount{Minor: 13107201, Currency: "EUR"}},
	{ID: "A, 2", Amount: money.Amount{Minor: 500, Currency: "JPY"}},
}

const plain = "InvoiceId,Value,Currency\nA1,131072.01,EUR\n\"A, 2\",500,JPY\n"

func TestReadCommonFormats(t *testing.T) {
	comma := Options{DecimalComma: true}
	for name, test := range map[string]struct {
		text    string
		options Options
		ignored []string
	}{
		"CSV":                           {text: plain},
		"CSV without the last line end": {text: strings.TrimSuffix(plain, "\n")},
		"a byte-order mark":             {text: "\uFEFF" + plain},
		"a mark and quotes": {text: "\uFEFF\"InvoiceId\",\"Value\",\"Currency\"\n" +
			"A1,131072.01,EUR\n\"A, 2\",500,JPY\n"},
		"UTF-16, little-endian": {text: inUTF16(plain, 1, 0)},
		"UTF-16, big-endian":    {text: inUTF16(plain, 0, 1)},
		"JSON lines in UTF-16": {text: inUTF16(`{"InvoiceId":"A1","Value":131072.01,"Currency":"EUR"}`+
			`{"InvoiceId":"A, 2","Value":500,"Currency":"JPY"}`, 1, 0)},
		"carriage returns and line feeds": {text: strings.ReplaceAll(plain, "\n", "\r\n")},
		"carriage returns alone":          {text: strings.ReplaceAll(plain, "\n", "\r")},
		"all line ends in one":            {text: "InvoiceId,Value,Currency\r\nA1,131072.01,EUR\r\r\n\"A, 2\",500,JPY\n\r"},
		"semicolons":                      {text: "InvoiceId;Value;Currency\nA1;131072.01;EUR\nA, 2;500;JPY\n"},
		"tabs":                            {text: "InvoiceId\tValue\tCurrency\nA1\t131072.01\tEUR\nA, 2\t500\tJPY\n"},
		"bars":                            {text: "InvoiceId|Value|Currency\nA1|131072.01|EUR\nA, 2|500|JPY\n"},
		"empty columns between tabs": {text: "note\tInvoiceId\tValue\tCurrency\n\tA1\t131072.01\tEUR\n\tA, 2\t500\tJPY\n",
			ignored: []string{`"note"`}},
		"separators in the header": {text: "InvoiceId;Value;Currency;\"Note, long, with, many\"\n" +
			"A1;131072.01;EUR;x\nA, 2;500;JPY;y\n",
			ignored: []string{`"Note, long, with, many"`}},
		"a line end in the header": {text: "InvoiceId;Value;Currency;\"Note;\n(long)\"\nA1;131072.01;EUR;x\nA, 2;500;JPY;y\n",
			ignored: []string{`"Note;\n(long)"`}},
		"Excel's first line": {text: "sep=;\r\nInvoiceId;Value;Currency\r\nA1;131072.01;EUR\r\nA, 2;500;JPY\r\n"},
		"Excel's first line, quoted": {text: "\uFEFF\"SEP=\t\"\n" +
			"InvoiceId\tValue\tCurrency\nA1\t131072.01\tEUR\nA, 2\t500\tJPY\n"},
		"Excel's first line, ^": {text: "sep=^\nInvoiceId^Value^Currency\nA1^131072.01^EUR\nA, 2^500^JPY\n"},
		"spelled otherwise": {text: "currency, invoice_id ,VALUE,Is Paid,Note\n" +
			"EUR,A1,131072.010,FALSE,\"two\nlines\"\nJPY,\"A, 2\",5e2,,\n",
			ignored: []string{`"Note"`}},
		"hyphens and dots": {text: "Currency.;Invoice-ID;\u00a0Value;PAID\nEUR;A1;131072.01;false\nJPY;A, 2;500;False\n"},
		"blanks around":    {text: "InvoiceId,Value,Currency\nA1, 131072.01\u00a0,\tEUR \n\"A, 2\",\u202f500,JPY\n"},
		"rows of separators": {text: ",,\n\n ,\t,\nInvoiceId,Value,Currency\n" +
			",,\nA1,131072.01,EUR\n\n\u00a0, ,\n,,,,,\n\"A, 2\",500,JPY\n,,\n \n"},
		"columns without a name": {text: ",InvoiceId,Value,Currency,\n0,A1,131072.01,EUR,\n1,\"A, 2\",500,JPY,,,\n",
			ignored: []string{"column 1 (without a name)", "column 5 (without a name)"}},
		"decimal commas": {text: "InvoiceId;Value;Currency\nA1;131072,01;EUR\nA, 2;500;JPY\n", options: comma},
		"decimal commas, quoted": {text: "InvoiceId,Value,Currency\nA1,\"131072,010\",EUR\n\"A, 2\",\"5,0E2\",JPY\n",
			options: comma},
		"Latin-1 where nothing is read": {text: "InvoiceId;Value;Currency;Stra\xdfe\nA1;131072.01;EUR;\xe4\nA, 2;500;JPY;\n",
			ignored: []string{`"Stra\xdfe"`}},
		"JSON lines": {text: "{\"InvoiceId\":\"A1\",\"Value\":131072.01,\"Currency\":\"EUR\"}\n\n" +
			"{\"InvoiceId\":\"A, 2\",\"Value\":500,\"Currency\":\"JPY\",\"x\":1}",
			ignored: []string{`"x"`}},
		"JSON lines, later": {text: "\n \r\n\t{\"InvoiceId\":\"A1\",\"Value\":131072.01,\"Currency\":\"EUR\"}\r" +
			"{\"invoice_id\":\"A, 2\",\"VALUE\":500,\"currency\":\"JPY\",\"Is Paid\":null}"},
		"JSON objects as jq has": {text: "{\n  \"InvoiceId\": \"A1\",\n  \"Value\": 131072.01,\n" +
			"  \"Currency\": \"EUR\"\n}\n" +
			"{\n  \"InvoiceId\": \"A, 2\",\n  \"Value\": 500,\n  \"Currency\": \"JPY\"\n}\n"},
		"a JSON list as GET /invoices answers": {text: `[{"InvoiceId":"A1","Value":131072.01,"Currency":"EUR",` +
			`"IsPaid":false,"Rejected":"no"},` +
			`{"InvoiceId":"A, 2","Value":500,"Currency":"JPY","IsPaid":false}]`,
			ignored: []string{`"Rejected"`}},
		"a JSON list, indented": {text: "\uFEFF\n[\n" +
			"  {\n    \"InvoiceId\": \"A1\",\n    \"Value\": 131072.01,\n    \"Currency\": \"EUR\"\n  },\n\n" +
			"  {\"InvoiceId\":\"A, 2\",\"Value\":5e2,\"Currency\":\"JPY\", \"nested\": [{\"Value\":[1]}]}\n]\n\n",
			ignored: []string{`"nested"`}},
	} {
		t.Run(name, func(t *testing.T) {
			for how, text := range map[string]io.Reader{
				"whole":        strings.NewReader(test.text),
				"byte by byte": iotest.OneByteReader(strings.NewReader(test.text)),
			} {
				list, r, err := read(text, test.options)
				require.NoError(t, err, how)
				assert.Equal(t, two, list, how)
				assert.Equal(t, test.ignored, r.ignored, how)
			}
		})
	}
}

func TestNothingToAdd(t *testing.T) {
	for _, text := range []string{"InvoiceId,Value,Currency", "sep=,\nInvoiceId,Value,Currency\n,,\n", "[]", " [ ] \n"} {
		list, _, err := read(strings.NewReader(text), Options{})
		require.NoError(t, err, text)
		assert.Empty(t, list, text)
	}
}

func TestErrorsHaveALineAndNothingIsImported(t *testing.T) {
	s := openStore(t)
	const a1 = `{"InvoiceId":"A1","Value":1,"Currency":"EUR"}`
	long := strings.Repeat("x", maxRecord)
	comma := Options{DecimalComma: true}
	for name, test := range map[string]struct {
		text    string
		line    int
		says    string
		options Options
	}{
		"an empty file":      {text: "", line: 1, says: "is empty"},
		"only a mark":        {text: "\uFEFF", line: 1, says: "is empty"},
		"only blanks":        {text: " \n\t\n", line: 1, says: "is empty"},
		"only separators":    {text: ";;\n;;\n", line: 2, says: "no header"},
		"only Excel's line":  {text: "sep=;\n", line: 1, says: "no header"},
		"blanks without end": {text: strings.Repeat(" ", 1<<20), line: 1, says: "64 KiB of blanks"},
		"gzip":               {text: "\x1f\x8b\x08\x00", line: 1, says: "gunzip"},
		"a workbook":         {text: "PK\x03\x04\x14\x00", line: 1, says: "save the table as CSV"},
		"an old workbook":    {text: "\xd0\xcf\x11\xe0\xa1\xb1", line: 1, says: "save the table as CSV"},
		"a PDF":              {text: "%PDF-1.7\n", line: 1, says: "is a PDF"},
		"UTF-16, no mark":    {text: inUTF16(plain, 1, 0)[2:], line: 1, says: "save it as UTF-8"},
		"UTF-32":             {text: "\xff\xfe\x00\x00I\x00\x00\x00", line: 1, says: "save it as UTF-8"},
		"UTF-16, cut off": {text: inUTF16("InvoiceId,Value,Currency\nA1,1,EUR", 1, 0) + "x",
			line: 2, says: "Currency is not in UTF-8"},
		"half a surrogate": {text: inUTF16("InvoiceId,Value,Currency\nA", 1, 0) + "\x3d\xd8" + inUTF16(",1,EUR\n", 1, 0)[2:],
			line: 2, says: "InvoiceId is not in UTF-8"},
		"Latin-1": {text: "InvoiceId,Value,Currency\nM\xfcller,1,EUR\n",
			line: 2, says: "InvoiceId is not in UTF-8"},
		"NUL":               {text: "InvoiceId,Value,Currency\nA1\x00,1,EUR\n", line: 2, says: "InvoiceId "},
		"NUL in a number":   {text: "InvoiceId,Value,Currency\nA1,1\x00,EUR\n", line: 2, says: "not a number"},
		"a mark inside":     {text: "InvoiceId,Value,Currency\nA1,\uFEFF1,EUR\n", line: 2, says: "not a number"},
		"two files in one":  {text: plain + plain, line: 4, says: "Value \"Value\""},
		"no header":         {text: "A1,1,EUR\n", line: 1, says: "no column InvoiceId"},
		"a web page":        {text: "\n<!DOCTYPE html>\n", line: 2, says: "no column InvoiceId"},
		"a missing column":  {text: "InvoiceId,Value\nA1,1\n", line: 1, says: "no column Currency"},
		"another separator": {text: "sep=,\nInvoiceId;Value;Currency\n", line: 2, says: "no column InvoiceId"},
		"a broken header":   {text: "InvoiceId,Val\"ue,Currency\nA1,1\n", line: 1, says: "put the whole field in quotes"},
		"an open header":    {text: "InvoiceId,Value,\"Currency\nA1,1,EUR\n", line: 1, says: "not closed"},
		"a header too long": {text: "\nInvoiceId,Value,Currency,\"" + strings.Repeat(long, 2) + "\n",
			line: 2, says: "over 64 KiB"},
		"a column twice": {text: "InvoiceId,Value,Currency,Value\nA1,1,EUR,100\n",
			line: 1, says: `duplicate column: "Value" and "Value"`},
		"twice, by case":    {text: "InvoiceId,Value,Currency,VALUE \nA1,1,EUR,100\n", line: 1, says: "duplicate"},
		"twice, by blanks":  {text: "Invoice Id;InvoiceId;Value;Currency\nA1;A2;1;EUR\n", line: 1, says: "duplicate"},
		"twice, by hyphens": {text: "InvoiceId,Value,Currency,due-date,due_date\nA1,1,EUR,,\n", line: 1, says: "duplicate"},
		"paid, twice": {text: "InvoiceId,Value,Currency,IsPaid,ispaid\nA1,1,EUR,true,false\n",
			line: 1, says: "duplicate"},
		"paid, two names": {text: "sep=,\nInvoiceId,Value,Currency,IsPaid,Paid\nA1,1,EUR,true,false\n",
			line: 2, says: "duplicate"},
		"a short row": {text: "InvoiceId,Value,Currency\nA1,1,EUR\nA2,1\n",
			line: 3, says: "has 2 columns, but the header has 3"},
		"a long row": {text: "InvoiceId,Value,Currency\nA1,12,15,EUR\n",
			line: 2, says: "has 4 columns, but the header has 3"},
		"a long cell": {text: "InvoiceId,Value,Currency\n\"A\nB\",1,EUR\n", line: 2, says: "InvoiceId "},
		"after a long cell": {text: "InvoiceId,Value,Currency,Note\nA1,1,EUR,\"1\r2\r\n3\n4\"\n\n,,,\nA2,x,EUR,\n",
			line: 8, says: "letters"},
		"a bad amount": {text: "InvoiceId,Value,Currency\n\"A1\",1,EUR\nA2,12.155,EUR\n",
			line: 3, says: "more decimals"},
		"no amount":           {text: "InvoiceId,Value,Currency\nA1, ,EUR\n", line: 2, says: "Value is missing"},
		"no id":               {text: "InvoiceId,Value,Currency\n,1,EUR\n", line: 2, says: "InvoiceId is missing"},
		"an unknown currency": {text: "InvoiceId,Value,Currency\nA1,1,XXX\n", line: 2, says: "ISO 4217"},
		"a currency as eur":   {text: "InvoiceId,Value,Currency\nA1,1,eur\n", line: 2, says: "upper case"},
		"a stray quote": {text: "InvoiceId,Value,Currency\nA1,1,EUR\nA\"2,1,EUR\n",
			line: 3, says: "write a quote inside it twice"},
		"an open quote": {text: "InvoiceId,Value,Currency\nA1,1,EUR\n\"A2,1,EUR\nA3,1,EUR\n", line: 3, says: "not closed"},
		"an open quote, far": {text: "InvoiceId,Value,Currency\n\"A2,1,EUR\n" + strings.Repeat("A3,1,EUR\n", maxRecord),
			line: 2, says: "over 64 KiB"},
		"a very long row": {text: "InvoiceId,Value,Currency\nA1,1,EUR\n\n" + strings.Repeat(",", 2*maxRecord),
			line: 4, says: "over 64 KiB"},
		"paid already":        {text: "InvoiceId,Value,Currency,IsPaid\nA1,1,EUR,TRUE\n", line: 2, says: "IsPaid"},
		"paid, in German":     {text: "InvoiceId,Value,Currency,IsPaid\nA1,1,EUR,WAHR\n", line: 2, says: "IsPaid"},
		"paid, Is Paid":       {text: "InvoiceId,Value,Currency,Is Paid\nA1,1,EUR,true\n", line: 2, says: "IsPaid"},
		"paid, is_paid":       {text: "InvoiceId,Value,Currency,is_paid?\nA1,1,EUR,yes\n", line: 2, says: "IsPaid"},
		"paid, PAID":          {text: "PAID;InvoiceId;Value;Currency\n1;A1;1;EUR\n", line: 2, says: "IsPaid"},
		"other data, same id": {text: "InvoiceId,Value,Currency\nA1,1,EUR\n\nA1,2,EUR\n", line: 4, says: "another amount"},
		"conflict below cells": {text: "InvoiceId,Value,Currency,Note\nA1,1,EUR,\"1\n2\"\nA2,1,EUR,\n" +
			"A3,1,EUR,\"1\n2\n3\"\n\nA2,2,EUR,\n",
			line: 9, says: "another amount"},
		"a decimal comma":   {text: "InvoiceId;Value;Currency\nA1;12,15;EUR\n", line: 2, says: "--decimal-comma"},
		"one dinar or more": {text: "InvoiceId,Value,Currency\nA1,\"1,000\",KWD\n", line: 2, says: "decimals or thousands"},
		"thousands":         {text: "InvoiceId,Value,Currency\nA1,\"1,234.56\",EUR\n", line: 2, says: "thousands separator"},
		"thousands, German": {text: "InvoiceId;Value;Currency\nA1;1.234,56;EUR\n",
			line: 2, says: "thousands separator", options: comma},
		"thousands, points": {text: "InvoiceId;Value;Currency\nA1;1.234.567;EUR\n", line: 2, says: "thousands separator"},
		"thousands, commas": {text: "InvoiceId;Value;Currency\nA1;1,234,567;JPY\n",
			line: 2, says: "thousands separator", options: comma},
		"thousands, Swiss": {text: "InvoiceId;Value;Currency\nA1;1’234.56;CHF\n", line: 2, says: "thousands separator"},
		"thousands, French": {text: "InvoiceId;Value;Currency\nA1;1\u202f234,56;EUR\n",
			line: 2, says: "thousands separator", options: comma},
		"a point, commas": {text: "InvoiceId;Value;Currency\nA1;1.234;KWD\n",
			line: 2, says: "has a decimal point", options: comma},
		"a currency sign": {text: "InvoiceId,Value,Currency\nA1,€12.15,EUR\n",
			line: 2, says: "write only the number, as in 1234.56"},
		"a currency behind": {text: "InvoiceId;Value;Currency\nA1;12,15 EUR;EUR\n",
			line: 2, says: "write only the number, as in 1234,56", options: comma},
		"a plus sign":       {text: "InvoiceId,Value,Currency\nA1,+12.15,EUR\n", line: 2, says: "plus sign"},
		"an accountant's":   {text: "InvoiceId,Value,Currency\nA1,(12.15),EUR\n", line: 2, says: "not a number"},
		"a leading zero":    {text: "InvoiceId,Value,Currency\nA1,012.15,EUR\n", line: 2, says: "not a number"},
		"a bare mark":       {text: "InvoiceId,Value,Currency\nA1,.5,EUR\n", line: 2, says: "not a number"},
		"JSON with garbage": {text: a1 + "\n\nhello\n", line: 3, says: "not JSON"},
		"JSON and a list":   {text: a1 + "\n[]\n", line: 2, says: "must be a JSON object, not a list"},
		"JSON and CSV":      {text: a1 + "\nA1,1,EUR\n", line: 2, says: "not JSON"},
		"JSON and a number": {text: a1 + "\n12", line: 2, says: "must be a JSON object, not a number"},
		"JSON with a twin":  {text: `{"InvoiceId":"A1","Value":1,"value":2,"Currency":"EUR"}`, line: 1, says: "duplicate"},
		"JSON, same key": {text: a1 + "\n" + `{"InvoiceId":"A1","Value":1,"Value":1,"Currency":"EUR"}`,
			line: 2, says: "duplicate"},
		"JSON, unknown twin": {text: `{"x":1,"x":2,"InvoiceId":"A1","Value":1,"Currency":"EUR"}`,
			line: 1, says: `duplicate key: "x"`},
		"JSON paid already": {text: `{"InvoiceId":"A1","Value":1,"Currency":"EUR","IsPaid":true}`, line: 1, says: "IsPaid"},
		"JSON PAID":         {text: `{"InvoiceId":"A1","Value":1,"Currency":"EUR","PAID":true}`, line: 1, says: "IsPaid"},
		"JSON is-paid": {text: `{"InvoiceId":"A1","Value":1,"Currency":"EUR","is paid":"true"}`,
			line: 1, says: "IsPaid must be true or false"},
		"JSON, a text": {text: `{"InvoiceId":"A1","Value":"1","Currency":"EUR"}`,
			line: 1, says: "Value must be a number, not a string"},
		"JSON, cut off":   {text: a1 + "\n" + a1[:20], line: 2, says: "cut off"},
		"JSON, in UTF-8?": {text: "{\"InvoiceId\":\"M\xfcller\"}", line: 1, says: "UTF-8"},
		"JSON, too long":  {text: a1 + "\n{" + strings.Repeat(" ", 2*maxRecord), line: 2, says: "over 64 KiB"},
		"JSON, too deep":  {text: a1 + "\n{\"x\":" + strings.Repeat("[", maxRecord/2), line: 2, says: "depth"},
		"a list, cut off": {text: "[\n" + a1 + ",\n", line: 2, says: "invoice 2 of the list: the text ends"},
		"a list, paid": {text: "[" + a1 + `,{"InvoiceId":"A2","Value":1,"Currency":"EUR","IsPaid":true}]`,
			line: 1, says: "invoice 2 of the list: IsPaid"},
		"a list and more":    {text: "[" + a1 + "]\n\n{}", line: 3, says: "followed by something else"},
		"a list and garbage": {text: "[" + a1 + "]\nA1,1,EUR", line: 2, says: "not JSON"},
		"a list in a list": {text: "[" + a1 + ",\n[" + a1 + "]]",
			line: 2, says: "invoice 2 of the list: an invoice must be"},
		"a list, a comma":   {text: "[" + a1 + ",]", line: 1, says: "not JSON"},
		"a list of nothing": {text: "[null]", line: 1, says: "not null"},
		"a list, a conflict": {text: "[\n" + a1 + ",\n" + strings.Replace(a1, "1,", "2,", 1) + "]",
			line: 3, says: "invoice 2 of the list: invoice \"A1\""},
		"an object in CSV": {text: a1, line: 1, says: "put the whole field in quotes", options: Options{Format: CSV}},
		"a list in lines": {text: "[" + a1 + "]",
			line: 1, says: "must be a JSON object", options: Options{Format: JSONLines}},
		"two for one": {text: a1 + "\n" + a1, line: 2, says: "followed by something else", options: Options{Format: JSON}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Import(t.Context(), s, strings.NewReader(test.text), test.options)
			var where *Error
			require.ErrorAs(t, err, &where)
			assert.Equal(t, test.line, where.Line, err)
			assert.ErrorContains(t, err, test.says)
			assert.Less(t, len(err.Error()), 300, "a sentence, not the file")
			last, err := s.LastSeq(t.Context())
			require.NoError(t, err)
			assert.Zero(t, last)
		})
	}
}

func TestImportingTwiceAddsOnce(t *testing.T) {
	s := openStore(t)
	text := "InvoiceId,Value,Currency,Note,Stock\nA1,1,EUR,,\nA2,1,EUR,,\nA1,1,EUR,,\n"
	result, err := Import(t.Context(), s, strings.NewReader(text), Options{})
	require.NoError(t, err)
	assert.Equal(t, Result{Added: 2, Existing: 1, Ignored: []string{`"Note"`, `"Stock"`}}, result)
	result, err = Import(t.Context(), s, strings.NewReader(text), Options{})
	require.NoError(t, err)
	assert.Equal(t, []int{0, 3}, []int{result.Added, result.Existing})
}

func TestConflictHasItsLine(t *testing.T) {
	s := openStore(t)
	_, err := Import(t.Context(), s, strings.NewReader("InvoiceId,Value,Currency\nA1,1,EUR\n"), Options{})
	require.NoError(t, err)
	_, err = Import(t.Context(), s, strings.NewReader("InvoiceId,Value,Currency\nA0,1,EUR\nA1,2,EUR\n"), Options{})
	assert.ErrorContains(t, err, "line 3: invoice \"A1\"")
	var conflict *invoice.ConflictError
	assert.ErrorAs(t, err, &conflict)
	_, err = s.Get(t.Context(), "A0")
	assert.ErrorIs(t, err, invoice.ErrNotFound)
}

// An error of the text's reader is returned unchanged, whatever is being read.
func TestSourceFails(t *testing.T) {
	gone := errors.New("gone")
	s := openStore(t)
	for _, text := range []string{"", "Inv", plain, plain + "A3,", "{", `{"InvoiceId":`, "[", "[{}", "\xff\xfeI"} {
		_, err := Import(t.Context(), s, io.MultiReader(strings.NewReader(text), iotest.ErrReader(gone)), Options{})
		var where *Error
		require.ErrorAs(t, err, &where, text)
		if text != "[{}" { // invalid before the source fails
			assert.ErrorIs(t, err, gone, text)
		}
	}
}

func TestNothingIsReadAfterAnError(t *testing.T) {
	for _, text := range []string{"InvoiceId,Value,Currency\nA1,0,EUR\n", "[{},", "{}\n"} {
		source := &counting{from: io.MultiReader(strings.NewReader(text), endless{})}
		_, _, err := read(source, Options{})
		require.Error(t, err)
		assert.LessOrEqual(t, source.read, readAhead+len(text), text)
	}
}

// endless is an endless sequence of blanks.
type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for n := range p {
		p[n] = ' '
	}
	return len(p), nil
}

type counting struct {
	from io.Reader
	read int
}

func (c *counting) Read(p []byte) (int, error) {
	n, err := c.from.Read(p)
	c.read += n
	return n, err
}

func TestReaderReadsOnce(t *testing.T) {
	list, r, err := read(strings.NewReader(plain), Options{})
	require.NoError(t, err)
	require.Len(t, list, 2)
	for _, err := range r.All() {
		assert.ErrorContains(t, err, "read already")
	}
}

func TestAPipe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pipe")
	require.NoError(t, syscall.Mkfifo(path, 0o600))
	go func() {
		pipe, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err == nil {
			_, _ = pipe.WriteString(plain)
			pipe.Close()
		}
	}()
	pipe, err := os.Open(path)
	require.NoError(t, err)
	defer pipe.Close()
	list, _, err := read(pipe, Options{})
	require.NoError(t, err)
	assert.Equal(t, two, list)
}

// The memory for a text does not grow with it, whatever its lines are like.
func TestMemoryStaysFlat(t *testing.T) {
	const rows = 300_000
	for name, text := range map[string]struct{ head, row, tail string }{
		"CSV":                 {"InvoiceId,Value,Currency\n", "I%d,12.15,EUR\n", ""},
		"CSV, two lines each": {"InvoiceId,Value,Currency,Note\n", "I%d,12.15,EUR,\"a\nb\"\n", ""},
		"JSON lines":          {"", `{"InvoiceId":"I%d","Value":12.15,"Currency":"EUR"}` + "\n", ""},
		"a JSON list": {"[", `{"InvoiceId":"I%d","Value":12.15,"Currency":"EUR"},`,
			`{"InvoiceId":"I","Value":12.15,"Currency":"EUR"}]`},
	} {
		t.Run(name, func(t *testing.T) {
			from, to := io.Pipe()
			go func() {
				var chunk bytes.Buffer
				chunk.WriteString(text.head)
				for n := range rows {
					fmt.Fprintf(&chunk, text.row, n)
					if chunk.Len() > 1<<15 {
						_, _ = chunk.WriteTo(to)
					}
				}
				chunk.WriteString(text.tail)
				_, _ = chunk.WriteTo(to)
				to.Close()
			}()
			var before, now runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			r, count := NewReader(from, Options{}), 0
			for _, err := range r.All() {
				require.NoError(t, err)
				count++
			}
			runtime.GC()
			runtime.ReadMemStats(&now)
			assert.GreaterOrEqual(t, count, rows)
			assert.Less(t, int64(now.HeapAlloc)-int64(before.HeapAlloc), int64(1<<20))
			runtime.KeepAlive(r)
		})
	}
}

func TestLines(t *testing.T) {
	for name, want := range map[string][]int{
		"one a line":     {2, 3, 4, 5, 6},
		"all on one":     {1, 1, 1, 1},
		"now and then":   {2, 3, 7, 8, 8, 300, 301, 302, 70_000},
		"every second":   {2, 4, 6, 8, 9, 10},
		"a single one":   {9},
		"a far first":    {1 << 40, 1<<40 + 1},
		"one, then same": {1, 2, 2, 2, 3},
	} {
		t.Run(name, func(t *testing.T) {
			var l lines
			for _, line := range want {
				l.add(line)
			}
			for index, line := range want {
				assert.Equal(t, line, l.of(index), index)
			}
		})
	}
	var l lines
	for n := range 3_000_000 {
		l.add(2 + n)
	}
	l.flush()
	assert.Less(t, len(l.runs), 100)
}
