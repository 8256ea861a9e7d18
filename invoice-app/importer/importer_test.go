package importer

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

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

func write(t *testing.T, text string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

var two = []invoice.Invoice{
	{Seq: 1, ID: "A1", Amount: money.Amount{Minor: 13107201, Currency: "EUR"}},
	{Seq: 2, ID: "A, 2", Amount: money.Amount{Minor: 500, Currency: "JPY"}},
}

func TestImport(t *testing.T) {
	for name, text := range map[string]string{
		"CSV":                         "InvoiceId,Value,Currency\nA1,131072.01,EUR\n\"A, 2\",5e2,JPY\n",
		"CSV from a spreadsheet":      "\uFEFFcurrency,note,INVOICEID,value,IsPaid\r\nEUR,\"two\nlines\",A1,131072.010,false\r\nJPY,,\"A, 2\",500,\r\n",
		"JSON lines":                  "{\"InvoiceId\":\"A1\",\"Value\":131072.01,\"Currency\":\"EUR\"}\n\n{\"InvoiceId\":\"A, 2\",\"Value\":500,\"Currency\":\"JPY\",\"x\":1}",
		"JSON lines as the list says": "{\"InvoiceId\":\"A1\",\"Value\":131072.01,\"Currency\":\"EUR\",\"IsPaid\":false}\n{\"InvoiceId\":\"A, 2\",\"Value\":500,\"Currency\":\"JPY\",\"IsPaid\":false}\n",
	} {
		t.Run(name, func(t *testing.T) {
			s, path := openStore(t), write(t, text)
			added, total, err := Import(t.Context(), s, path)
			require.NoError(t, err)
			assert.Equal(t, []int{2, 2}, []int{added, total})
			kept, err := s.List(t.Context(), invoice.Filter{Limit: 10})
			require.NoError(t, err)
			assert.Equal(t, two, kept)

			added, total, err = Import(t.Context(), s, path)
			require.NoError(t, err, "again")
			assert.Equal(t, []int{0, 2}, []int{added, total})
		})
	}
}

func TestEveryErrorHasItsLineAndNothingIsImported(t *testing.T) {
	for name, test := range map[string]struct {
		text string
		line int
		says string
	}{
		"an empty file":            {"", 1, "empty"},
		"no header":                {"A1,1,EUR\n", 1, "no column InvoiceId"},
		"a missing column":         {"InvoiceId,Value\nA1,1\n", 1, "no column Currency"},
		"a short row":              {"InvoiceId,Value,Currency\nA1,1,EUR\nA2,1\n", 3, "wrong number of fields"},
		"a row after a long cell":  {"InvoiceId,Value,Currency\n\"A\nB\",1,EUR\n", 2, "control character"},
		"a bad amount":             {"InvoiceId,Value,Currency\n\"A1\",1,EUR\nA2,12.155,EUR\n", 3, "more decimals"},
		"an unknown currency":      {"InvoiceId,Value,Currency\nA1,1,XXX\n", 2, "ISO 4217"},
		"a stray quote":            {"InvoiceId,Value,Currency\nA1,1,EUR\nA\"2,1,EUR\n", 3, `"`},
		"paid already":             {"InvoiceId,Value,Currency,IsPaid\nA1,1,EUR,TRUE\n", 2, "IsPaid"},
		"paid, in German":          {"InvoiceId,Value,Currency,IsPaid\nA1,1,EUR,WAHR\n", 2, "IsPaid"},
		"other data, same id":      {"InvoiceId,Value,Currency\nA1,1,EUR\n\nA1,2,EUR\n", 4, "another amount"},
		"a JSON line with garbage": {"{\"InvoiceId\":\"A1\",\"Value\":1,\"Currency\":\"EUR\"}\n\nhello\n", 3, "not JSON"},
		"a JSON line with a list":  {"{\"InvoiceId\":\"A1\",\"Value\":1,\"Currency\":\"EUR\"}\n[]\n", 2, "one JSON object"},
		"a JSON line with a twin":  {"{\"InvoiceId\":\"A1\",\"Value\":1,\"value\":2,\"Currency\":\"EUR\"}\n", 1, "twice"},
		"a JSON line paid already": {"{\"InvoiceId\":\"A1\",\"Value\":1,\"Currency\":\"EUR\",\"IsPaid\":true}\n", 1, "IsPaid"},
		"a very long line":         {"{\"InvoiceId\":\"A1\",\"Value\":1,\"Currency\":\"EUR\"}\n{" + strings.Repeat(" ", 2<<20), 2, "too long"},
	} {
		t.Run(name, func(t *testing.T) {
			s, path := openStore(t), write(t, test.text)
			_, _, err := Import(t.Context(), s, path)
			require.ErrorContains(t, err, fmt.Sprintf("%s:%d: ", path, test.line))
			assert.ErrorContains(t, err, test.says)
			last, err := s.LastSeq(t.Context())
			require.NoError(t, err)
			assert.Zero(t, last)
		})
	}
}

func TestAConflictWithWhatIsThereHasItsLine(t *testing.T) {
	s := openStore(t)
	_, _, err := Import(t.Context(), s, write(t, "InvoiceId,Value,Currency\nA1,1,EUR\n"))
	require.NoError(t, err)
	path := write(t, "InvoiceId,Value,Currency\nA0,1,EUR\nA1,2,EUR\n")
	_, _, err = Import(t.Context(), s, path)
	require.ErrorContains(t, err, path+":3: ")
	_, err = s.Get(t.Context(), "A0")
	assert.ErrorIs(t, err, invoice.ErrNotFound)
}

func TestStandardInput(t *testing.T) {
	file, err := os.Open(write(t, "InvoiceId,Value,Currency\nA1,1,EUR\n"))
	require.NoError(t, err)
	defer file.Close()
	old := os.Stdin
	os.Stdin = file
	defer func() { os.Stdin = old }()
	added, _, err := Import(t.Context(), openStore(t), "-")
	require.NoError(t, err)
	assert.Equal(t, 1, added)
}
