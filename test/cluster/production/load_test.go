package production

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"example.com/invoices/audit/comparison"
	"example.com/invoices/internal/historytest"
)

const (
	rate = 30 // requests per second
	// patience is how long a client waits for the end of a response. A pay-all may take a minute: see docs/bounds.md.
	patience = 75 * time.Second
	// backlog is how many unpaid invoices stop the load from adding more, and inFlight how many requests without a
	// response stop it from sending more.
	backlog  = 1000
	inFlight = 256
	// importSize is how many invoices an import adds.
	importSize = 20
)

// load sends requests from outside through the entry, at a steady rate, and records what the responses show. Its
// clients never repeat a request.
type load struct {
	*historytest.Book
	*historytest.History
	prefix  string // of the invoices' IDs
	clients []*http.Client

	mu       sync.Mutex
	draw     *rand.Rand
	requests map[string]int
	slowest  map[string]time.Duration
	failures []failure
	settled  int                  // so many of the accepted invoices have been settled
	paid     map[string]time.Time // when a client first saw the invoice paid

	stop    context.CancelFunc
	traffic sync.WaitGroup
}

// failure is a request without the response that the API promises.
type failure struct {
	at     time.Time // when the request was sent
	took   time.Duration
	kind   string
	reason string
}

func (f failure) String() string {
	return fmt.Sprintf("%s after %s: %s: %s", f.at.Format(time.TimeOnly), f.took.Round(time.Millisecond), f.kind, f.reason)
}

// newLoad returns a load that has not begun. Equal seeds result in the same sequence of requests.
func newLoad(seed uint64) *load {
	l := &load{
		Book: historytest.NewBook(), History: historytest.NewHistory(),
		prefix: fmt.Sprintf("load-%d-", time.Now().UnixNano()), draw: rand.New(rand.NewPCG(seed, 1)),
		requests: map[string]int{}, slowest: map[string]time.Duration{}, paid: map[string]time.Time{},
	}
	for _, version := range []string{"HTTP/1.1", "HTTP/2"} {
		transport := &http.Transport{
			TLSClientConfig: caller.Clone(), MaxIdleConnsPerHost: inFlight, Protocols: new(http.Protocols),
			IdleConnTimeout: 10 * time.Second, // as docs/production.md asks of clients
		}
		transport.Protocols.SetHTTP1(version == "HTTP/1.1")
		transport.Protocols.SetHTTP2(version == "HTTP/2")
		l.clients = append(l.clients, &http.Client{
			Transport: transport, Timeout: patience,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		})
	}
	return l
}

// caller is the TLS configuration of a caller from outside.
var caller *tls.Config

// begin starts the load, which ends with the test unless end is called before.
func (l *load) begin(t *testing.T) {
	t.Helper()
	l.insist(context.Background(), l.newInvoices(1)) // so that there is one to read
	ctx, stop := context.WithCancel(context.Background())
	l.stop = stop
	kinds := map[string]struct {
		weight int
		send   func(context.Context)
	}{
		"get":     {40, l.get},
		"add":     {25, l.add},
		"list":    {15, l.listUnpaid},
		"pay all": {10, l.payAll},
		"page":    {8, l.page},
		"import":  {2, l.importFile},
	}
	var deck []func(context.Context)
	for _, name := range slices.Sorted(maps.Keys(kinds)) {
		deck = append(deck, slices.Repeat([]func(context.Context){kinds[name].send}, kinds[name].weight)...)
	}
	slots := make(chan struct{}, inFlight)
	l.traffic.Go(func() {
		ticker := time.NewTicker(time.Second / rate)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			send := deck[l.random(len(deck))]
			select {
			case slots <- struct{}{}:
				l.traffic.Go(func() {
					defer func() { <-slots }()
					send(ctx)
				})
			case <-ctx.Done():
				return
			}
		}
	})
	t.Cleanup(l.end)
}

// end stops sending, and waits for the responses.
func (l *load) end() {
	l.stop()
	l.traffic.Wait()
	for _, client := range l.clients {
		client.CloseIdleConnections()
	}
}

// random returns a random number below n.
func (l *load) random(n int) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.draw.IntN(n)
}

// mark returns the number of failures so far, for since.
func (l *load) mark() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.failures)
}

// since returns the failures after mark.
func (l *load) since(mark int) []failure {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.failures[mark:])
}

