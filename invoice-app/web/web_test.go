package web

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/html"

	"example.com/invoices/internal/contracttest"
	"example.com/invoices/internal/database"
	"example.com/invoices/internal/identity"
	"example.com/invoices/internal/money"
	"example.com/invoices/internal/server"
	"example.com/invoices/invoice-app/api"
	"example.com/invoices/invoice-app/invoice"
	"example.com/invoices/invoice-app/store"
)

// provider responds to a payment as a test scripts it; nil takes every payment.
type provider func(context.Context, invoice.Invoice) error

func (p provider) Pay(ctx context.Context, invoices []invoice.Invoice) []error {
	answers := make([]error, len(invoices))
	for n, i := range invoices {
		if p != nil {
			answers[n] = p(ctx, i)
		}
	}
	return answers
}

var impatient = invoice.PayerConfig{
	Concurrency: 2, Batch: 10, Lease: time.Second, Timeout: 50 * time.Millisecond, Patience: 10 * time.Millisecond,
	Answer: time.Hour, RunTimeout: time.Hour,
}

// site is a service with the API and the page.
type site struct {
	t      *testing.T
	server *server.Server
}

// newSite returns a site whose pages wait for their figures. They wait for paying as long as cfg
// says.
func newSite(t *testing.T, s invoice.Store, p provider, cfg invoice.PayerConfig) site {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	payer := invoice.NewPayer(s, p, cfg, log)
	t.Cleanup(payer.Close)
	all := api.New(log, prometheus.NewRegistry(), nil, s, payer, time.Minute, nil)
	(&web{
		store: s, payer: payer, pages: server.NewSlots(maxPages), payPatience: cfg.Answer,
		counter: &counter{store: s, part: part, cheap: time.Hour, patience: time.Minute},
	}).register(all)
	return site{t, all}
}

// nobody accepts no caller.
type nobody struct{}

func (nobody) Verify(*http.Request) *identity.Refusal {
	return &identity.Refusal{Reason: identity.NoCertificate}
}
func (nobody) Ready() error { return nil }

func TestPagesRequireACaller(t *testing.T) {
	s := newStore(t)
	log := slog.New(slog.DiscardHandler)
	payer := invoice.NewPayer(s, provider(nil), impatient, log)
	all := api.New(log, prometheus.NewRegistry(), nil, s, payer, time.Minute, nobody{})
	Register(all, s, payer)
	open := []string{"/livez", "/readyz", "/metrics", "/version", "/openapi.yaml"}
	for _, route := range all.Routes() {
		if slices.Contains(open, route.Path) {
			continue
		}
		answer := httptest.NewRecorder()
		all.ServeHTTP(answer, httptest.NewRequest(route.Method, route.Path, nil))
		assert.Equal(t, http.StatusUnauthorized, answer.Code, "%s %s", route.Method, route.Path)
	}
}

func newStore(t *testing.T, invoices ...invoice.Invoice) store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "invoices.db"), 1)
	require.NoError(t, err)
	t.Cleanup(s.Close)
	if len(invoices) > 0 {
		_, err = s.Add(t.Context(), invoice.All(invoices))
		require.NoError(t, err)
	}
	return s
}

func of(id string, minor int64, currency string) invoice.Invoice {
	return invoice.Invoice{ID: id, Amount: money.Amount{Minor: minor, Currency: currency}}
}

// refuses rejects the payments of these ids.
func refuses(ids ...string) provider {
	return func(_ context.Context, i invoice.Invoice) error {
		for _, id := range ids {
			if i.ID == id {
				return &invoice.Rejection{Reason: "<b>was paid before</b>"}
			}
		}
		return nil
	}
}

const browsers = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"

func (s site) send(request *http.Request) *httptest.ResponseRecorder {
	if request.Header.Get("Accept") == "" {
		request.Header.Set("Accept", browsers)
	}
	answer := httptest.NewRecorder()
	s.server.ServeHTTP(answer, request)
	return answer
}

// get returns the page at target, which must exist.
func (s site) get(target string) document {
	s.t.Helper()
	answer := s.send(httptest.NewRequest(http.MethodGet, target, nil))
	require.Equal(s.t, http.StatusOK, answer.Code, answer.Body)
	return parse(s.t, answer)
}

