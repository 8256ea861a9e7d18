package limits

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/internal/postgrestest"
	invoices "example.com/invoices/invoice-app/store"
	payments "example.com/invoices/payment-provider/store"
)

const mebibyte = 1 << 20

// An attack is what hostile clients do at the same time. Connections that it leaves open stay open
// until the next one.
type attack struct {
	name string
	run  func(t *testing.T, address string)
}

func TestInvoiceApp(t *testing.T) {
	server := postgrestest.Start(t)
	server.CreateDatabase("invoicing")
	url := server.URL(postgrestest.Superuser, "invoicing")
	require.NoError(t, invoices.Schema.Migrate(t.Context(), url, ""))
	p := start(t, "invoice-app", "DATABASE_URL="+url, "PAY_PATIENCE=1s",
		"PAYMENT_PROVIDER_URL=http://127.0.0.1:1") // where nothing listens
	const one = `{"InvoiceId":"one","Value":1,"Currency":"EUR"}`
	require.Equal(t, http.StatusCreated, post(t, p.address, "/invoices", one))

	p.withstand(t, "/invoices/one", append(everywhere("/invoices/one", "/invoices", one), []attack{
		{"lists of valid invoices", func(t *testing.T, address string) {
			var list strings.Builder
			separator := "["
			for n := 0; list.Len() < mebibyte-100; n++ {
				fmt.Fprintf(&list, `%s{"InvoiceId":"i%d","Value":1,"Currency":"EUR"}`, separator, n)
				separator = ","
			}
			posts(t, address, "/invoices", list.String()+"]")
		}},
		{"clients that do not read the list", func(t *testing.T, address string) {
			hold(t, address, 1000, "GET /invoices HTTP/1.1\r\nHost: localhost\r\n\r\n")
		}},
		{"clients that do not read their pages", func(t *testing.T, address string) {
			hold(t, address, 300, strings.Repeat("GET /invoices?limit=1000 HTTP/1.1\r\nHost: localhost\r\n\r\n", 50))
		}},
		{"pay-alls of clients that have gone", func(t *testing.T, address string) {
			hold(t, address, 500, "POST /invoices/pay HTTP/1.1\r\nHost: localhost\r\n\r\n")
		}},
	}...))
}

func TestPaymentProvider(t *testing.T) {
	server := postgrestest.Start(t)
	server.CreateDatabase("payments")
	url := server.URL(postgrestest.Superuser, "payments")
	require.NoError(t, payments.Schema.Migrate(t.Context(), url, ""))
	p := start(t, "payment-provider", "DATABASE_URL="+url)
	const one = `{"id":"one","value":1,"currency":"EUR"}`
	require.Equal(t, http.StatusOK, post(t, p.address, "/payments/pay", one))

	var longest strings.Builder
	separator := "["
	for n := range 500 {
		fmt.Fprintf(&longest, `%s{"id":"%s%d","value":1,"currency":"EUR"}`, separator, strings.Repeat(`\u0026`, 124), 1000+n)
		separator = ","
	}
	attacks := append(everywhere("/payments/one", "/payments/pay", one), bodies("/payments/batch", one, 512<<10)...)
	p.withstand(t, "/payments/one", append(attacks, attack{"the longest batches", func(t *testing.T, address string) {
		posts(t, address, "/payments/batch", longest.String()+"]")
	}}))
}

// everywhere are the attacks on any service: get is a path to read, and path one that accepts
// body.
func everywhere(get, path, body string) []attack {
	request := "GET " + get + " HTTP/1.1\r\nHost: localhost\r\n"
	upload := "POST " + path + " HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
	return append([]attack{
		{"connections without a request", func(t *testing.T, address string) {
			hold(t, address, 3000, "")
		}},
		{"headers of tiny fields, without an end", func(t *testing.T, address string) {
			var header strings.Builder
			for n := 0; header.Len() < 16<<10; n++ {
				fmt.Fprintf(&header, "%x:\n", n)
			}
			for end := 5000; end <= 9000; end += 1000 {
				hold(t, address, 400, request+header.String()[:end])
			}
		}},
		{"headers over the limit", func(t *testing.T, address string) {
			hold(t, address, 400, request+"A: "+strings.Repeat("a", 64<<10))
		}},
		{"requests one behind the other, and nothing read", func(t *testing.T, address string) {
			hold(t, address, 400, strings.Repeat(request+"\r\n", 400))
		}},
		{"scrapes that are not read", func(t *testing.T, address string) {
			hold(t, address, 400,
				strings.Repeat("GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: gzip\r\n\r\n", 50))
		}},
		{"many query parameters", func(t *testing.T, address string) {
			query := strings.Replace(request, " HTTP", "?"+strings.Repeat("a&", 1700)+" HTTP", 1)
			hold(t, address, 400, strings.Repeat(query+"\r\n", 10))
		}},
		{"small bodies that do not arrive", func(t *testing.T, address string) {
			hold(t, address, 1000, upload+"Content-Length: 100\r\n\r\n{")
		}},
		{"large bodies that do not arrive", func(t *testing.T, address string) {
			hold(t, address, 1000, upload+"Content-Length: 1000000\r\n\r\n["+strings.Repeat(" ", 100<<10))
		}},
		{"a body without an end", func(t *testing.T, address string) {
			hold(t, address, 50,
				upload+"Transfer-Encoding: chunked\r\n\r\n"+strings.Repeat("10000\r\n"+strings.Repeat(" ", 1<<16)+"\r\n", 80))
		}},
	}, bodies(path, body, mebibyte)...)
}

