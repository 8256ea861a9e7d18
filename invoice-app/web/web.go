// Package web serves invoice-app's page: what the API does, in a browser, with or without
// JavaScript.
package web

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"html/template"
	"math/big"
	"mime"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"example.com/invoices/internal/money"
	"example.com/invoices/internal/server"
	"example.com/invoices/invoice-app/api"
	"example.com/invoices/invoice-app/invoice"
)

//go:embed templates static
var files embed.FS

var templates = template.Must(template.New("").Funcs(template.FuncMap{
	"asset": asset, "commas": commas, "amount": amount, "sum": sum,
}).ParseFS(files, "templates/*.html"))

const (
	rows     = 50 // invoices on a page
	maxPages = 16 // rendered at a time
	maxPays  = 32 // waiting pay buttons
	// countPatience is how long a page waits for figures, and payPatience how long it waits for the
	// end of paying. After that it shows the progress.
	countPatience = 150 * time.Millisecond
	payPatience   = time.Second
	// retryPart is how many rejected invoices one statement unparks, and retryPatience for how long
	// it goes on: after that the button must be pressed again.
	retryPart     = 1000
	retryPatience = 5 * time.Second
	// maxForm limits a form without its file.
	maxForm = 8 << 10
)

// policy lets the page load only its own files, and run no inline scripts.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

type web struct {
	store   invoice.Store
	payer   *invoice.Payer
	counter *counter
	pages   server.Slots

	payPatience time.Duration
}

// Register adds the page to s, at / for clients that accept HTML, and its files.
func Register(s *server.Server, store invoice.Store, payer *invoice.Payer) {
	(&web{
		store: store, payer: payer, pages: server.NewSlots(maxPages), payPatience: payPatience,
		counter: &counter{store: store, part: countPart, cheap: countCheap, patience: countPatience},
	}).register(s)
}

func (w *web) register(s *server.Server) {
	for _, path := range []string{"/pay", "/retry"} {
		s.AcceptBody(http.MethodPost, path, maxForm, "application/x-www-form-urlencoded")
	}
	s.AcceptBody(http.MethodPost, "/import", api.MaxUpload+maxForm, "multipart/form-data")

	s.Router.GET("/static/:name", static)
	routes := s.Router.Group("", secure)
	routes.GET("/", w.show)
	routes.GET("/summary", w.summary)
	routes.POST("/pay", server.AtMost(maxPays), w.pay)
	routes.POST("/retry", w.retry)
	routes.POST("/import", w.add)
}

// secure sets the headers of every page.
func secure(c *gin.Context) {
	c.Header("Content-Security-Policy", policy)
	c.Header("Cross-Origin-Opener-Policy", "same-origin")
	c.Header("Referrer-Policy", "same-origin")
	c.Header("X-Content-Type-Options", "nosniff")
	c.Header("Cache-Control", "no-store")
}

// view is what the page shows, as in its query.
type view struct {
	Show  string // the name of one of tabs
	After int64
	ID    string // of the invoice that was searched for, or ""
}

// tab is a list of invoices with one state.
type tab struct {
	Name, Title   string
	paid, rejects *bool
}

var (
	yes, no = true, false
	tabs    = []tab{
		{"all", "All", nil, nil},
		{"unpaid", "Unpaid", &no, &no},
		{"rejected", "Rejected", nil, &yes},
		{"paid", "Paid", &yes, nil},
	}
)

func (t tab) filter(after int64) invoice.Filter {
	// One more, to know whether there is a next page.
	return invoice.Filter{Paid: t.paid, Rejected: t.rejects, After: after, Limit: rows + 1}
}

// Count returns how many invoices of f are in the tab.
func (t tab) Count(f *figures) string {
	return commas(map[string]int64{"all": f.All, "unpaid": f.Unpaid, "rejected": f.Rejected, "paid": f.Paid}[t.Name])
}

// parseView parses a query. It ignores what it does not understand.
func parseView(query url.Values) view {
	v := view{Show: tabs[0].Name, ID: strings.TrimSpace(query.Get("id"))}
	for _, t := range tabs {
		if t.Name == query.Get("show") {
			v.Show = t.Name
		}
	}
	if after, err := strconv.ParseInt(query.Get("after"), 10, 64); err == nil && after > 0 {
		v.After = after
	}
	return v
}

func (v view) tab() tab {
	for _, t := range tabs {
		if t.Name == v.Show {
			return t
		}
	}
	return tabs[0]
}

// Query returns the query that parseView parses.
func (v view) Query() string {
	query := url.Values{}
	if v.Show != tabs[0].Name {
		query.Set("show", v.Show)
	}
	if v.After > 0 {
		query.Set("after", strconv.FormatInt(v.After, 10))
	}
	if v.ID != "" {
		query.Set("id", v.ID)
	}
	return query.Encode()
}

// Link returns the address of the view.
func (v view) Link() string { return (&url.URL{Path: "/", RawQuery: v.Query()}).String() }

