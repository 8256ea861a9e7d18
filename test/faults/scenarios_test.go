package faults

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/internal/historytest"
	"example.com/invoices/internal/identitytest"
	"example.com/invoices/internal/postgrestest"
)

// TestScenarios injects one fault at a time, at the worst moment.
func TestScenarios(t *testing.T) {
	server := startServer(t)
	for name, scenario := range map[string]func(*testing.T, *postgrestest.Server){
		"killed between the provider's answer and the mark":  killedBeforeMark,
		"pay-all waits for what another replica has claimed": waitsForOthers,
		"SIGTERM finishes the invoice in hand":               stopsGently,
		"a provider that is of no use":                       uselessProvider,
		"a provider that does not know the caller":           unknownCaller,
		"no database":          noDatabase,
		"rejected and retried": rejectedAndRetried,
		"the services may do no more than they need": narrowRole,
		"a late payment overrules a rejection":       lateOverrulesRejection,
		"each program shows what it was built from":  versions,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			scenario(t, server)
		})
	}
}

// patientEnv is for scenarios that hold responses back: nothing times out or expires until the
// test wants it.
var patientEnv = []string{"CLAIM_LEASE=10m", "PAYMENT_TIMEOUT=1m", "PAY_CONCURRENCY=1", "PAY_BATCH=1"}

var oneEuro = historytest.Amount{Minor: 100, Currency: "EUR", Number: "1"}

// add adds unpaid invoices of 1 EUR each and returns the book that knows them.
func (c *cluster) add(t *testing.T, ids ...string) *historytest.Book {
	t.Helper()
	b := historytest.NewBook()
	for _, id := range ids {
		body := fmt.Sprintf(`{"InvoiceId":%q,"Value":1,"Currency":"EUR"}`, id)
		status, text := call(t.Context(), http.MethodPost, c.apps[0].url()+"/invoices", body)
		require.Equal(t, http.StatusCreated, status, "%s", text)
		list := []historytest.Sent{{ID: id, Amount: oneEuro}}
		b.Send(list)
		b.Accept(list)
	}
	return b
}

// requireInOrder calls pay-all once more, on the last replica, and then requires that everything
// in b is as it should be.
func (c *cluster) requireInOrder(t *testing.T, b *historytest.Book) {
	t.Helper()
	status, text := payAll(t.Context(), c.apps[len(c.apps)-1])
	require.Equal(t, http.StatusOK, status, "%s", text)
	violations, err := c.check(t.Context(), b)
	require.NoError(t, err)
	require.Empty(t, violations)
}

// get returns an invoice from the last replica.
func (c *cluster) get(t *testing.T, id string) (i historytest.Shown) {
	t.Helper()
	status, text := call(t.Context(), http.MethodGet, c.apps[len(c.apps)-1].url()+"/invoices/"+id, "")
	require.Equal(t, http.StatusOK, status, "%s", text)
	require.NoError(t, json.Unmarshal(text, &i))
	return i
}

// lapse lets every claim expire now.
func (c *cluster) lapse() {
	c.server.Exec(c.invoicing, `UPDATE invoices SET claimed_until = '-infinity'`)
}

// outcome is the response to a pay-all.
type outcome struct {
	status int
	text   string
}

// payAllMeanwhile calls pay-all on r and returns a channel for the outcome.
func payAllMeanwhile(ctx context.Context, r *replica) chan outcome {
	done := make(chan outcome, 1)
	go func() {
		status, text := payAll(ctx, r)
		done <- outcome{status, string(text)}
	}()
	return done
}

// receive waits for a value that must arrive.
func receive[T any](t *testing.T, from chan T) (value T) {
	t.Helper()
	select {
	case value = <-from:
	case <-time.After(enough):
		require.FailNow(t, "nothing came")
	}
	return value
}

func killedBeforeMark(t *testing.T, server *postgrestest.Server) {
	c := newCluster(t, server, settings{programs: unbroken, apps: 2, providers: 1, env: patientEnv})
	b := c.add(t, "K1")
	held := c.proxy.hold()
	done := payAllMeanwhile(t.Context(), c.apps[0])
	require.Equal(t, answer{http.StatusOK, []byte(`{"id":"K1"}`)}, receive(t, held.answered))
	c.apps[0].kill()
	close(held.release)
	assert.Zero(t, receive(t, done).status)
	assert.False(t, c.get(t, "K1").IsPaid)

	c.lapse()
	c.apps[0].start(t)
	c.waitReady(t)
	c.requireInOrder(t, b)
	assert.Len(t, held.answered, 1, "the provider was to be asked again")
}

