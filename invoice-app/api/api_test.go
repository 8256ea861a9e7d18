package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/internal/contracttest"
	"example.com/invoices/internal/database"
	"example.com/invoices/internal/identity"
	"example.com/invoices/internal/money"
	"example.com/invoices/internal/server"
	"example.com/invoices/invoice-app/invoice"
	"example.com/invoices/invoice-app/store"
	"example.com/invoices/invoice-app/wire"
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

func newContract(t *testing.T, s invoice.Store, p provider) *contracttest.Contract {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	ready := func(ctx context.Context) error { _, err := s.LastSeq(ctx); return err }
	return contracttest.New(t, New(log, prometheus.NewRegistry(), ready, s,
		invoice.NewPayer(s, p, impatient, log), time.Minute, nil))
}

func newStore(t *testing.T) store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "invoices.db"), 1)
	require.NoError(t, err)
	t.Cleanup(s.Close)
	return s
}

// gone is a database that cannot be reached.
type gone struct{ invoice.Store }

var errGone = fmt.Errorf("dial tcp 10.0.0.7: %w", database.ErrUnavailable)

func (gone) Add(context.Context, iter.Seq2[invoice.Invoice, error]) (int, error) { return 0, errGone }
func (gone) Get(context.Context, string) (invoice.Invoice, error) {
	return invoice.Invoice{}, errGone
}
func (gone) List(context.Context, invoice.Filter) ([]invoice.Invoice, error) { return nil, errGone }
func (gone) Retry(context.Context, string) error                             { return errGone }
func (gone) LastSeq(context.Context) (int64, error)                          { return 0, errGone }