// bodies are attacks with request bodies for path, which accepts body, of up to size bytes.
func bodies(path, body string, size int) (attacks []attack) {
	list := func(element string) string {
		return "[" + strings.Repeat(element+",", size/(len(element)+1)-2) + element + "]"
	}
	for name, body := range map[string]string{
		"lists of nothing":      list("{}"),
		"lists of lists":        list("[]"),
		"lists of texts":        list(`""`),
		"lists of cut invoices": list(body[:len(body)-1]),
		"one deep value":        strings.Repeat("[", size),
		"a deep unknown field":  `{"x":` + strings.Repeat("[", size-10),
		"many unknown fields":   manyFields(size),
		"one long text":         `{"` + strings.Repeat("a", size-10) + `":1}`,
		"one long escape":       `{"a":"` + strings.Repeat(`\u0041`, size/6-10) + `"}`,
		"one long number":       `{"Value":` + strings.Repeat("9", size-10) + `}`,
		"nothing but blanks":    strings.Repeat(" ", size),
		"a short text":          body,
	} {
		attacks = append(attacks,
			attack{path + ": " + name, func(t *testing.T, address string) { posts(t, address, path, body) }})
	}
	return attacks
}

func manyFields(size int) string {
	var body strings.Builder
	body.WriteString(`{"":0`)
	for n := 0; body.Len() < size-20; n++ {
		fmt.Fprintf(&body, `,"%x":0`, n)
	}
	return body.String() + "}"
}

// withstand runs the attacks, and requests get at the same time.
func (p *process) withstand(t *testing.T, get string, attacks []attack) {
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			a.run(t, p.address)
			p.requireAlive(t)
			for _, path := range []string{"/livez", "/readyz", get} {
				assert.Eventually(t, func() bool {
					response, err := http.Get("http://" + p.address + path)
					if err != nil {
						return false
					}
					response.Body.Close()
					return response.StatusCode == http.StatusOK
				}, time.Minute, 50*time.Millisecond, path)
			}
			p.requireAlive(t)
		})
	}
}

// hold opens connections, sends text on each, and reads nothing until the test ends.
func hold(t *testing.T, address string, connections int, text string) {
	t.Helper()
	dialer := net.Dialer{Control: func(_, _ string, socket syscall.RawConn) error {
		return socket.Control(func(fd uintptr) { // so that the kernel accepts little from the server
			_ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4<<10)
		})
	}}
	var sending sync.WaitGroup
	for range connections {
		conn, err := dialer.Dial("tcp", address)
		require.NoError(t, err)
		t.Cleanup(func() { conn.Close() })
		sending.Go(func() {
			_ = conn.SetWriteDeadline(time.Now().Add(5 * time.Second))
			_, _ = io.WriteString(conn, text) // it may be refused, cut or not read
		})
	}
	sending.Wait()
}

// posts sends body from 32 clients, three times each, and waits for the responses.
func posts(t *testing.T, address, path, body string) {
	var clients sync.WaitGroup
	for range 32 {
		clients.Go(func() {
			for range 3 {
				assert.NotEqual(t, http.StatusInternalServerError, post(t, address, path, body))
			}
		})
	}
	clients.Wait()
}

// post returns the status of the response, or 0 if there is none.
func post(t *testing.T, address, path, body string) int {
	t.Helper()
	response, err := http.Post("http://"+address+path, "application/json", strings.NewReader(body))
	if err != nil { // the server may close before it has read all
		return 0
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, response.Body)
	return response.StatusCode
}