func waitsForOthers(t *testing.T, server *postgrestest.Server) {
	c := newCluster(t, server, settings{programs: unbroken, apps: 2, providers: 1, env: patientEnv})
	b := c.add(t, "W1")
	held := c.proxy.hold()
	first := payAllMeanwhile(t.Context(), c.apps[0])
	receive(t, held.answered)
	second := payAllMeanwhile(t.Context(), c.apps[1])
	select {
	case early := <-second:
		require.Fail(t, "said so while the other was still paying", "%v", early)
	case <-time.After(2 * time.Second): // a chance to be wrong
	}
	close(held.release)
	assert.Equal(t, outcome{http.StatusOK, "{}"}, receive(t, first))
	assert.Equal(t, outcome{http.StatusOK, "{}"}, receive(t, second))
	assert.Empty(t, held.answered, "the provider was asked once")
	c.requireInOrder(t, b)
}

func stopsGently(t *testing.T, server *postgrestest.Server) {
	c := newCluster(t, server, settings{programs: unbroken, apps: 2, providers: 1, env: patientEnv})
	b := c.add(t, "T1", "T2", "T3")
	held := c.proxy.hold()
	done := payAllMeanwhile(t.Context(), c.apps[0])
	receive(t, held.answered)
	address := strings.TrimPrefix(c.apps[0].url(), "http://")
	c.apps[0].signal(syscall.SIGTERM)
	require.Eventually(t, func() bool {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
		}
		return err != nil
	}, enough, 10*time.Millisecond, "still takes connections")
	close(held.release)

	stopped := receive(t, done)
	assert.Equal(t, http.StatusServiceUnavailable, stopped.status)
	assert.JSONEq(t, `{"error":"2 invoices remain unpaid: this replica is stopping; it is safe to try again","unpaid":2}`,
		stopped.text)
	assert.NoError(t, c.apps[0].wait(), "exit code")
	assert.True(t, c.get(t, "T1").IsPaid)
	assert.False(t, c.get(t, "T2").IsPaid)
	c.apps[0].start(t)
	c.waitReady(t)
	c.requireInOrder(t, b)
}

func uselessProvider(t *testing.T, server *postgrestest.Server) {
	c := newCluster(t, server, settings{programs: unbroken, apps: 2, providers: 1,
		env: []string{"CLAIM_LEASE=5s", "PAYMENT_TIMEOUT=2s", "PAY_PATIENCE=100ms"}})
	b := c.add(t, "U1", "U2")
	const (
		noUse = `{"error":"2 invoices remain unpaid: ` +
			`payment-provider gives no usable response; it is safe to try again","unpaid":2}`
		noTime = `{"error":"2 invoices remain unpaid: ` +
			`payment-provider did not respond in time; it is safe to try again","unpaid":2}`
	)
	for name, provider := range map[string]struct {
		behaviour behaviour
		status    int
		text      string
	}{
		"down":       {func(http.ResponseWriter, *http.Request, []byte) { cut() }, http.StatusBadGateway, noUse},
		"slow":       {silent, http.StatusGatewayTimeout, noTime},
		"endless":    {endless, http.StatusBadGateway, noUse},
		"other id":   {lie(http.StatusOK, "application/json", `{"id":"U3"}`), http.StatusBadGateway, noUse},
		"no id":      {lie(http.StatusOK, "application/json", `{}`), http.StatusBadGateway, noUse},
		"HTML":       {lie(http.StatusOK, "text/html", `<html>`), http.StatusBadGateway, noUse},
		"empty":      {lie(http.StatusOK, "application/json", ``), http.StatusBadGateway, noUse},
		"no content": {lie(http.StatusNoContent, "application/json", ``), http.StatusBadGateway, noUse},
		"500": {lie(http.StatusInternalServerError, "application/json", `{"error":"internal error"}`),
			http.StatusBadGateway, noUse},
		"401": {lie(http.StatusUnauthorized, "application/json", `{"error":"who are you"}`),
			http.StatusBadGateway, noUse},
		"429": {lie(http.StatusTooManyRequests, "application/json", `{"error":"too many"}`),
			http.StatusBadGateway, noUse},
		"somebody else's 422": {lie(http.StatusUnprocessableEntity, "application/json", `{"error":"no"}`),
			http.StatusBadGateway, noUse},
		"400 for a body cut short": {lie(http.StatusBadRequest, "application/json", `{"error":"no","code":"malformed"}`),
			http.StatusBadGateway, noUse},
	} {
		t.Run(name, func(t *testing.T) {
			c.proxy.behave(provider.behaviour)
			status, text := payAll(t.Context(), c.apps[0])
			assert.Equal(t, provider.status, status)
			assert.JSONEq(t, provider.text, string(text))
			list, err := c.list(t.Context())
			require.NoError(t, err)
			for id, i := range list {
				assert.False(t, i.Settled(), "%s: %+v", id, i)
			}
		})
	}
	c.proxy.behave(c.proxy.relay)
	c.requireInOrder(t, b)
}