func TestContract(t *testing.T) {
	s := newStore(t)
	require.NoError(t, store.Seed(t.Context(), s))
	c := newContract(t, s, func(_ context.Context, i invoice.Invoice) error {
		if i.ID == "bad" {
			return &invoice.Rejection{Reason: "was paid before"}
		}
		return nil
	})
	call := func(method, path, body string) (int, string) {
		answer := c.Do(t, method, path, body)
		return answer.Code, answer.Body.String()
	}

	// The original API, byte for byte.
	code, body := call(http.MethodGet, "/invoices", "")
	assert.Equal(t, 200, code)
	assert.Equal(t, `[{"InvoiceId":"I1","Value":12.15,"Currency":"EUR","IsPaid":false},`+
		`{"InvoiceId":"I2","Value":10.25,"Currency":"GBP","IsPaid":false},`+
		`{"InvoiceId":"I3","Value":66.13,"Currency":"DKK","IsPaid":false}]`, body)
	code, body = call(http.MethodPost, "/invoices/pay", "")
	assert.Equal(t, 200, code)
	assert.Equal(t, `{}`, body)
	_, body = call(http.MethodGet, "/invoices", "")
	assert.Equal(t, 3, strings.Count(body, `"IsPaid":true`))

	// Adding.
	added := c.Do(t, http.MethodPost, "/invoices", `{"InvoiceId":"a/b","Value":1e2,"Currency":"JPY","unknown":1}`)
	assert.Equal(t, 201, added.Code)
	assert.Equal(t, "/invoices/a%2Fb", added.Header().Get("Location"))
	code, body = call(http.MethodGet, added.Header().Get("Location"), "")
	assert.Equal(t, 200, code)
	assert.Equal(t, `{"InvoiceId":"a/b","Value":100,"Currency":"JPY","IsPaid":false}`, body)
	plus := c.Do(t, http.MethodPost, "/invoices", `{"InvoiceId":"A/1+2","Value":1,"Currency":"EUR"}`)
	code, body = call(http.MethodGet, plus.Header().Get("Location"), "")
	assert.Equal(t, 200, code, "the Location of an invoice leads to it: %s", body)
	for _, none := range []string{"%00", "%ff", "%0A"} {
		code, _ = call(http.MethodGet, "/invoices/"+none, "")
		assert.Equal(t, 404, code, none)
		code, _ = call(http.MethodPost, "/invoices/"+none+"/retry", "")
		assert.Equal(t, 404, code, none)
	}
	code, body = call(http.MethodPost, "/invoices", `{"InvoiceId":"a/b","Value":100.0,"Currency":"JPY"}`)
	assert.Equal(t, 200, code)
	assert.Equal(t, `{"added":0,"existing":1}`, body)
	code, body = call(http.MethodPost, "/invoices",
		` [{"InvoiceId":"bad","Value":5,"Currency":"EUR"},{"InvoiceId":"a/b","Value":100,"Currency":"JPY"}]`)
	assert.Equal(t, 201, code)
	assert.Equal(t, `{"added":1,"existing":1}`, body)
	code, _ = call(http.MethodPost, "/invoices",
		`[{"InvoiceId":"new","Value":5,"Currency":"EUR"},{"InvoiceId":"a/b","Value":101,"Currency":"JPY"}]`)
	assert.Equal(t, 409, code)
	code, _ = call(http.MethodGet, "/invoices/new", "")
	assert.Equal(t, 404, code, "a conflict changes nothing")

	// A rejected invoice is settled and shown, and can be unparked.
	code, _ = call(http.MethodPost, "/invoices/pay", "")
	assert.Equal(t, 200, code)
	_, body = call(http.MethodGet, "/invoices?paid=false", "")
	assert.Equal(t, `[{"InvoiceId":"bad","Value":5,"Currency":"EUR","IsPaid":false,"Rejected":"was paid before"}]`, body)
	for query, ids := range map[string]string{
		"rejected=true": "bad", "paid=false&rejected=false": "", "paid=true&rejected=true": "",
	} {
		_, body = call(http.MethodGet, "/invoices?"+query, "")
		assert.Equal(t, ids != "", strings.Contains(body, `"bad"`), query)
		assert.Equal(t, len(ids)/3, strings.Count(body, "InvoiceId"), query)
	}
	code, body = call(http.MethodPost, "/invoices/bad/retry", "")
	assert.Equal(t, 200, code)
	assert.NotContains(t, body, "Rejected")
	code, _ = call(http.MethodPost, "/invoices/I1/retry", "")
	assert.Equal(t, 409, code, "paid")
	code, _ = call(http.MethodPost, "/invoices/none/retry", "")
	assert.Equal(t, 404, code)

	for _, bad := range []string{
		"limit=0", "limit=1001", "limit=x", "after=-1", "after=x", "paid=maybe", "paid=", "rejected=1",
	} {
		code, _ = call(http.MethodGet, "/invoices?"+bad, "")
		assert.Equal(t, 400, code, bad)
	}
	code, _ = call(http.MethodPost, "/invoices", "")
	assert.Equal(t, 400, code)
	assert.Equal(t, 413, c.Do(t, http.MethodPost, "/invoices", strings.Repeat(" ", 2<<20)).Code)
	wrong := c.Do(t, http.MethodDelete, "/invoices", "")
	assert.Equal(t, 405, wrong.Code)
	assert.Equal(t, "GET, HEAD, POST", wrong.Header().Get("Allow"))
	assert.Equal(t, 404, c.Do(t, http.MethodGet, "/nowhere", "").Code)
	for _, path := range []string{"/livez", "/readyz", "/metrics", "/version", "/openapi.yaml"} {
		code, _ = call(http.MethodGet, path, "")
		assert.Equal(t, 200, code)
	}
	c.RequireLimits(t)
	c.RequireHeads(t)
	c.RequireAllSeen(append(contractOfFailures(t), contractOfStrangers(t))...)
}

// stranger is a caller who is refused for a reason.
type stranger struct{ reason identity.Reason }

func (s *stranger) Verify(*http.Request) *identity.Refusal {
	return &identity.Refusal{Reason: s.reason}
}
func (s *stranger) Ready() error { return nil }

// contractOfStrangers requires that everything that needs the store needs a caller, too.
func contractOfStrangers(t *testing.T) *contracttest.Contract {
	s, caller := newStore(t), &stranger{}
	log := slog.New(slog.DiscardHandler)
	c := contracttest.New(t, New(log, prometheus.NewRegistry(), nil, s,
		invoice.NewPayer(s, provider(nil), impatient, log), time.Minute, caller))
	for reason, status := range map[identity.Reason]int{
		identity.NoCertificate: http.StatusUnauthorized, identity.WrongName: http.StatusForbidden,
	} {
		caller.reason = reason
		for _, ask := range asksTheStore {
			if ask.path != "/readyz" {
				assert.Equal(t, status, c.Do(t, ask.method, ask.path, ask.body).Code, "%s %s", ask.method, ask.path)
			}
		}
	}
	list, err := s.List(t.Context(), invoice.Filter{Limit: 1})
	require.NoError(t, err)
	assert.Empty(t, list)
	return c
}