// At returns the view of another tab, or from another position.
func (v view) At(show string, after int64) view { return view{Show: show, After: after} }

// Download returns the API's address for everything that is shown; File is the name to save it
// under.
func (v view) Download() string {
	if v.ID != "" {
		return "/invoices/" + url.PathEscape(v.ID)
	}
	query := url.Values{}
	for name, value := range map[string]*bool{"paid": v.tab().paid, "rejected": v.tab().rejects} {
		if value != nil {
			query.Set(name, strconv.FormatBool(*value))
		}
	}
	return (&url.URL{Path: "/invoices", RawQuery: query.Encode()}).String()
}

func (v view) File() string {
	if v.ID != "" {
		return "invoice.json"
	}
	return "invoices-" + v.Show + ".json"
}

// page is the data of the template.
type page struct {
	View     view
	Tabs     []tab
	Notice   string // of success
	Problem  string // of failure
	Wrong    *wrong // in an import
	Figures  *figures
	Counting bool // newer figures will be available soon
	Paying   bool
	Invoices []invoice.Invoice
	Listed   bool  // Invoices could be read
	Next     int64 // the Seq after which the next page begins, or 0
	status   int
}

// show returns the page: GET /. A client that does not accept HTML gets 404, as for any unknown
// path.
func (w *web) show(c *gin.Context) {
	c.Header("Vary", "Accept")
	if !acceptsHTML(c.Request) {
		server.Fail(c, server.NoSuchPath)
		return
	}
	query := c.Request.URL.Query()
	w.answer(c, page{View: parseView(query), Notice: notice(query)})
}

func acceptsHTML(r *http.Request) bool {
	for part := range strings.SplitSeq(strings.Join(r.Header.Values("Accept"), ","), ",") {
		media, parameters, err := mime.ParseMediaType(part)
		quality, qualified := parameters["q"]
		if err == nil && media == "text/html" && (!qualified || strings.Trim(quality, "0.") != "") {
			return true
		}
	}
	return false
}

// summary returns the part of the page that changes while invoices are paid: GET /summary.
func (w *web) summary(c *gin.Context) {
	p := page{View: parseView(c.Request.URL.Query()), Tabs: tabs, status: http.StatusOK}
	if err := w.pages.Take(c); err != nil {
		w.note(c, &p, err)
	} else {
		w.count(c, &p)
	}
	w.render(c, "summary", p)
}

// pay pays every unpaid invoice, like the API, and shows the page, or the progress if it takes
// longer than a moment. It continues if the browser leaves.
func (w *web) pay(c *gin.Context) {
	_, v := readForm(c)
	_, _ = w.counter.ask(c.Request.Context()) // the progress starts from what is settled now
	err := w.payer.PayWithin(context.WithoutCancel(c.Request.Context()), w.payPatience)
	var underway *invoice.UnderwayError
	var remaining *invoice.RemainingError
	switch {
	case err == nil:
		w.redirect(c, v, "paid", nil)
	case errors.As(err, &underway):
		w.redirect(c, v, "", nil)
	case errors.As(err, &remaining):
		failure := api.Remains(remaining)
		w.answer(c, page{View: v, Problem: failure.Text, status: failure.Status})
	default:
		w.fail(c, v, err)
	}
}

// retry unparks the rejected invoice with the form's ID, or all of them.
func (w *web) retry(c *gin.Context) {
	form, v := readForm(c)
	freed, more, err := w.free(c.Request.Context(), form.Get("id"))
	switch {
	case err != nil:
		w.fail(c, v, err)
	case more:
		w.redirect(c, v, "retried-some", map[string]int{"n": freed})
	default:
		w.redirect(c, v, "retried", map[string]int{"n": freed})
	}
}

func (w *web) free(ctx context.Context, id string) (freed int, more bool, err error) {
	if id != "" {
		return 1, false, w.store.Retry(ctx, id)
	}
	after := int64(0)
	for end := time.Now().Add(retryPatience); time.Now().Before(end); {
		n, last, err := w.store.RetryAll(ctx, after, retryPart)
		freed += n
		if err != nil || n < retryPart {
			return freed, false, err
		}
		after = last
	}
	return freed, true, nil
}

// readForm reads a small form, and the view of the page it was on. It ignores what it cannot
// parse.
func readForm(c *gin.Context) (url.Values, view) {
	body, _ := server.ReadBody(c)
	form, _ := url.ParseQuery(string(body))
	query, _ := url.ParseQuery(form.Get("view"))
	return form, parseView(query)
}

// redirect responds to a form: it leads to the page of v, with a notice.
func (w *web) redirect(c *gin.Context, v view, said string, numbers map[string]int) {
	w.counter.note()
	query, _ := url.ParseQuery(v.Query())
	if said != "" {
		query.Set("said", said)
	}
	for name, value := range numbers {
		query.Set(name, strconv.Itoa(value))
	}
	c.Redirect(http.StatusSeeOther, (&url.URL{Path: "/", RawQuery: query.Encode()}).String())
}