func formRequest(action string, form url.Values) *http.Request {
	request := httptest.NewRequest(http.MethodPost, "http://localhost:8081"+action, strings.NewReader(form.Encode()))
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.Header.Set("Sec-Fetch-Site", "same-origin")
	return request
}

// submit sends a form of the page like a browser without scripts, and follows the redirect.
func (s site) submit(form node, more url.Values) document {
	s.t.Helper()
	require.Equal(s.t, "post", form.attribute("method"))
	values := url.Values{}
	for _, input := range form.all("input") {
		if input.attribute("type") == "hidden" {
			values.Set(input.attribute("name"), input.attribute("value"))
		}
	}
	for name, value := range more {
		values[name] = value
	}
	answer := s.send(formRequest(form.attribute("action"), values))
	require.Equal(s.t, http.StatusSeeOther, answer.Code, answer.Body)
	return s.get(answer.Header().Get("Location"))
}

func uploadRequest(t *testing.T, name, text string, fields ...string) *http.Request {
	t.Helper()
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	for _, field := range fields {
		require.NoError(t, form.WriteField(field, "yes"))
	}
	file, err := form.CreateFormFile("file", name)
	require.NoError(t, err)
	_, err = file.Write([]byte(text))
	require.NoError(t, err)
	require.NoError(t, form.Close())
	request := httptest.NewRequest(http.MethodPost, "/import", &body)
	request.Header.Set("Content-Type", form.FormDataContentType())
	return request
}

// document is a page as a browser reads it, and node a part of it.
type document struct{ node }

type node struct{ *html.Node }

func parse(t *testing.T, answer *httptest.ResponseRecorder) document {
	t.Helper()
	require.Equal(t, "text/html; charset=utf-8", answer.Header().Get("Content-Type"), answer.Body)
	root, err := html.Parse(answer.Body)
	require.NoError(t, err)
	return document{node{root}}
}

// all returns the elements of a kind, in order.
func (n node) all(element string) (found []node) {
	for d := range n.Descendants() {
		if d.Type == html.ElementNode && d.Data == element {
			found = append(found, node{d})
		}
	}
	return found
}

func (n node) attribute(name string) string {
	for _, a := range n.Attr {
		if a.Key == name {
			return a.Val
		}
	}
	return ""
}

// text returns the text of a node, with single blanks.
func (n node) text() string {
	var text strings.Builder
	for d := range n.Descendants() {
		if d.Type == html.TextNode {
			text.WriteString(d.Data + " ")
		}
	}
	return strings.Join(strings.Fields(text.String()), " ")
}

func (d document) id(id string) node {
	for n := range d.Descendants() {
		if n.Type == html.ElementNode && (node{n}).attribute("id") == id {
			return node{n}
		}
	}
	return node{&html.Node{}}
}

// rows returns the texts of the table rows in an element, without the header.
func (d document) rows(id string) (rows []string) {
	for _, body := range d.id(id).all("tbody") {
		for _, row := range body.all("tr") {
			rows = append(rows, row.text())
		}
	}
	return rows
}

// form returns the page's first form with this action and this button.
func (d document) form(t *testing.T, action, button string) node {
	t.Helper()
	for _, form := range d.all("form") {
		if form.attribute("action") == action && len(form.all("button")) == 1 && form.all("button")[0].text() == button {
			return form
		}
	}
	require.FailNow(t, "no such form", "%s %s", action, button)
	return node{}
}

// link returns the target of the link with this text.
func (d document) link(t *testing.T, text string) string {
	t.Helper()
	for _, a := range d.all("a") {
		if a.text() == text {
			return a.attribute("href")
		}
	}
	require.FailNow(t, "no such link", text)
	return ""
}