// asksTheStore lists all requests that need the database.
var asksTheStore = []struct{ method, path, body string }{
	{http.MethodGet, "/invoices", ""},
	{http.MethodGet, "/invoices?limit=1", ""},
	{http.MethodPost, "/invoices", `{"InvoiceId":"a","Value":1,"Currency":"EUR"}`},
	{http.MethodPost, "/invoices/pay", ""},
	{http.MethodGet, "/invoices/a", ""},
	{http.MethodPost, "/invoices/a/retry", ""},
	{http.MethodGet, "/readyz", ""},
}

// frozen is a store whose database is frozen.
type frozen struct {
	invoice.Store
	contracttest.Frozen
}

func (f frozen) Add(ctx context.Context, _ iter.Seq2[invoice.Invoice, error]) (int, error) {
	return 0, f.Wait(ctx)
}
func (f frozen) Get(ctx context.Context, _ string) (invoice.Invoice, error) {
	return invoice.Invoice{}, f.Wait(ctx)
}
func (f frozen) List(ctx context.Context, _ invoice.Filter) ([]invoice.Invoice, error) {
	return nil, f.Wait(ctx)
}
func (f frozen) Retry(ctx context.Context, _ string) error  { return f.Wait(ctx) }
func (f frozen) LastSeq(ctx context.Context) (int64, error) { return 0, f.Wait(ctx) }

// A request that needs a frozen database still gets its response in time.
func TestEveryRequestGetsAResponseInTime(t *testing.T) {
	for _, deaf := range []bool{false, true} {
		t.Run(fmt.Sprint("deaf=", deaf), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := frozen{Frozen: contracttest.Frozen{Deaf: deaf, Thawed: make(chan struct{})}}
				c := newContract(t, s, nil)
				for _, call := range asksTheStore {
					most := server.AnswerTimeout
					switch call.path {
					case "/invoices/pay": // a minute here, and time to count the rest
						most = time.Minute + 15*time.Second
					case "/readyz":
						most = 2 * time.Second
					}
					start := time.Now()
					answer := c.Do(t, call.method, call.path, call.body)
					assert.LessOrEqual(t, time.Since(start), most, call)
					assert.Equal(t, 503, answer.Code, call)
					assert.NotContains(t, answer.Body.String(), "10.0.0.7")
				}
				c.Do(t, http.MethodGet, "/livez", "")
				close(s.Thawed)
				synctest.Wait()
			})
		})
	}
}

// contractOfFailures checks the responses of a service whose database or provider is in trouble: a
// truthful 5xx, without internal details.
func contractOfFailures(t *testing.T) (seen []*contracttest.Contract) {
	broken := newContract(t, gone{}, nil)
	for _, call := range asksTheStore {
		answer := broken.Do(t, call.method, call.path, call.body)
		assert.Equal(t, 503, answer.Code, call)
		assert.NotContains(t, answer.Body.String(), "10.0.0.7")
	}
	broken.RequireHeads(t)
	seen = append(seen, broken, contractOfALongPayAll(t))

	synctest.Test(t, func(t *testing.T) {
		s := frozen{Frozen: contracttest.Frozen{Deaf: true, Thawed: make(chan struct{})}}
		full := newContract(t, s, nil)
		full.RequireFull(t, "/invoices/a")
		close(s.Thawed)
		seen = append(seen, full)
	})

	for status, failure := range map[int]provider{
		502: func(context.Context, invoice.Invoice) error { return errors.New("dial tcp 10.0.0.7: refused") },
		504: func(ctx context.Context, _ invoice.Invoice) error { <-ctx.Done(); return ctx.Err() },
	} {
		s := newStore(t)
		require.NoError(t, store.Seed(t.Context(), s))
		c := newContract(t, s, failure)
		answer := c.Do(t, http.MethodPost, "/invoices/pay", "")
		assert.Equal(t, status, answer.Code)
		assert.Contains(t, answer.Body.String(), `"error":"3 invoices remain unpaid: `)
		assert.Contains(t, answer.Body.String(), `"unpaid":3`)
		assert.NotContains(t, answer.Body.String(), "10.0.0.7")
		seen = append(seen, c)
	}
	return seen
}

