package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
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
	"example.com/invoices/internal/identitytest"
	"example.com/invoices/internal/money"
	"example.com/invoices/internal/server"
	"example.com/invoices/payment-provider/payment"
	"example.com/invoices/payment-provider/store"
)

var silent = slog.New(slog.DiscardHandler)

// newContract returns a contract of a service that accepts the contract's requests.
func newContract(t *testing.T) (*contracttest.Contract, payment.Store, *identitytest.Cluster) {
	t.Helper()
	cluster := identitytest.New(t)
	payments, err := store.Open(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "payments.db"), 1)
	require.NoError(t, err)
	t.Cleanup(payments.Close)
	c := contracttest.New(t, New(silent, prometheus.NewRegistry(), payments.Ping, payments,
		identity.NewVerifier(cluster.Config(), silent)))
	c.Authorization = "Bearer " + cluster.Token()
	return c, payments, cluster
}

// gone is a database that cannot be reached.
type gone struct{}

var errGone = fmt.Errorf("dial tcp 10.0.0.7: %w", database.ErrUnavailable)

func (gone) Insert(context.Context, []payment.Payment) (map[string]money.Amount, error) {
	return nil, errGone
}
func (gone) Get(context.Context, string) (payment.Payment, error) { return payment.Payment{}, errGone }

func TestContract(t *testing.T) {
	c, _, cluster := newContract(t)
	pay := func(body string) (int, string) {
		answer := c.Do(t, http.MethodPost, "/payments/pay", body)
		return answer.Code, answer.Body.String()
	}

	code, body := pay(`{"id":"I1","value":12.15,"currency":"EUR"}`)
	assert.Equal(t, 200, code)
	assert.Equal(t, `{"id":"I1"}`, body, "byte for byte")
	for _, same := range []string{"12.15", "12.150", "1215e-2"} {
		code, body = pay(`{"id":"I1","value":` + same + `,"currency":"EUR"}`)
		assert.Equal(t, 200, code)
		assert.Equal(t, `{"id":"I1"}`, body)
	}
	for _, other := range []string{
		`{"id":"I1","value":12.16,"currency":"EUR"}`, `{"id":"I1","value":12.15,"currency":"GBP"}`,
	} {
		code, body = pay(other)
		assert.Equal(t, 422, code)
		assert.JSONEq(t,
			`{"code":"payment_mismatch","error":"this id was paid before with another amount or currency"}`, body)
	}
	code, body = pay(`{"ID":"I2","Value":1,"CURRENCY":"JPY","extra":{"deep":[1]}}`)
	assert.Equal(t, 200, code, "as the original: the case of a key and unknown fields do not matter: %s", body)

	one := c.Do(t, http.MethodGet, "/payments/I1", "")
	assert.Equal(t, 200, one.Code)
	assert.Contains(t, one.Body.String(), `"value":12.15,"currency":"EUR"`)
	assert.Equal(t, 404, c.Do(t, http.MethodGet, "/payments/I9", "").Code)
	code, _ = pay(`{"id":"a/b ü","value":1,"currency":"EUR"}`)
	assert.Equal(t, 200, code)
	assert.Equal(t, 200, c.Do(t, http.MethodGet, "/payments/a%2Fb%20%C3%BC", "").Code)

	assert.Equal(t, 400, c.Do(t, http.MethodPost, "/payments/pay", "").Code)
	assert.Equal(t, 413, c.Do(t, http.MethodPost, "/payments/pay", strings.Repeat(" ", 2<<20)).Code)
	wrong := c.Do(t, http.MethodDelete, "/payments/pay", "")
	assert.Equal(t, 405, wrong.Code)
	assert.Contains(t, wrong.Header().Get("Allow"), http.MethodPost)
	assert.Equal(t, 404, c.Do(t, http.MethodGet, "/nowhere", "").Code)
	for _, path := range []string{"/livez", "/readyz", "/metrics", "/version", "/openapi.yaml"} {
		assert.Equal(t, 200, c.Do(t, http.MethodGet, path, "").Code)
	}

	for list, want := range map[string]int{`[{"id":"I1","value":12.15,"currency":"EUR"}]`: 200, `{}`: 400} {
		assert.Equal(t, want, c.Do(t, http.MethodPost, "/payments/batch", list).Code)
	}

	c.RequireSecurity(t)
	known := c.Authorization
	c.Authorization = "Bearer " + cluster.Token(func(claims *identitytest.Claims) { claims.Subject = "another" })
	assert.Equal(t, 403, c.Do(t, http.MethodGet, "/payments/I1", "").Code)
	code, _ = pay(`{"id":"I3","value":1,"currency":"EUR"}`)
	assert.Equal(t, 403, code)
	c.Authorization = known
	assert.Equal(t, 404, c.Do(t, http.MethodGet, "/payments/I3", "").Code, "not taken")

	// The same contract if the database is down: 503, without internal details.
	broken := contracttest.New(t, New(silent, prometheus.NewRegistry(),
		func(context.Context) error { return errors.New("gone") }, gone{}, nil))
	for _, call := range asksTheStore {
		got := broken.Do(t, call.method, call.path, call.body)
		assert.Equal(t, 503, got.Code)
		assert.NotContains(t, got.Body.String(), "10.0.0.7")
	}
	var full *contracttest.Contract
	synctest.Test(t, func(t *testing.T) {
		s := frozen{Frozen: contracttest.Frozen{Deaf: true, Thawed: make(chan struct{})}}
		full = contracttest.New(t, New(silent, prometheus.NewRegistry(), s.Wait, s, nil))
		full.RequireFull(t, "/payments/I1")
		close(s.Thawed)
	})
	c.RequireLimits(t)
	c.RequireHeads(t)
	broken.RequireHeads(t)
	c.RequireAllSeen(broken, full)
}