func TestPage(t *testing.T) {
	s := newSite(t, newStore(t, of("I1", 1215, "EUR"), of("<i>&\"", 500, "JPY"),
		of("I3", 1000, "EUR"), of("KWD-1", 1005, "KWD")),
		refuses("I3"), impatient)
	page := s.get("/")
	assert.Equal(t, []string{"I1 12.15 EUR unpaid", `<i>&" 500 JPY unpaid`,
		"I3 10.00 EUR unpaid", "KWD-1 1.005 KWD unpaid"}, page.rows("invoices"))
	assert.Equal(t, []string{"EUR 22.15 0.00 0.00", "JPY 500 0 0", "KWD 1.005 0.000 0.000"}, page.rows("summary"))
	assert.Empty(t, page.all("i"), "an id is text")
	assert.Equal(t, "/invoices", page.link(t, "Download all as JSON"))

	// Without JavaScript: a form, a redirect, a page.
	page = s.submit(page.form(t, "/pay", "Pay all unpaid"), nil)
	assert.Equal(t, "Everything that was unpaid is paid now, or rejected.", page.id("said").text())
	assert.Equal(t, []string{"I1 12.15 EUR paid", `<i>&" 500 JPY paid`,
		"I3 10.00 EUR rejected: <b>was paid before</b> Retry", "KWD-1 1.005 KWD paid"}, page.rows("invoices"))
	assert.Empty(t, page.all("b"), "a reason is text")
	page = s.get(page.link(t, "Rejected 1"))
	assert.Equal(t, []string{"I3 10.00 EUR rejected: <b>was paid before</b> Retry"}, page.rows("invoices"))
	assert.Equal(t, "/invoices?rejected=true", page.link(t, "Download all as JSON"))

	page = s.submit(page.form(t, "/retry", "Retry"), nil)
	assert.Equal(t, "1 invoice to be tried again when you pay.", page.id("said").text())
	assert.Contains(t, page.id("invoices").text(), "There are none.", "the page that had the form")
	page = s.get(page.link(t, "Unpaid 1"))
	assert.Equal(t, []string{"I3 10.00 EUR unpaid"}, page.rows("invoices"))
	assert.Equal(t, "/invoices?paid=false&rejected=false", page.link(t, "Download all as JSON"))
	page = s.submit(page.form(t, "/pay", "Pay all unpaid"), nil)
	page = s.submit(s.get(page.link(t, "Rejected 1")).form(t, "/retry", "Retry all rejected"), nil)
	assert.Equal(t, "1 invoice to be tried again when you pay.", page.id("said").text())
	assert.Len(t, s.get(page.link(t, "Paid 3")).rows("invoices"), 3)

	// Searching.
	page = s.get("/?" + url.Values{"id": {` <i>&" `}}.Encode())
	assert.Equal(t, []string{`<i>&" 500 JPY paid`}, page.rows("invoices"))
	assert.Equal(t, `Invoice <i>&"`, page.id("list").text())
	answer := s.send(httptest.NewRequest(http.MethodGet, page.link(t, "Download this as JSON"), nil))
	assert.Contains(t, answer.Body.String(), `"Value":500`)
	assert.Equal(t, "There is no invoice of this id.", s.get("/?id=none").id("invoices").text())

	for _, bad := range []string{"show=none", "after=-1", "after=x", "said=<b>", "said=paid2&n=9", "%zz"} {
		assert.Len(t, s.get("/?"+bad).rows("invoices"), 4, bad)
	}
	assert.Equal(t, "0 invoices to be tried again when you pay.", s.get("/?said=retried&n=<b>").id("said").text())
}

func TestPages(t *testing.T) {
	var list []invoice.Invoice
	for n := range 2*rows + 1 {
		list = append(list, of(fmt.Sprint("I", n), 100, "EUR"))
	}
	s := newSite(t, newStore(t, list...), nil, impatient)
	var seen []string
	page := s.get("/?show=unpaid")
	for ; ; page = s.get(page.link(t, "Next page")) {
		seen = append(seen, page.rows("invoices")...)
		if len(page.rows("invoices")) < rows {
			break
		}
	}
	require.Len(t, seen, 2*rows+1)
	for n, row := range seen {
		require.Equal(t, fmt.Sprintf("I%d 1.00 EUR unpaid", n), row)
	}
	assert.Equal(t, "/?show=unpaid", page.link(t, "First page"))
	assert.NotContains(t, page.text(), "Next page")
}