// report describes the requests of the load.
func (l *load) report() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var b strings.Builder
	total := 0
	for _, kind := range slices.Sorted(maps.Keys(l.requests)) {
		fmt.Fprintf(&b, "  %6d %-8s slowest %s\n", l.requests[kind], kind, l.slowest[kind].Round(time.Millisecond))
		total += l.requests[kind]
	}
	fmt.Fprintf(&b, "  %6d requests, of which %d failed; %d invoices", total, len(l.failures), len(l.Snapshot()))
	return b.String()
}

// exchange is a request and its response.
type exchange struct {
	kind, method, path string
	contentType, body  string
	status             int // 0: there was no complete response
	text               []byte
}

// send sends a request, and records a failure unless the response has one of the statuses in want. It does not end with
// ctx, since a load that ends waits for its responses.
func (l *load) send(ctx context.Context, e *exchange, want ...int) (ok bool) {
	began := time.Now()
	err := l.try(context.WithoutCancel(ctx), e)
	took := time.Since(began)
	if err == nil && !slices.Contains(want, e.status) {
		err = fmt.Errorf("%d %.300s", e.status, e.text)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.requests[e.kind]++
	l.slowest[e.kind] = max(l.slowest[e.kind], took)
	if err != nil {
		l.failures = append(l.failures, failure{began, took, e.kind, err.Error()})
	}
	return err == nil
}

func (l *load) try(ctx context.Context, e *exchange) error {
	connections := 0
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { connections++ },
	})
	request, err := http.NewRequestWithContext(ctx, e.method, cluster.InvoiceApp+e.path, strings.NewReader(e.body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", e.contentType)
	if e.kind == "page" {
		request.Header.Set("Accept", "text/html")
	}
	response, err := l.clients[l.random(len(l.clients))].Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	e.text, err = io.ReadAll(response.Body)
	switch {
	case err != nil:
		return fmt.Errorf("%d, but the body ends early: %w", response.StatusCode, err)
	case connections > 1:
		return errors.New("the client had to repeat it on another connection")
	}
	e.status = response.StatusCode
	return nil
}

// newInvoices returns n random invoices that are not sent yet.
func (l *load) newInvoices(n int) []historytest.Sent {
	l.mu.Lock()
	defer l.mu.Unlock()
	var list []historytest.Sent
	for range n {
		id := fmt.Sprintf("%s%d", l.prefix, l.draw.Uint64())
		list = append(list, historytest.Sent{ID: id, Amount: historytest.NewAmount(l.draw)})
	}
	l.Send(list)
	return list
}

// insist adds invoices with a request, which it repeats until the invoices are accepted: whether a request without a
// response has added them can only be known by repeating it. Each attempt without success is a failure.
func (l *load) insist(ctx context.Context, list []historytest.Sent) {
	l.mu.Lock()
	body := historytest.Encode(list, l.draw)
	l.mu.Unlock()
	l.insistOn(ctx, list, exchange{kind: "add", contentType: "application/json", body: body})
}

func (l *load) insistOn(ctx context.Context, list []historytest.Sent, e exchange) {
	e.method, e.path = http.MethodPost, "/invoices"
	began := l.Now()
	for deadline := time.Now().Add(heals); !l.send(ctx, &e, http.StatusCreated, http.StatusOK); {
		if time.Now().After(deadline) {
			l.Violate(historytest.ClearAnswers, "invoices cannot be added for %s: %d %.300s", heals, e.status, e.text)
			return
		}
		time.Sleep(500 * time.Millisecond)
	}
	for _, i := range list {
		l.Did(i.ID, historytest.Add, began, nil)
	}
	l.Accept(list)
}

// add adds a few invoices, unless too many are unpaid.
func (l *load) add(ctx context.Context) {
	if !l.busy() {
		l.insist(ctx, l.newInvoices(1+l.random(3)))
	}
}

// importFile imports a CSV file.
func (l *load) importFile(ctx context.Context) {
	if l.busy() {
		return
	}
	list := l.newInvoices(importSize)
	var text strings.Builder
	text.WriteString("InvoiceId,Value,Currency\n")
	for _, i := range list {
		fmt.Fprintf(&text, "%s,%s,%s\n", i.ID, i.Amount.Number, i.Amount.Currency)
	}
	l.insistOn(ctx, list, exchange{kind: "import", contentType: "text/csv", body: text.String()})
}

// busy reports whether so many invoices are unpaid that no more should be added.
func (l *load) busy() bool {
	accepted := len(l.Snapshot())
	l.mu.Lock()
	defer l.mu.Unlock()
	return accepted-len(l.paid) > backlog && accepted-l.settled > backlog
}

// get reads an invoice, mostly one of the latest.
func (l *load) get(ctx context.Context) {
	l.read(ctx, l.Latest(l.random(1+l.random(200))).ID)
}

func (l *load) read(ctx context.Context, id string) (shown historytest.Shown, found bool) {
	began := l.Now()
	e := exchange{kind: "get", method: http.MethodGet, path: "/invoices/" + url.PathEscape(id)}
	switch {
	case !l.send(ctx, &e, http.StatusOK, http.StatusNotFound):
	case e.status == http.StatusNotFound:
		l.Did(id, historytest.Read, began, historytest.Account{})
	case json.Unmarshal(e.text, &shown) != nil || shown.InvoiceId != id:
		l.Violate(historytest.ClearAnswers, "%q is shown as %s", id, e.text)
	default:
		l.saw(began, shown)
		found = true
	}
	return shown, found
}

// saw records what a client that asked at began sees of an invoice.
func (l *load) saw(began int64, i historytest.Shown) {
	l.Did(i.InvoiceId, historytest.Read, began, i.Sees())
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, known := l.paid[i.InvoiceId]; i.IsPaid && !known {
		l.paid[i.InvoiceId] = time.Now()
	}
}

// listUnpaid reads a page of unpaid invoices.
func (l *load) listUnpaid(ctx context.Context) {
	began := l.Now()
	e := exchange{kind: "list", method: http.MethodGet, path: "/invoices?paid=false&limit=30"}
	if !l.send(ctx, &e, http.StatusOK) {
		return
	}
	list, err := historytest.DecodeList(e.text)
	if err != nil {
		l.Violate(historytest.ClearAnswers, "%v", err)
	}
	for id, i := range list {
		if strings.HasPrefix(id, l.prefix) {
			l.saw(began, i)
		}
	}
}

// page reads the HTML page.
func (l *load) page(ctx context.Context) {
	l.send(ctx, &exchange{kind: "page", method: http.MethodGet, path: "/"}, http.StatusOK)
}

// payAll calls pay-all. After a 200, it records that the invoices of its snapshot are settled, and reads one of them.
func (l *load) payAll(ctx context.Context) {
	began, snapshot := l.Now(), l.Snapshot()
	e := exchange{kind: "pay all", method: http.MethodPost, path: "/invoices/pay"}
	if !l.send(ctx, &e, http.StatusOK, http.StatusAccepted) || e.status != http.StatusOK {
		return
	}
	l.mu.Lock()
	unsettled := snapshot[min(l.settled, len(snapshot)):]
	l.settled = max(l.settled, len(snapshot))
	l.mu.Unlock()
	for _, i := range unsettled {
		l.Did(i.ID, historytest.Settled, began, nil)
	}
	if len(unsettled) == 0 {
		return
	}
	i := unsettled[l.random(len(unsettled))]
	if shown, found := l.read(ctx, i.ID); found && !shown.Settled() {
		l.Violate(historytest.Honest200, "%q was not settled", i.ID)
	}
}

// finish ends the load, pays what is unpaid within bound, and checks everything that was recorded and stored. It
// returns the violations.
func (l *load) finish(t *testing.T, bound time.Duration) []historytest.Violation {
	t.Helper()
	l.end()
	ctx := context.Background()
	e := exchange{kind: "pay all", method: http.MethodPost, path: "/invoices/pay"}
	for deadline := time.Now().Add(bound); !l.send(ctx, &e, http.StatusOK); time.Sleep(time.Second) {
		if time.Now().After(deadline) {
			l.Violate(historytest.NeverStuck, "pay-all answers after %s: %d %.300s", bound, e.status, e.text)
			break
		}
	}
	full := exchange{kind: "list all", method: http.MethodGet, path: "/invoices"}
	require.True(t, l.send(ctx, &full, http.StatusOK), "%d %.300s", full.status, full.text)
	list, err := historytest.DecodeList(full.text)
	require.NoError(t, err)
	invoicing, paying := databaseURL(t, teamOf("invoice-app")), databaseURL(t, teamOf("payment-provider"))
	l.checkRows(t, list, invoicing, paying)
	compared, err := comparison.Compare(ctx, invoicing, paying)
	require.NoError(t, err)
	if !compared.Equal() || compared.NotMarked > 0 {
		l.Violate(historytest.SumsAgree, "%+v", compared)
	}
	return append(l.Violations(), l.History.Check(pictures, time.Minute)...)
}
