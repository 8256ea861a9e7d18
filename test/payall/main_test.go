package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// liar starts an invoice-app with two invoices that reports success for a pay-all, and then responds with after as the
// list.
func liar(t *testing.T, after string) app {
	t.Helper()
	paid := false
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.Method + r.URL.Path {
		case "GET/invoices":
			if paid {
				_, _ = io.WriteString(w, after)
			} else {
				_, _ = io.WriteString(w, `[{"InvoiceId":"A","Value":131072.01,"Currency":"EUR","IsPaid":false},`+
					`{"InvoiceId":"B","Value":2,"Currency":"JPY","IsPaid":true}]`)
			}
		case "POST/invoices/pay":
			paid = true
			_, _ = io.WriteString(w, "{}")
		}
	}))
	t.Cleanup(server.Close)
	return app{server.URL}
}

func TestEveryViolationIsFound(t *testing.T) {
	const a, b = `{"InvoiceId":"A","Value":131072.01,"Currency":"EUR","IsPaid":true}`,
		`{"InvoiceId":"B","Value":2,"Currency":"JPY","IsPaid":true}`
	for name, test := range map[string]struct{ after, says string }{
		"still unpaid": {`[{"InvoiceId":"A","Value":131072.01,"Currency":"EUR","IsPaid":false},` + b + `]`, "is unpaid"},
		"missing":      {`[` + a + `]`, "missing"},
		"a digit changed": {`[{"InvoiceId":"A","Value":131072.02,"Currency":"EUR","IsPaid":true},` + b + `]`,
			"was 131072.01 EUR and is 131072.02 EUR"},
		"currency changed": {`[{"InvoiceId":"A","Value":131072.01,"Currency":"GBP","IsPaid":true},` + b + `]`,
			"is 131072.01 GBP"},
		"unpaid again": {`[` + a + `,{"InvoiceId":"B","Value":2,"Currency":"JPY","IsPaid":false}]`, "no longer"},
		"twice":        {`[` + a + `,` + a + `,` + b + `]`, "twice"},
		"rejected, all": {`[{"InvoiceId":"A","Value":131072.01,"Currency":"EUR","IsPaid":false,"Rejected":"no"},` + b + `]`,
			"no invoice was paid"},
		"no list":        {`<html>`, "did not return a list"},
		"nothing listed": {`[]`, "missing"},
		"empty":          {``, "did not return a list"},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			assert.ErrorContains(t, run(t.Context(), liar(t, test.after), time.Second, &out), test.says)
			assert.Empty(t, out.String())
		})
	}
	var out bytes.Buffer
	require.NoError(t, run(t.Context(), liar(t, `[`+a+`,`+b+`]`), time.Second, &out))
	var paid []invoice
	require.NoError(t, json.Unmarshal(out.Bytes(), &paid))
	assert.Len(t, paid, 2)
}

func TestLongPayAllIsWaitedFor(t *testing.T) {
	answers := []int{http.StatusAccepted, http.StatusAccepted, http.StatusOK}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(answers[0])
		if answers = answers[1:]; len(answers) == 0 {
			_, _ = io.WriteString(w, "{}")
		}
	}))
	t.Cleanup(server.Close)
	require.NoError(t, app{server.URL}.payAll(t.Context()))
	assert.Empty(t, answers)
}

func TestNothingListens(t *testing.T) {
	err := run(t.Context(), app{"http://127.0.0.1:1"}, 100*time.Millisecond, io.Discard)
	assert.ErrorContains(t, err, "INVOICE_APP_URL")
}