func unknownCaller(t *testing.T, server *postgrestest.Server) {
	c := newCluster(t, server, settings{programs: unbroken, apps: 2, providers: 1, env: []string{"PAY_PATIENCE=100ms"}})
	b := c.add(t, "C1", "C2")
	now := time.Now()
	for name, token := range map[string]string{
		"no token":    "",
		"not a token": "hello",
		"forged":      c.tokens.Forgeries()["another's key of the same name"],
		"expired": c.tokens.Token(func(claims *identitytest.Claims) {
			claims.IssuedAt, claims.Expiry = jwt.NewNumericDate(now.Add(-10*time.Minute)),
				jwt.NewNumericDate(now.Add(-time.Minute))
		}),
		"of another account": c.tokens.Token(func(claims *identitytest.Claims) { claims.Subject = "another" }),
	} {
		t.Run(name, func(t *testing.T) {
			c.tokens.TokenFile(token)
			status, text := payAll(t.Context(), c.apps[0])
			assert.Equal(t, http.StatusBadGateway, status)
			assert.JSONEq(t, `{"error":"2 invoices remain unpaid: `+
				`payment-provider gives no usable response; it is safe to try again","unpaid":2}`, string(text))
			for _, id := range []string{"C1", "C2"} {
				assert.False(t, c.get(t, id).Settled(), "no invoice is to blame for that")
			}
		})
	}
	c.tokens.AddKey()
	c.tokens.TokenFile(c.tokens.Token())
	c.requireInOrder(t, b) // the same processes
}

func noDatabase(t *testing.T, _ *postgrestest.Server) {
	server := startServer(t) // its own, since it stops the server
	c := newCluster(t, server, settings{programs: unbroken, apps: 1, providers: 1, env: patientEnv})
	b := c.add(t, "D1", "D2")
	held := c.proxy.hold()
	done := payAllMeanwhile(t.Context(), c.apps[0])
	receive(t, held.answered)
	server.Kill()
	close(held.release)
	c.proxy.behave(c.proxy.relay)

	gone := receive(t, done)
	assert.Equal(t, http.StatusServiceUnavailable, gone.status)
	assert.JSONEq(t,
		`{"error":"some invoices may remain unpaid: database is unavailable; it is safe to try again"}`, gone.text)
	app, provider := c.apps[0].url(), c.providers[0].url()
	for _, request := range []struct{ method, url, body string }{
		{http.MethodGet, app + "/invoices", ""},
		{http.MethodGet, app + "/invoices?limit=1", ""},
		{http.MethodGet, app + "/invoices/D1", ""},
		{http.MethodPost, app + "/invoices", `{"InvoiceId":"D3","Value":1,"Currency":"EUR"}`},
		{http.MethodPost, app + "/invoices/pay", ""},
		{http.MethodPost, app + "/invoices/D1/retry", ""},
		{http.MethodPost, provider + "/payments/pay", `{"id":"D3","value":1,"currency":"EUR"}`},
		{http.MethodGet, provider + "/payments/D1", ""},
	} {
		status, text := callAs(t.Context(), c.tokens.Token(), request.method, request.url, request.body)
		assert.Equal(t, http.StatusServiceUnavailable, status, "%s %s: %s", request.method, request.url, text)
	}
	for _, base := range []string{app, provider} {
		require.Eventually(t, func() bool {
			status, _ := call(t.Context(), http.MethodGet, base+"/readyz", "")
			return status == http.StatusServiceUnavailable
		}, enough, 50*time.Millisecond, "still says that it is ready")
		status, _ := call(t.Context(), http.MethodGet, base+"/livez", "")
		assert.Equal(t, http.StatusOK, status, "starting it again would not help")
	}

	server.Run()
	c.waitReady(t) // the same processes
	c.lapse()
	c.requireInOrder(t, b)
}