// A client of the API gets the same responses as if there were no page.
func TestOnlyHTMLClientsGetThePage(t *testing.T) {
	s := newSite(t, newStore(t), nil, impatient)
	for accept, want := range map[string]int{
		browsers: 200, "text/html": 200, "application/json, text/html;q=0.5": 200,
		"*/*": 404, "application/json": 404, "text/html;q=0": 404, "text/html;q=0.0": 404, "text/*": 404, ";": 404,
	} {
		request := httptest.NewRequest(http.MethodGet, "/", nil)
		request.Header.Set("Accept", accept)
		answer := s.send(request)
		assert.Equal(t, want, answer.Code, accept)
		assert.Equal(t, "Accept", answer.Header().Get("Vary"))
		if want == 404 {
			assert.Equal(t, `{"error":"no such path"}`, answer.Body.String())
		}
	}
	assert.Equal(t, "[]", s.send(httptest.NewRequest(http.MethodGet, "/invoices", nil)).Body.String(),
		"a browser, too, gets the API at its paths")
}

func TestPageLoadsOnlyItsOwnFiles(t *testing.T) {
	s := newSite(t, newStore(t, of("I1", 1215, "EUR")), nil, impatient)
	answer := s.send(httptest.NewRequest(http.MethodGet, "/", nil))
	for _, directive := range strings.Split(answer.Header().Get("Content-Security-Policy"), "; ") {
		name, source, _ := strings.Cut(directive, " ")
		want := "'self'"
		switch name {
		case "default-src", "base-uri", "frame-ancestors":
			want = "'none'"
		}
		assert.Equal(t, want, source, name)
	}
	assert.Contains(t, answer.Header().Get("Content-Security-Policy"),
		"default-src 'none'; script-src 'self'; style-src 'self';")
	assert.Equal(t, "nosniff", answer.Header().Get("X-Content-Type-Options"))
	page := parse(t, answer)
	for d := range page.Descendants() {
		for _, a := range d.Attr {
			assert.NotEqual(t, "style", a.Key, "the policy forbids it")
			assert.False(t, strings.HasPrefix(a.Key, "on"), "the policy forbids it: %s", a.Key)
		}
		if d.Data == "script" {
			assert.Nil(t, d.FirstChild, "the policy forbids it")
		}
	}
	var loaded int
	for _, element := range []string{"script", "link"} {
		for _, n := range page.all(element) {
			address := n.attribute("src") + n.attribute("href")
			file := s.send(httptest.NewRequest(http.MethodGet, address, nil))
			assert.Equal(t, 200, file.Code, address)
			assert.Contains(t, file.Header().Get("Cache-Control"), "immutable")
			assert.Regexp(t, `^(text/css|text/javascript|image/svg\+xml)`, file.Header().Get("Content-Type"))
			loaded++
		}
	}
	assert.Equal(t, 3, loaded)
	for _, none := range []string{"/static/", "/static/none", "/static/..%2ftemplates%2fpage.html", "/static/../web.go"} {
		assert.Equal(t, 404, s.send(httptest.NewRequest(http.MethodGet, none, nil)).Code, none)
	}
}

// A foreign page cannot press a button here.
func TestOtherOriginsChangeNothing(t *testing.T) {
	invoices := newStore(t, of("I1", 1215, "EUR"))
	s := newSite(t, invoices, nil, impatient)
	for _, header := range []http.Header{
		{"Sec-Fetch-Site": {"cross-site"}}, {"Sec-Fetch-Site": {"same-site"}},
		{"Origin": {"http://evil.example"}}, {"Origin": {"null"}},
	} {
		for _, request := range []*http.Request{
			formRequest("/pay", nil), formRequest("/retry", nil),
			uploadRequest(t, "a.csv", "InvoiceId,Value,Currency\nI2,1,EUR\n"),
		} {
			request.Header.Del("Sec-Fetch-Site")
			for name, value := range header {
				request.Header[name] = value
			}
			assert.Equal(t, 403, s.send(request).Code, "%s %v", request.URL, header)
		}
	}
	i, err := invoices.Get(t.Context(), "I1")
	require.NoError(t, err)
	assert.False(t, i.Paid)
	last, err := invoices.LastSeq(t.Context())
	require.NoError(t, err)
	assert.Equal(t, i.Seq, last)

	spoofed := httptest.NewRequest(http.MethodGet, "/", nil)
	spoofed.Host = "evil.example"
	spoofed.Header.Set("Accept-Language", "en")
	assert.Equal(t, 421, s.send(spoofed).Code)
}

