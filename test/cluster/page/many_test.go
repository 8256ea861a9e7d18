package page

import (
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// many is the number of invoices on the larger page. With 1000000 the test logs
// the numbers in docs/benchmarks.md.
var many = flag.Int("invoices", 20_000, "number of invoices on the larger page")

// views are the pages that are compared.
var views = []string{"/", "/?show=unpaid", "/?show=paid", "/?show=rejected", "/?id=I2", "/summary"}

// load requests a page as a browser does.
func load(t *testing.T, address string) (body string, first, last time.Duration) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
	require.NoError(t, err)
	request.Header.Set("Accept", "text/html")
	start := time.Now()
	request = request.WithContext(httptrace.WithClientTrace(request.Context(), &httptrace.ClientTrace{
		GotFirstResponseByte: func() { first = time.Since(start) },
	}))
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, response.StatusCode, "%s", text)
	return string(text), first, time.Since(start)
}

// measure logs the response times and length of each view, and returns the lengths.
func measure(t *testing.T, url, what string) (length map[string]int) {
	t.Helper()
	// Wait until all invoices have been counted.
	require.Eventually(t, func() bool {
		body, _, _ := load(t, url+"/summary")
		return !strings.Contains(body, "data-live")
	}, 10*enough, pause)
	length = map[string]int{}
	for _, view := range views {
		var body string
		var first, last []time.Duration
		for range 31 {
			text, f, l := load(t, url+view)
			body, first, last = text, append(first, f), append(last, l)
		}
		slices.Sort(first)
		slices.Sort(last)
		length[view] = len(body)
		t.Logf("%s | %s | %d bytes | first byte %.1f ms | last byte %.1f ms, at most %.1f ms", what, view, len(body),
			milliseconds(first[len(first)/2]), milliseconds(last[len(last)/2]), milliseconds(last[len(last)-1]))
	}
	return length
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// Apart from a few more digits, a page for many invoices is as large as one for
// fifty, and takes the same number of requests.
func TestManyInvoices(t *testing.T) {
	const digits = 400 // additional bytes for longer ids and sums
	for engine := range engines {
		t.Run(engine, func(t *testing.T) {
			lengths := map[int]map[string]int{}
			for _, n := range []int{3, 60, *many} {
				database := engines[engine](t, "invoice-app")
				provider := start(t, "payment-provider", "DATABASE_URL="+engines[engine](t, "payment-provider"))
				var text strings.Builder
				text.WriteString("InvoiceId,Value,Currency\n")
				for i := range n {
					fmt.Fprintf(&text, "I%d,%d.50,%s\n", i, i%1000+1, []string{"EUR", "GBP", "JPY"}[i%2])
				}
				importing := exec.Command(filepath.Join(programs, "invoice-app"), "import", "-")
				importing.Dir, importing.Env, importing.Stdin = t.TempDir(),
					[]string{"DATABASE_URL=" + database}, strings.NewReader(text.String())
				out, err := importing.CombinedOutput()
				require.NoError(t, err, "%s", out)
				url := start(t, "invoice-app", "DATABASE_URL="+database, "PAYMENT_PROVIDER_URL="+provider, "PAY_ANSWER=10m")
				measure(t, url, fmt.Sprintf("%s, %d unpaid", engine, n))
				response, err := http.Post(url+"/invoices/pay", "", nil)
				require.NoError(t, err)
				response.Body.Close()
				require.Equal(t, http.StatusOK, response.StatusCode)
				lengths[n] = measure(t, url, fmt.Sprintf("%s, %d paid", engine, n))

				page, _, _ := load(t, url+"/")
				var loaded, bytes int
				for _, address := range regexp.MustCompile(`(?:src|href)="(/static/[^"]+)"`).FindAllStringSubmatch(page, -1) {
					body, _, _ := load(t, url+address[1])
					loaded++
					bytes += len(body)
				}
				assert.Equal(t, 3, loaded, "a style, a script, an icon")
				t.Logf("%d additional requests with a total of %d bytes when uncached", loaded, bytes)
			}
			for _, view := range views {
				assert.InDelta(t, lengths[60][view], lengths[*many][view], digits, view)
			}
		})
	}
}