func rejectedAndRetried(t *testing.T, server *postgrestest.Server) {
	c := newCluster(t, server, settings{programs: unbroken, apps: 2, providers: 1, env: patientEnv})
	status, text := callAs(t.Context(), c.tokens.Token(), http.MethodPost,
		c.providers[0].url()+"/payments/pay", `{"id":"R1","value":2,"currency":"EUR"}`)
	require.Equal(t, http.StatusOK, status, "%s", text)
	b := c.add(t, "R1", "R2")
	b.Send([]historytest.Sent{{ID: "R1", Amount: oneEuro, Mismatched: true}})
	c.requireInOrder(t, b)
	assert.Contains(t, c.get(t, "R1").Rejected, "another amount")
	assert.True(t, c.get(t, "R2").IsPaid, "the rejected one does not block the others")

	retry := func(id string) int {
		status, _ := call(t.Context(), http.MethodPost, c.apps[0].url()+"/invoices/"+id+"/retry", "")
		return status
	}
	assert.Equal(t, http.StatusOK, retry("R1"))
	assert.False(t, c.get(t, "R1").Settled())
	assert.Equal(t, http.StatusConflict, retry("R2"), "it is paid")
	c.requireInOrder(t, b) // the verdict is the same

	// A wrong verdict is overruled when the provider is asked again.
	c.add(t, "R3")
	c.proxy.behave(mismatch)
	status, text = payAll(t.Context(), c.apps[0])
	require.Equal(t, http.StatusOK, status, "%s", text)
	assert.Equal(t, "this id was paid before", c.get(t, "R3").Rejected)
	c.proxy.behave(c.proxy.relay)
	assert.Equal(t, http.StatusOK, retry("R3"))
	status, text = payAll(t.Context(), c.apps[1])
	require.Equal(t, http.StatusOK, status, "%s", text)
	assert.Equal(t, "", c.get(t, "R3").Rejected)
	assert.True(t, c.get(t, "R3").IsPaid)
}

// mismatch is the behaviour of a provider that has taken another amount.
var mismatch = lie(http.StatusUnprocessableEntity, "application/json",
	`{"error":"this id was paid before","code":"payment_mismatch"}`)

func lateOverrulesRejection(t *testing.T, server *postgrestest.Server) {
	c := newCluster(t, server, settings{programs: unbroken, apps: 2, providers: 1, env: patientEnv})
	b := c.add(t, "O1")
	held := c.proxy.hold()
	first := payAllMeanwhile(t.Context(), c.apps[0])
	receive(t, held.answered)
	c.lapse()
	c.proxy.behave(mismatch)
	status, text := payAll(t.Context(), c.apps[1])
	require.Equal(t, http.StatusOK, status, "%s", text)
	require.NotEmpty(t, c.get(t, "O1").Rejected)

	close(held.release)
	assert.Equal(t, http.StatusOK, receive(t, first).status)
	c.proxy.behave(c.proxy.relay)
	c.requireInOrder(t, b)
	attempts, err := query(t.Context(), server.URL(superuser, c.invoicing),
		pgx.RowTo[int], `SELECT attempts FROM invoices`)
	require.NoError(t, err)
	assert.Equal(t, []int{2}, attempts)
}

func narrowRole(t *testing.T, server *postgrestest.Server) {
	c := newCluster(t, server, settings{programs: unbroken, apps: 1, providers: 1, env: patientEnv})
	c.requireInOrder(t, c.add(t, "N1"))
	for statement, database := range map[string]string{
		`UPDATE invoices SET id = 'N2'`:             c.invoicing,
		`UPDATE invoices SET amount_minor = 1`:      c.invoicing,
		`UPDATE invoices SET currency = 'USD'`:      c.invoicing,
		`DELETE FROM invoices`:                      c.invoicing,
		`UPDATE payments SET amount_minor = 1`:      c.paying,
		`DELETE FROM payments`:                      c.paying,
		`TRUNCATE payments`:                         c.paying,
		`ALTER TABLE payments DROP COLUMN currency`: c.paying,
	} {
		_, err := query(t.Context(), server.URL("application", database), pgx.RowTo[string], statement)
		var refused *pgconn.PgError
		require.ErrorAs(t, err, &refused, statement)
		assert.Equal(t, "42501", refused.Code, "%s: %v", statement, err) // insufficient privilege
	}
}

func versions(t *testing.T, server *postgrestest.Server) {
	c := newCluster(t, server, settings{programs: unbroken, apps: 1, providers: 1})
	for service, of := range map[string]struct{ url, program string }{
		"invoice-app":      {c.apps[0].url(), unbroken.invoiceApp},
		"payment-provider": {c.providers[0].url(), unbroken.paymentProvider},
	} {
		status, text := call(t.Context(), http.MethodGet, of.url+"/version", "")
		require.Equal(t, http.StatusOK, status, "%s", text)
		var shown struct {
			Service, SHA256, Go string
			Modules             map[string]string
		}
		require.NoError(t, json.Unmarshal(text, &shown))
		program, err := os.ReadFile(of.program)
		require.NoError(t, err)
		assert.Equal(t, service, shown.Service)
		assert.Equal(t, fmt.Sprintf("%x", sha256.Sum256(program)), shown.SHA256)
		assert.Equal(t, runtime.Version(), shown.Go)
		for _, module := range []string{
			"github.com/gin-gonic/gin", "github.com/jackc/pgx/v5", "github.com/pressly/goose/v3",
		} {
			assert.NotEmpty(t, shown.Modules[module], module)
		}
	}
}