func TestImport(t *testing.T) {
	invoices := newStore(t, of("I1", 1215, "EUR"))
	s := newSite(t, invoices, nil, impatient)
	answer := s.send(uploadRequest(t, "a.csv", "InvoiceId;Value;Currency\r\nI1;12,15;EUR\r\nI2;7,5;EUR\r\n", "comma"))
	require.Equal(t, http.StatusSeeOther, answer.Code, answer.Body)
	page := s.get(answer.Header().Get("Location"))
	assert.Equal(t, "1 invoice added. Already there: 1.", page.id("said").text())
	assert.Equal(t, []string{"I1 12.15 EUR unpaid", "I2 7.50 EUR unpaid"}, page.rows("invoices"))
	answer = s.send(uploadRequest(t, "a.jsonl", `{"InvoiceId":"I3","Value":1,"Currency":"EUR"}`+"\n"))
	assert.Equal(t, http.StatusSeeOther, answer.Code, answer.Body)

	// The invalid line is shown with its neighbours.
	long := strings.Repeat("x", 2*maxShown)
	many := strings.Builder{} // a thousand lines, which a store gets at a time, are more than what is kept
	for n := range 1500 {
		fmt.Fprintf(&many, "many-%d,1,EUR,%s\n", n, strings.Repeat("x", 1000))
	}
	header := "InvoiceId,Value,Currency\n"
	for name, want := range map[string]struct {
		text   string
		status int
		line   string
		shown  []string // the first is of number first
		first  string
	}{
		"a value": {
			header + "a,1,EUR\nb,2,EUR\n<b>,x,EUR\nd,1,EUR\ne,2,EUR\nf,3,EUR\n", 400, "4",
			[]string{"a,1,EUR", "b,2,EUR",
				"<b>,x,EUR Value \"x\" has a currency or other letters in it: write only the number, as in 1234.56",
				"d,1,EUR", "e,2,EUR"}, "2",
		},
		"the last": {header + "a,1,EUR\nb,2,EUX", 400, "3",
			[]string{"InvoiceId,Value,Currency", "a,1,EUR", `b,2,EUX currency "EUX" is not a current ISO 4217 code`}, "1"},
		"a conflict": {header + "a,1,EUR\rI1,2,EUR\r", 409, "3",
			[]string{"InvoiceId,Value,Currency", "a,1,EUR",
				`I1,2,EUR invoice "I1" exists with another amount or currency`}, "1"},
		"JSON lines": {`{"InvoiceId":"a","Value":1,"Currency":"EUR"}` + "\n{]\n", 400, "2", nil, "1"},
		"long ago": {"InvoiceId,Value,Currency,Note\nI1,2,EUR,\n" + many.String(), 409, "2",
			[]string{`invoice "I1" exists with another amount or currency`}, "2"},
		"behind many": {"InvoiceId,Value,Currency,Note\n" + many.String() + "x,y,EUR,\n", 400, "1502", nil, "1500"},
		"a long one":  {header + "a,y," + long + "\n", 400, "2", nil, "1"},
		"UTF-16":      {"\xff\xfea\x00,\x00b\x00\n\x00", 400, "1", nil, "1"},
	} {
		t.Run(name, func(t *testing.T) {
			answer := s.send(uploadRequest(t, "a.csv", want.text))
			assert.Equal(t, want.status, answer.Code)
			page := parse(t, answer)
			assert.Equal(t, "Nothing was imported: line "+want.line, page.id("wrong").text())
			assert.Contains(t, page.id("problem").text(), "line "+want.line+": ")
			assert.Equal(t, "Problem: Invoices", page.all("title")[0].text())
			var list []string
			var here int
			for _, item := range page.all("ol")[0].all("li") {
				list = append(list, item.text())
				assert.LessOrEqual(t, len(item.all("code")), 1)
				if item.attribute("class") == "here" {
					assert.Equal(t, want.line, item.attribute("value"))
					here++
				}
			}
			assert.Equal(t, 1, here)
			assert.Equal(t, want.first, page.all("ol")[0].all("li")[0].attribute("value"))
			if want.shown != nil {
				assert.Equal(t, want.shown, list)
			}
			assert.Less(t, len(strings.Join(list, "")), 1500)
			_, err := invoices.Get(t.Context(), "a")
			assert.ErrorIs(t, err, invoice.ErrNotFound, "all or none")
		})
	}
}