func TestBatchHasOneVerdictPerPayment(t *testing.T) {
	c, payments, _ := newContract(t)
	batch := func(list string) string {
		answer := c.Do(t, http.MethodPost, "/payments/batch", list)
		require.Equal(t, 200, answer.Code, answer.Body)
		return answer.Body.String()
	}
	assert.Equal(t, `[]`, batch(`[]`))
	assert.Equal(t, `[{"id":"I1","status":200},{"id":"I2","status":200}]`,
		batch(` [{"id":"I1","value":12.15,"currency":"EUR"},{"value":1e2,"ID":"I2","currency":"JPY","extra":{}}] `))
	_, err := payments.Insert(t.Context(),
		[]payment.Payment{{ID: "old", Amount: money.Amount{Minor: 1215, Currency: "BGN"}}})
	require.NoError(t, err)
	assert.JSONEq(t, `[
		{"id":"I3","status":200},
		{"id":"I1","status":200},
		{"id":"I2","status":422,"code":"payment_mismatch","error":"this id was paid before with another amount or currency"},
		{"id":"I4","status":400,"code":"invalid_payment","error":"value 1.001 has more decimals than the currency"},
		{"id":"","status":400,"code":"invalid_payment","error":"id is missing"},
		{"id":"I5","status":400,"code":"invalid_payment","error":"value is missing"},
		{"id":"old","status":200}
	]`, batch(`[
		{"id":"I3","value":1,"currency":"EUR"},
		{"id":"I1","value":12.15,"currency":"EUR"},
		{"id":"I2","value":101,"currency":"JPY"},
		{"id":"I4","value":1.001,"currency":"EUR"},
		{},
		{"id":"I5","value":null,"currency":"EUR"},
		{"id":"old","value":12.15,"currency":"BGN"}
	]`))
	for id, status := range map[string]int{"I1": 200, "I2": 200, "I3": 200, "I4": 404, "I5": 404} {
		assert.Equal(t, status, c.Do(t, http.MethodGet, "/payments/"+id, "").Code, id)
	}

	longest := make([]string, maxBatch+1)
	for n := range longest { // the longest ids, escaped
		longest[n] = fmt.Sprintf(`{"id":"%s%04d","value":1,"currency":"EUR"}`, strings.Repeat(`\u0026`, 124), n)
	}
	assert.Equal(t, maxBatch, strings.Count(batch("["+strings.Join(longest[1:], ",")+"]"), `"status":200`))
	for text, list := range map[string]string{
		"the list has more than 500 payments": "[" + strings.Join(longest, ",") + "]",
		"the list has a duplicate id: \"I6\"": `[{"id":"I6","value":1,"currency":"EUR"},` +
			`{"id":"I6","value":2,"currency":"EUR"}]`,
		"the body is not a list":                 `{"id":"I6","value":1,"currency":"EUR"}`,
		"/1/id is of the wrong type: number":     `[{"id":"I6","value":1,"currency":"EUR"},{"id":6}]`,
		"the body is not JSON, at byte 40":       `[{"id":"I6","value":1,"currency":"EUR"},`,
		"the body has a duplicate key: /0/value": `[{"id":"I6","value":1,"value":2,"currency":"EUR"}]`,
		"the body is empty":                      ``,
	} {
		answer := c.Do(t, http.MethodPost, "/payments/batch", list)
		assert.Equal(t, 400, answer.Code, list)
		var body struct{ Error, Code string }
		require.NoError(t, json.Unmarshal(answer.Body.Bytes(), &body))
		assert.Equal(t, text, body.Error)
		assert.Equal(t, server.CodeMalformed, body.Code)
	}
	assert.Equal(t, 404, c.Do(t, http.MethodGet, "/payments/I6", "").Code, "all or nothing was read")
}