func TestPages(t *testing.T) {
	s := newStore(t)
	var want []string
	var list []invoice.Invoice
	for n := range 2*chunk + 7 {
		id := fmt.Sprint("I", n)
		want = append(want, id)
		list = append(list, invoice.Invoice{ID: id, Amount: money.Amount{Minor: 1, Currency: "EUR"}})
	}
	_, err := s.Add(t.Context(), invoice.All(list))
	require.NoError(t, err)
	c := newContract(t, s, nil)
	ids := func(body []byte) (ids []string) {
		var answers []wire.Invoice
		require.NoError(t, json.Unmarshal(body, &answers))
		for _, a := range answers {
			ids = append(ids, a.InvoiceID)
		}
		return ids
	}

	assert.Equal(t, want, ids(c.Do(t, http.MethodGet, "/invoices", "").Body.Bytes()),
		"the whole list, over several chunks")

	var got []string
	pages := 0
	for next := "/invoices?limit=100&paid=false"; next != ""; pages++ {
		page := c.Do(t, http.MethodGet, next, "")
		got = append(got, ids(page.Body.Bytes())...)
		link := page.Header().Get("Link")
		next, _ = strings.CutSuffix(strings.TrimPrefix(link, "<"), `>; rel="next"`)
	}
	assert.Equal(t, want, got)
	assert.Equal(t, 11, pages)
	assert.Equal(t, `[]`, c.Do(t, http.MethodGet, "/invoices?limit=5&paid=true", "").Body.String())
	assert.Equal(t, `[]`, c.Do(t, http.MethodGet, "/invoices?paid=true", "").Body.String())
}

// growing is a store to which others add invoices as fast as a list is read.
type growing struct {
	store.Store
	t     *testing.T
	total *int
}

func (g growing) List(ctx context.Context, filter invoice.Filter) ([]invoice.Invoice, error) {
	var list []invoice.Invoice
	for range chunk {
		*g.total++
		list = append(list, invoice.Invoice{ID: fmt.Sprint("I", *g.total), Amount: money.Amount{Minor: 1, Currency: "EUR"}})
	}
	_, err := g.Add(ctx, invoice.All(list))
	require.NoError(g.t, err)
	require.Less(g.t, *g.total, 20*chunk, "the list has no end")
	return g.Store.List(ctx, filter)
}

func TestListEndsAtTheLastInvoiceAtItsStart(t *testing.T) {
	s := growing{newStore(t), t, new(int)}
	c := newContract(t, s, nil)
	assert.Equal(t, "[]", c.Do(t, http.MethodGet, "/invoices", "").Body.String())
	for _, path := range []string{"/invoices", "/invoices?paid=false", "/invoices?after=0"} {
		before := *s.total
		assert.Equal(t, before, strings.Count(c.Do(t, http.MethodGet, path, "").Body.String(), "InvoiceId"), path)
	}
	assert.Equal(t, "[]", c.Do(t, http.MethodGet, "/invoices?paid=true", "").Body.String())
}

// endless is a store with more invoices than anybody reads.
type endless struct{ invoice.Store }

func (endless) LastSeq(context.Context) (int64, error) { return math.MaxInt64, nil }
func (endless) List(_ context.Context, filter invoice.Filter) ([]invoice.Invoice, error) {
	list := make([]invoice.Invoice, filter.Limit)
	for n := range list {
		list[n] = invoice.Invoice{Seq: filter.After + int64(n) + 1, ID: "I", Amount: money.Amount{Minor: 1, Currency: "EUR"}}
	}
	return list, nil
}

// slowly reads a part every so often, just fast enough not to be cut off.
type slowly struct{ *httptest.ResponseRecorder }

func (s slowly) Write(part []byte) (int, error) {
	time.Sleep(time.Second)
	return len(part), nil
}

func TestSlowListReaderIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		site := New(slog.New(slog.DiscardHandler), prometheus.NewRegistry(), nil, endless{}, nil, time.Minute, nil)
		start := time.Now()
		assert.PanicsWithValue(t, http.ErrAbortHandler, func() {
			site.ServeHTTP(slowly{httptest.NewRecorder()}, httptest.NewRequest(http.MethodGet, "/invoices", nil))
		})
		assert.LessOrEqual(t, time.Since(start), listTimeout+time.Minute)
		assert.Greater(t, time.Since(start), listTimeout-time.Minute)
	})
}

// Clients that do not read hold only a few lists, and do not block pages.
func TestListsAndPagesHaveSeparateSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		site := New(slog.New(slog.DiscardHandler), prometheus.NewRegistry(), nil, endless{}, nil, time.Minute, nil)
		stop := make(chan struct{})
		for range maxLists {
			go func() {
				defer func() { _ = recover() }() // it is cut off in the end
				site.ServeHTTP(stuck{httptest.NewRecorder(), stop}, httptest.NewRequest(http.MethodGet, "/invoices", nil))
			}()
		}
		synctest.Wait()
		for path, want := range map[string]int{"/invoices": 503, "/invoices?limit=1000": 200} {
			answer := httptest.NewRecorder()
			site.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, path, nil))
			assert.Equal(t, want, answer.Code, path)
		}
		close(stop)
	})
}

// stuck is a client that does not read.
type stuck struct {
	*httptest.ResponseRecorder
	stop chan struct{}
}

func (s stuck) Write([]byte) (int, error) {
	<-s.stop
	return 0, io.ErrClosedPipe
}

func TestAbortedListIsNotComplete(t *testing.T) {
	s := newStore(t)
	var list []invoice.Invoice
	for n := range chunk + 1 {
		list = append(list, invoice.Invoice{ID: fmt.Sprint("I", n), Amount: money.Amount{Minor: 1, Currency: "EUR"}})
	}
	_, err := s.Add(t.Context(), invoice.All(list))
	require.NoError(t, err)
	c := newContract(t, failsLater{s}, nil)
	assert.PanicsWithValue(t, http.ErrAbortHandler, func() { c.Do(t, http.MethodGet, "/invoices", "") })
	assert.Contains(t, c.Do(t, http.MethodGet, "/metrics", "").Body.String(),
		`http_request_duration_seconds_count{method="GET",route="/invoices",status="aborted"} 1`)
}

// failsLater is a database that fails after the first chunk.
type failsLater struct{ invoice.Store }

func (f failsLater) List(ctx context.Context, filter invoice.Filter) ([]invoice.Invoice, error) {
	if filter.After > 0 {
		return nil, errGone
	}
	return f.Store.List(ctx, filter)
}