func TestFormWithoutFile(t *testing.T) {
	s := newSite(t, newStore(t), nil, impatient)
	for body, want := range map[string]string{
		"":        "the form cannot be read",
		"--x--":   "the form has no file",
		"--x\r\n": "the form has no file",
		"--x\r\nContent-Disposition: form-data; name=\"other\"\r\n\r\n\r\n--x--": "the form has no file",
		"--x\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\n\r\n--x--":  "choose a file first",
		"--x\r\nA: " + strings.Repeat("a", 1<<20) + "\r\n\r\n\r\n--x--":          "the form has no file",
	} {
		request := httptest.NewRequest(http.MethodPost, "/import", strings.NewReader(body))
		request.Header.Set("Content-Type", "multipart/form-data; boundary=x")
		if body == "" {
			request.Header.Del("Content-Type")
		}
		answer := s.send(request)
		assert.Equal(t, 400, answer.Code)
		assert.Equal(t, want, parse(t, answer).id("problem").text(), "%.80q", body)
	}
	answer := s.send(uploadRequest(t, "a.csv",
		"InvoiceId,Value,Currency\n"+strings.Repeat(strings.Repeat(" ", 32<<10)+"\n", 2100)))
	assert.Equal(t, 413, answer.Code)
	assert.Contains(t, parse(t, answer).id("problem").text(), "the body is over")
}

// failing is a store whose database is down.
type failing struct{ invoice.Store }

var errGone = fmt.Errorf("dial tcp 10.0.0.7: %w", database.ErrUnavailable)

func (failing) Add(_ context.Context, all iter.Seq2[invoice.Invoice, error]) (int, error) {
	for range all {
	}
	return 0, errGone
}
func (failing) Get(context.Context, string) (invoice.Invoice, error) {
	return invoice.Invoice{}, errGone
}
func (failing) List(context.Context, invoice.Filter) ([]invoice.Invoice, error) { return nil, errGone }
func (failing) Retry(context.Context, string) error                             { return errGone }
func (failing) RetryAll(context.Context, int64, int) (int, int64, error)        { return 0, 0, errGone }
func (failing) LastSeq(context.Context) (int64, error)                          { return 0, errGone }
func (failing) Sum(context.Context, invoice.Filter, int64) ([]invoice.Sum, int64, error) {
	return nil, 0, errGone
}

func TestErrorsAreShownOnThePage(t *testing.T) {
	s := newSite(t, failing{}, nil, impatient)
	for _, request := range []*http.Request{
		httptest.NewRequest(http.MethodGet, "/", nil), httptest.NewRequest(http.MethodGet, "/?id=a", nil),
		formRequest("/pay", nil), formRequest("/retry", nil), formRequest("/retry", url.Values{"id": {"a"}}),
		uploadRequest(t, "a.csv", "InvoiceId,Value,Currency\nI2,1,EUR\n"),
	} {
		answer := s.send(request)
		assert.Equal(t, 503, answer.Code, request.URL)
		assert.NotContains(t, answer.Body.String(), "10.0.0.7")
		page := parse(t, answer)
		assert.Contains(t, page.id("problem").text(), "database is unavailable", request.URL)
		page.form(t, "/pay", "Pay all unpaid") // it can be tried again
		assert.NotContains(t, page.text(), "There are none", "that is not known")
	}
	answer := s.send(httptest.NewRequest(http.MethodGet, "/summary", nil))
	assert.Equal(t, 503, answer.Code)

	invoices := newStore(t, of("I1", 1215, "EUR"))
	s = newSite(t, invoices, func(context.Context, invoice.Invoice) error {
		return errors.New("dial tcp 10.0.0.7: refused")
	}, impatient)
	answer = s.send(formRequest("/pay", nil))
	assert.Equal(t, 502, answer.Code)
	assert.Equal(t, "1 invoice remains unpaid: payment-provider gives no usable response; it is safe to try again",
		parse(t, answer).id("problem").text())
	assert.Contains(t, s.get("/").id("problem").text(),
		"Paying ended early. 1 invoice remains unpaid: ", "who looks later is told as well")
	answer = s.send(formRequest("/retry", url.Values{"id": {"none"}}))
	assert.Equal(t, 404, answer.Code)
	_, err := invoices.Claim(t.Context(), 0, 1<<62, 1, invoice.MaxLease)
	require.NoError(t, err)
}

