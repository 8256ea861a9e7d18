package limits

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/internal/postgrestest"
	"example.com/invoices/internal/server"
	invoices "example.com/invoices/invoice-app/store"
	payments "example.com/invoices/payment-provider/store"
)

// callers are far more than a replica accepts at a time.
const callers = 1000

// Each caller gets a complete response: the result, or when to try again.
func TestManyCallersAtOnce(t *testing.T) {
	app, provider := startBoth(t)
	const csv, json = "text/csv", "application/json"
	for _, call := range []struct {
		of                              *process
		method, path, contentType, body string
	}{
		{app, http.MethodPost, "/invoices", json, `{"InvoiceId":"a%d","Value":1,"Currency":"EUR"}`},
		{app, http.MethodPost, "/invoices", csv, "InvoiceId,Value,Currency\na%d,1,EUR\n"},
		{app, http.MethodPost, "/invoices", csv, "InvoiceId,Value,Currency\na%d,1,EUR\n" + strings.Repeat("\n", 20<<10)},
		{app, http.MethodGet, "/invoices", "", ""},
		{app, http.MethodGet, "/invoices?limit=100", "", ""},
		{app, http.MethodGet, "/invoices/a%d", "", ""},
		{app, http.MethodPost, "/invoices/pay", "", ""},
		{app, http.MethodPost, "/invoices/a%d/retry", "", ""},
		{app, http.MethodGet, "/livez", "", ""},
		{app, http.MethodGet, "/readyz", "", ""},
		{app, http.MethodGet, "/metrics", "", ""},
		{app, http.MethodGet, "/version", "", ""},
		{app, http.MethodGet, "/openapi.yaml", "", ""},
		{provider, http.MethodPost, "/payments/pay", json, `{"id":"p%d","value":1,"currency":"EUR"}`},
		{provider, http.MethodPost, "/payments/batch", json, `[{"id":"q%d","value":1,"currency":"EUR"}]`},
		{provider, http.MethodGet, "/payments/p%d", "", ""},
		{provider, http.MethodGet, "/livez", "", ""},
		{provider, http.MethodGet, "/readyz", "", ""},
	} {
		t.Run(fmt.Sprintf("%s %s %s", call.method, call.path, call.contentType), func(t *testing.T) {
			answers := make([]string, callers)
			var calls sync.WaitGroup
			began := time.Now()
			for n := range answers {
				calls.Go(func() {
					number := func(text string) string { return strings.Replace(text, "%d", fmt.Sprint(n), 1) }
					answers[n] = answer(call.method, "http://"+call.of.address+number(call.path), call.contentType, number(call.body))
				})
			}
			calls.Wait()
			count := map[string]int{}
			for _, a := range answers {
				count[a]++
			}
			t.Logf("%v in %s", count, time.Since(began).Round(time.Millisecond))
			for a := range count {
				assert.Contains(t,
					[]string{"200 OK", "201 Created", "202 Accepted", "404 Not Found", "409 Conflict", refused, late}, a)
			}
			call.of.requireAlive(t)
		})
	}
}

// startBoth runs both services, with a database each.
func startBoth(t *testing.T) (app, provider *process) {
	t.Helper()
	server := postgrestest.Start(t)
	server.CreateDatabase("invoicing")
	server.CreateDatabase("payments")
	invoicing, paying := server.URL(postgrestest.Superuser, "invoicing"), server.URL(postgrestest.Superuser, "payments")
	require.NoError(t, invoices.Schema.Migrate(t.Context(), invoicing, ""))
	require.NoError(t, payments.Schema.Migrate(t.Context(), paying, ""))
	provider = start(t, "payment-provider", "DATABASE_URL="+paying)
	return start(t, "invoice-app", "DATABASE_URL="+invoicing, "PAYMENT_PROVIDER_URL=http://"+provider.address), provider
}

// Clients that reconnect whenever their connection is closed keep nobody out.
func TestReconnectingClients(t *testing.T) {
	app, _ := startBoth(t)
	for name, text := range map[string]string{
		"without a request":  "",
		"with half a header": "GET /invoices HTTP/1.1\r\nHost: localhost\r\n",
		"with half a body": "POST /invoices HTTP/1.1\r\nHost: localhost\r\n" +
			"Content-Type: application/json\r\nContent-Length: 9\r\n\r\n{",
		"with a request a time": "GET /invoices HTTP/1.1\r\nHost: localhost\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			ctx, leave := context.WithCancel(t.Context())
			var clients sync.WaitGroup
			for range callers {
				clients.Go(func() {
					for ctx.Err() == nil {
						conn, err := new(net.Dialer).DialContext(ctx, "tcp", app.address)
						if err != nil {
							continue
						}
						stop := context.AfterFunc(ctx, func() { conn.Close() })
						_, _ = io.WriteString(conn, text)
						_, _ = io.Copy(io.Discard, conn)
						stop()
						conn.Close()
					}
				})
			}
			defer clients.Wait()
			defer leave()
			for range 5 {
				for _, path := range []string{"/livez", "/readyz", "/invoices?limit=1"} {
					assert.Contains(t, []string{"200 OK", refused}, answer(http.MethodGet, "http://"+app.address+path, "", ""), path)
				}
			}
			app.requireAlive(t)
		})
	}
}

const (
	refused = "503 Service Unavailable, with Retry-After"
	// late is what a client gets that does not send its request soon, while others
	// wait: on a busy machine some of this test's own are such.
	late = "closed before the request was sent"
)

// answer sends a request on its own connection, and returns the status of a complete response, or
// what is wrong with it.
func answer(method, url, contentType, body string) string {
	request, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		return err.Error()
	}
	request.Header.Set("Content-Type", contentType)
	var connected, took atomic.Int64 // Unix time, and the time to send the request after that; in nanoseconds, 0: never
	request = request.WithContext(httptrace.WithClientTrace(request.Context(), &httptrace.ClientTrace{
		ConnectDone:  func(string, string, error) { connected.Store(time.Now().UnixNano()) },
		WroteRequest: func(httptrace.WroteRequestInfo) { took.Store(time.Now().UnixNano() - connected.Load()) },
	}))
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 2 * time.Minute}
	response, err := client.Do(request)
	switch {
	case err != nil && (took.Load() == 0 || took.Load() > int64(server.CrowdedPatience)):
		return late
	case err != nil:
		return "no answer"
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return "half an answer"
	}
	if response.Header.Get("Retry-After") != "" {
		return response.Status + ", with Retry-After"
	}
	return response.Status
}