func TestInvalidInputChangesNothing(t *testing.T) {
	s := newStore(t)
	c := newContract(t, s, nil)
	for name, body := range map[string]string{
		"empty body":           ``,
		"not JSON":             `hello`,
		"cut off":              `{"InvoiceId":"X","Value":1`,
		"trailing garbage":     `{"InvoiceId":"X","Value":1,"Currency":"EUR"} x`,
		"two values":           `{"InvoiceId":"X","Value":1,"Currency":"EUR"}{}`,
		"duplicate key":        `{"InvoiceId":"X","Value":1,"Value":2,"Currency":"EUR"}`,
		"duplicate by case":    `{"InvoiceId":"X","Value":1,"value":2,"Currency":"EUR"}`,
		"a word":               `"X"`,
		"null":                 `null`,
		"a list of words":      `["X"]`,
		"one bad in the list":  `[{"InvoiceId":"X","Value":1,"Currency":"EUR"},{"InvoiceId":"Y"}]`,
		"id of wrong type":     `{"InvoiceId":7,"Value":1,"Currency":"EUR"}`,
		"value a string":       `{"InvoiceId":"X","Value":"1","Currency":"EUR"}`,
		"value null":           `{"InvoiceId":"X","Value":null,"Currency":"EUR"}`,
		"currency a number":    `{"InvoiceId":"X","Value":1,"Currency":978}`,
		"missing id":           `{"Value":1,"Currency":"EUR"}`,
		"missing value":        `{"InvoiceId":"X","Currency":"EUR"}`,
		"missing currency":     `{"InvoiceId":"X","Value":1}`,
		"empty id":             `{"InvoiceId":"","Value":1,"Currency":"EUR"}`,
		"over-long id":         `{"InvoiceId":"` + strings.Repeat("X", 129) + `","Value":1,"Currency":"EUR"}`,
		"control character":    `{"InvoiceId":"X\n","Value":1,"Currency":"EUR"}`,
		"half a character":     `{"InvoiceId":"X\ud800","Value":1,"Currency":"EUR"}`,
		"zero":                 `{"InvoiceId":"X","Value":0,"Currency":"EUR"}`,
		"negative":             `{"InvoiceId":"X","Value":-1,"Currency":"EUR"}`,
		"too precise":          `{"InvoiceId":"X","Value":12.155,"Currency":"EUR"}`,
		"too precise for yen":  `{"InvoiceId":"X","Value":0.5,"Currency":"JPY"}`,
		"overflow":             `{"InvoiceId":"X","Value":92233720368547758.08,"Currency":"EUR"}`,
		"1e400":                `{"InvoiceId":"X","Value":1e400,"Currency":"EUR"}`,
		"NaN":                  `{"InvoiceId":"X","Value":NaN,"Currency":"EUR"}`,
		"blank after the id":   `{"InvoiceId":"X ","Value":1,"Currency":"EUR"}`,
		"invisible in the id":  `{"InvoiceId":"X\u200b","Value":1,"Currency":"EUR"}`,
		"withdrawn currency":   `{"InvoiceId":"X","Value":1,"Currency":"BGN"}`,
		"unknown currency":     `{"InvoiceId":"X","Value":1,"Currency":"XXX"}`,
		"lower-case currency":  `{"InvoiceId":"X","Value":1,"Currency":"eur"}`,
		"paid somewhere else?": `{"InvoiceId":"X","Value":1,"Currency":"EUR","IsPaid":true}`,
	} {
		t.Run(name, func(t *testing.T) {
			answer := c.Do(t, http.MethodPost, "/invoices", body)
			assert.Equal(t, 400, answer.Code, answer.Body)
			last, err := s.LastSeq(t.Context())
			require.NoError(t, err)
			assert.Zero(t, last)
		})
	}
}

// Amounts that were agreed before their currency was withdrawn keep their value, and one in an
// unknown currency is an error, never a number.
func TestStoredCurrencies(t *testing.T) {
	s := newStore(t)
	add := func(id, currency string) {
		i := invoice.Invoice{ID: id, Amount: money.Amount{Minor: 1215, Currency: currency}}
		_, err := s.Add(t.Context(), invoice.All([]invoice.Invoice{i}))
		require.NoError(t, err)
	}
	add("withdrawn", "BGN")
	c := newContract(t, s, nil)
	const shown = `{"InvoiceId":"withdrawn","Value":12.15,"Currency":"BGN","IsPaid":false}`
	assert.Equal(t, shown, c.Do(t, http.MethodGet, "/invoices/withdrawn", "").Body.String())
	assert.Equal(t, "["+shown+"]", c.Do(t, http.MethodGet, "/invoices", "").Body.String())

	add("unknown", "XXX")
	log := slog.New(slog.DiscardHandler)
	site := New(log, prometheus.NewRegistry(), s.Ping, s, nil, time.Minute, nil)
	for _, path := range []string{"/invoices/unknown", "/invoices?limit=5", "/invoices"} {
		answer := httptest.NewRecorder() // the contract has no 500: this should never happen
		site.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, path, nil))
		assert.Equal(t, 500, answer.Code, path)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"InvoiceId":"I1","Value":12.15,"Currency":"EUR"}`))
	f.Add([]byte(`[{"InvoiceId":"I1","Value":1e2,"Currency":"JPY","IsPaid":false}]`))
	f.Add([]byte(` [ ] `))
	f.Fuzz(func(t *testing.T, body []byte) {
		invoices, err := Decode(body)
		if err != nil {
			return
		}
		for _, i := range invoices {
			require.NotEmpty(t, i.ID)
			require.Positive(t, i.Amount.Minor)
			answer, err := wire.New(i)
			require.NoError(t, err)
			shown, err := json.Marshal(answer)
			require.NoError(t, err)
			again, err := Decode(shown)
			require.NoError(t, err)
			require.Equal(t, []invoice.Invoice{i}, again, "what was shown is not what was meant")
		}
	})
}