// notice returns the text of a notice. It takes only numbers from the query.
func notice(query url.Values) string {
	number := func(name string) string {
		n, err := strconv.ParseUint(query.Get(name), 10, 32)
		if err != nil {
			n = 0
		}
		return commas(int64(n))
	}
	invoices := number("n") + " invoices"
	if query.Get("n") == "1" {
		invoices = "1 invoice"
	}
	switch query.Get("said") {
	case "paid":
		return "Everything that was unpaid is paid now, or rejected."
	case "retried":
		return invoices + " to be tried again when you pay."
	case "retried-some":
		return invoices + " to be tried again when you pay. There are more rejected ones: press again."
	case "added":
		return invoices + " added. Already there: " + number("existing") + "."
	}
	return ""
}

// fail shows the page with an error.
func (w *web) fail(c *gin.Context, v view, err error) {
	p := page{View: v}
	w.note(c, &p, err)
	w.answer(c, p)
}

// note adds an error to p, unless p already has one.
func (w *web) note(c *gin.Context, p *page, err error) {
	failure := api.Explain(c, err)
	if p.Problem == "" {
		p.Problem, p.status = failure.Text, failure.Status
	}
}

// answer renders the page.
func (w *web) answer(c *gin.Context, p page) {
	p.Tabs = tabs
	p.status = max(p.status, http.StatusOK)
	if err := w.pages.Take(c); err != nil {
		w.note(c, &p, err)
	} else {
		w.list(c, &p)
		w.count(c, &p)
	}
	w.render(c, "page", p)
}

// list reads the invoices that p shows.
func (w *web) list(c *gin.Context, p *page) {
	ctx := c.Request.Context()
	var err error
	if p.View.ID == "" {
		p.Invoices, err = w.store.List(ctx, p.View.tab().filter(p.View.After))
		if len(p.Invoices) > rows {
			p.Invoices = p.Invoices[:rows]
			p.Next = p.Invoices[rows-1].Seq
		}
	} else {
		var found invoice.Invoice
		found, err = w.store.Get(ctx, p.View.ID)
		switch {
		case err == nil:
			p.Invoices = []invoice.Invoice{found}
		case errors.Is(err, invoice.ErrNotFound):
			err = nil
		}
	}
	if err != nil {
		w.note(c, p, err)
		return
	}
	p.Listed = true
}

// count adds the figures and the progress to p.
func (w *web) count(c *gin.Context, p *page) {
	var err error
	p.Figures, err = w.counter.ask(c.Request.Context())
	if err != nil {
		w.note(c, p, err)
	}
	paying, last := w.payer.Status()
	p.Paying = paying || p.Figures != nil && p.Figures.Moving && p.Figures.Unpaid > 0
	if paying {
		w.counter.note()
	}
	p.Counting = !p.Paying && w.counter.due()
	var remaining *invoice.RemainingError
	if !p.Paying && p.Problem == "" && p.Figures != nil && p.Figures.Unpaid > 0 && errors.As(last, &remaining) {
		p.Problem = "Paying ended early. " + api.Remains(remaining).Text
	}
}

func (w *web) render(c *gin.Context, name string, p page) {
	var html bytes.Buffer
	if err := templates.ExecuteTemplate(&html, name, p); err != nil {
		server.Fail(c, err)
		return
	}
	c.Data(p.status, "text/html; charset=utf-8", html.Bytes())
}

// static serves a file of the page: GET /static/{name}. Its address changes with its content, so a
// browser can cache it for good.
func static(c *gin.Context) {
	name := c.Param("name")
	content, err := files.ReadFile("static/" + name)
	if err != nil {
		server.Fail(c, server.NoSuchPath)
		return
	}
	c.Header("Cache-Control", "public, max-age=31536000, immutable")
	c.Header("X-Content-Type-Options", "nosniff")
	c.Data(http.StatusOK, mime.TypeByExtension(path.Ext(name)), content)
}

// asset returns the address of a file in static.
func asset(name string) (string, error) {
	content, err := files.ReadFile("static/" + name)
	if err != nil {
		return "", err
	}
	hash := sha256.Sum256(content)
	return "/static/" + name + "?" + hex.EncodeToString(hash[:6]), nil
}

func amount(a money.Amount) string { return text(big.NewInt(a.Minor), a.Currency) }

func sum(t total, currency string) string {
	if t.Minor == nil {
		return text(new(big.Int), currency)
	}
	return text(t.Minor, currency)
}

// text formats money. It needs to know the currency's minor unit: a number that is a hundred times
// too large is worse than none.
func text(minor *big.Int, currency string) string {
	written, err := money.Text(minor, currency)
	if err != nil {
		return fmt.Sprintf("%s minor units", minor)
	}
	return written
}