// asksTheStore lists all requests that need the database.
var asksTheStore = []struct{ method, path, body string }{
	{http.MethodPost, "/payments/pay", `{"id":"I1","value":12.15,"currency":"EUR"}`},
	{http.MethodPost, "/payments/batch", `[{"id":"I1","value":12.15,"currency":"EUR"}]`},
	{http.MethodGet, "/payments/I1", ""},
	{http.MethodGet, "/readyz", ""},
}

// frozen is a store whose database is frozen.
type frozen struct {
	contracttest.Frozen
}

func (f frozen) Insert(ctx context.Context, _ []payment.Payment) (map[string]money.Amount, error) {
	return nil, f.Wait(ctx)
}
func (f frozen) Get(ctx context.Context, _ string) (payment.Payment, error) {
	return payment.Payment{}, f.Wait(ctx)
}

// A request that needs a frozen database still gets its response in time.
func TestEveryRequestGetsAResponseInTime(t *testing.T) {
	for _, deaf := range []bool{false, true} {
		t.Run(fmt.Sprint("deaf=", deaf), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := frozen{Frozen: contracttest.Frozen{Deaf: deaf, Thawed: make(chan struct{})}}
				c := contracttest.New(t, New(silent, prometheus.NewRegistry(), s.Wait, s, nil))
				for _, call := range asksTheStore {
					most := server.AnswerTimeout
					if call.path == "/readyz" {
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

// Everything under /payments is for the one account only, including endpoints that are added
// later.
func TestPaymentsNeedAToken(t *testing.T) {
	cluster := identitytest.New(t)
	s := New(silent, prometheus.NewRegistry(), func(context.Context) error { return nil },
		gone{}, identity.NewVerifier(cluster.Config(), silent))
	for _, route := range s.Routes() {
		answer := httptest.NewRecorder()
		s.ServeHTTP(answer, httptest.NewRequest(route.Method, strings.ReplaceAll(route.Path, ":", ""), nil))
		assert.Equal(t, strings.HasPrefix(route.Path, "/payments"), answer.Code == http.StatusUnauthorized,
			"%s %s answers %d", route.Method, route.Path, answer.Code)
	}
}

// Rules become stricter. A caller that missed the response to a payment that was taken before
// repeats the request, and must not be told that it is invalid.
func TestPaymentsUnderOlderRulesAreConfirmed(t *testing.T) {
	c, payments, _ := newContract(t)
	for name, p := range map[string]payment.Payment{
		"an id that is refused now": {ID: "B\u200b1", Amount: money.Amount{Minor: 1215, Currency: "EUR"}},
		"a withdrawn currency":      {ID: "I1", Amount: money.Amount{Minor: 1215, Currency: "BGN"}},
	} {
		t.Run(name, func(t *testing.T) {
			body := fmt.Sprintf(`{"id":%q,"value":12.15,"currency":%q}`, p.ID, p.Amount.Currency)
			path := "/payments/" + url.PathEscape(p.ID)
			refused := c.Do(t, http.MethodPost, "/payments/pay", body)
			assert.Equal(t, 400, refused.Code, "a new one is not taken")
			assert.Contains(t, refused.Body.String(), `"code":"invalid_payment"`)
			assert.Equal(t, 404, c.Do(t, http.MethodGet, path, "").Code)

			_, err := payments.Insert(t.Context(), []payment.Payment{p})
			require.NoError(t, err)
			again := c.Do(t, http.MethodPost, "/payments/pay", body)
			assert.Equal(t, 200, again.Code, again.Body)
			other := c.Do(t, http.MethodPost, "/payments/pay", strings.Replace(body, "12.15", "12.16", 1))
			assert.Equal(t, 422, other.Code, other.Body)
			shown := c.Do(t, http.MethodGet, path, "")
			assert.Equal(t, 200, shown.Code)
			assert.Contains(t, shown.Body.String(), `"value":12.15,"currency":"`+p.Amount.Currency+`"`)
		})
	}
}

func TestStoredPaymentInUnknownCurrencyIsAnError(t *testing.T) {
	_, payments, _ := newContract(t)
	unknown := payment.Payment{ID: "I1", Amount: money.Amount{Minor: 1215, Currency: "XXX"}}
	_, err := payments.Insert(t.Context(), []payment.Payment{unknown})
	require.NoError(t, err)
	answer := httptest.NewRecorder() // the contract has no 500: this should never happen
	New(silent, prometheus.NewRegistry(), nil, payments, nil).ServeHTTP(
		answer, httptest.NewRequest(http.MethodGet, "/payments/I1", nil))
	assert.Equal(t, 500, answer.Code)
	assert.NotContains(t, answer.Body.String(), "1215")
}

func TestInvalidInputChangesNothing(t *testing.T) {
	c, payments, _ := newContract(t)
	for name, bad := range map[string]struct{ body, code string }{
		"empty body":          {``, "malformed"},
		"not JSON":            {`hello`, "malformed"},
		"cut off":             {`{"id":"X","value":1`, "malformed"},
		"trailing garbage":    {`{"id":"X","value":1,"currency":"EUR"} x`, "malformed"},
		"two values":          {`{"id":"X","value":1,"currency":"EUR"}{}`, "malformed"},
		"duplicate key":       {`{"id":"X","value":1,"value":2,"currency":"EUR"}`, "malformed"},
		"duplicate by case":   {`{"id":"X","value":1,"Value":2,"currency":"EUR"}`, "malformed"},
		"a list":              {`[{"id":"X","value":1,"currency":"EUR"}]`, "malformed"},
		"id of wrong type":    {`{"id":7,"value":1,"currency":"EUR"}`, "malformed"},
		"currency a number":   {`{"id":"X","value":1,"currency":978}`, "malformed"},
		"NaN":                 {`{"id":"X","value":NaN,"currency":"EUR"}`, "malformed"},
		"null":                {`null`, "invalid_payment"},
		"value a string":      {`{"id":"X","value":"1","currency":"EUR"}`, "invalid_payment"},
		"value null":          {`{"id":"X","value":null,"currency":"EUR"}`, "invalid_payment"},
		"missing id":          {`{"value":1,"currency":"EUR"}`, "invalid_payment"},
		"missing value":       {`{"id":"X","currency":"EUR"}`, "invalid_payment"},
		"missing currency":    {`{"id":"X","value":1}`, "invalid_payment"},
		"empty id":            {`{"id":"","value":1,"currency":"EUR"}`, "invalid_payment"},
		"over-long id":        {`{"id":"` + strings.Repeat("X", 129) + `","value":1,"currency":"EUR"}`, "invalid_payment"},
		"blank after the id":  {`{"id":"X ","value":1,"currency":"EUR"}`, "invalid_payment"},
		"invisible in the id": {`{"id":"X\u200b","value":1,"currency":"EUR"}`, "invalid_payment"},
		"withdrawn":           {`{"id":"X","value":1,"currency":"BGN"}`, "invalid_payment"},
		"control character":   {`{"id":"X\u0000","value":1,"currency":"EUR"}`, "invalid_payment"},
		"zero":                {`{"id":"X","value":0,"currency":"EUR"}`, "invalid_payment"},
		"negative":            {`{"id":"X","value":-1,"currency":"EUR"}`, "invalid_payment"},
		"too precise":         {`{"id":"X","value":12.155,"currency":"EUR"}`, "invalid_payment"},
		"overflow":            {`{"id":"X","value":92233720368547758.08,"currency":"EUR"}`, "invalid_payment"},
		"1e400":               {`{"id":"X","value":1e400,"currency":"EUR"}`, "invalid_payment"},
		"unknown currency":    {`{"id":"X","value":1,"currency":"XXX"}`, "invalid_payment"},
		"lower case":          {`{"id":"X","value":1,"currency":"eur"}`, "invalid_payment"},
	} {
		t.Run(name, func(t *testing.T) {
			answer := c.Do(t, http.MethodPost, "/payments/pay", bad.body)
			assert.Equal(t, 400, answer.Code, answer.Body)
			assert.Contains(t, answer.Body.String(), `"code":"`+bad.code+`"`)
			_, err := payments.Get(t.Context(), "X")
			assert.ErrorIs(t, err, payment.ErrNotFound)
		})
	}
}

func FuzzDecodePayment(f *testing.F) {
	f.Add([]byte(`{"id":"I1","value":12.15,"currency":"EUR"}`))
	f.Add([]byte(`{"id":"I1","value":1e2,"currency":"JPY","x":[{}]}`))
	f.Add([]byte(`{"id":"I1","value":1,"Value":2,"currency":"EUR"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		var sent sentPayment
		if server.Decode(body, &sent) != nil {
			return
		}
		request := sent.read()
		if request.amount == (money.Amount{}) {
			require.NotNil(t, request.refusal)
			return
		}
		require.NotEmpty(t, request.id)
		require.Positive(t, request.amount.Minor)
		number, err := request.amount.Number()
		require.NoError(t, err)
		again, err := money.ParseHistoric(number, request.amount.Currency)
		require.NoError(t, err)
		require.Equal(t, request.amount, again)
	})
}