// The button can be pressed twice, in two tabs, and the page left: unpaid invoices are paid once,
// and the page shows the progress.
func TestLongPaying(t *testing.T) {
	var list []invoice.Invoice
	for n := range 30 {
		list = append(list, of(fmt.Sprint("I", n), 100, "EUR"))
	}
	release := make(chan struct{})
	asked := make(chan string, 1000)
	cfg := impatient
	cfg.Timeout, cfg.Lease = invoice.MaxLease/2, invoice.MaxLease
	cfg.Patience, cfg.Answer = time.Hour, time.Millisecond
	s := newSite(t, newStore(t, list...), func(_ context.Context, i invoice.Invoice) error {
		asked <- i.ID
		<-release
		return nil
	}, cfg)
	for range 2 {
		gone, leave := context.WithCancel(t.Context())
		answer := httptest.NewRecorder()
		request := formRequest("/pay", url.Values{"view": {"show=unpaid"}}).WithContext(gone)
		request.Header.Set("Accept", browsers)
		leave()
		s.server.ServeHTTP(answer, request)
	}
	page := s.submit(s.get("/?show=unpaid").form(t, "/pay", "Pay all unpaid"), nil)
	assert.Equal(t, "Paying: 30 left", page.id("summary").all("label")[0].text())
	assert.Len(t, page.rows("invoices"), 30)
	refresh := page.all("noscript")
	require.Len(t, refresh, 1, "without JavaScript it is looked at again")
	assert.Contains(t, refresh[0].text(), "2; url=/?show=unpaid")
	part := parse(t, s.send(httptest.NewRequest(http.MethodGet, "/summary?show=unpaid", nil)))
	assert.Equal(t, "Paying: 30 left", part.all("label")[0].text())
	assert.Empty(t, part.all("form"))

	close(release)
	require.Eventually(t, func() bool { return len(s.get("/").all("progress")) == 0 }, time.Minute, 10*time.Millisecond)
	page = s.get("/?show=paid")
	assert.Len(t, page.rows("invoices"), 30)
	assert.Equal(t, []string{"EUR 0.00 0.00 30.00"}, page.rows("summary"))
	close(asked)
	once := map[string]int{}
	for id := range asked {
		once[id]++
	}
	for id, n := range once {
		assert.Equal(t, 1, n, id)
	}
	assert.Len(t, once, 30)
}

// frozen is a store whose database does not respond.
type frozen struct {
	failing
	contracttest.Frozen
}

func (f frozen) List(ctx context.Context, _ invoice.Filter) ([]invoice.Invoice, error) {
	return nil, f.Wait(ctx)
}
func (f frozen) Sum(ctx context.Context, _ invoice.Filter, _ int64) ([]invoice.Sum, int64, error) {
	return nil, 0, f.Wait(ctx)
}
func (f frozen) RetryAll(ctx context.Context, _ int64, _ int) (int, int64, error) {
	return 0, 0, f.Wait(ctx)
}

// A frozen database delays only a few pages, each for a limited time, and no other requests.
func TestPagesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := frozen{Frozen: contracttest.Frozen{Deaf: true, Thawed: make(chan struct{})}}
		site := newSite(t, s, nil, impatient)
		start := time.Now()
		for range maxPages {
			go func() {
				answer := site.send(httptest.NewRequest(http.MethodGet, "/", nil))
				assert.Equal(t, 503, answer.Code)
				assert.LessOrEqual(t, time.Since(start), server.AnswerTimeout)
			}()
		}
		synctest.Wait()
		answer := site.send(httptest.NewRequest(http.MethodGet, "/", nil))
		assert.Equal(t, 503, answer.Code)
		assert.Contains(t, parse(t, answer).id("problem").text(), "too many requests at once")
		assert.Equal(t, 200, site.send(httptest.NewRequest(http.MethodGet, "/livez", nil)).Code)
		time.Sleep(server.AnswerTimeout)
		close(s.Thawed)
		synctest.Wait()
	})
}
