package faults

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"example.com/invoices/internal/historytest"
	"example.com/invoices/internal/identitytest"
	"example.com/invoices/internal/podtest"
	"example.com/invoices/internal/postgrestest"
	"example.com/invoices/internal/server"
)

// enough is a generous limit for everything that must happen. It only ends a test that hangs.
const enough = time.Minute

// cluster consists of several replicas of both services, their two databases, and a proxy between
// the services.
type cluster struct {
	server     *postgrestest.Server
	invoicing  string // name of invoice-app's database
	paying     string // name of payment-provider's database
	apps       []*replica
	providers  []*replica
	proxy      *proxy
	toProvider []*link               // from each invoice-app to the proxy
	tokens     *identitytest.Cluster // issues invoice-app's tokens
}

// settings are the properties in which clusters differ.
type settings struct {
	programs        programs
	apps, providers int
	env             []string // environment variables of invoice-app
	// inPods are the programs that the first replica of each service runs with the memory of its
	// pod; nil: none.
	inPods *programs
}

// startServer starts a PostgreSQL with the two roles of a deployment: the owner of the tables, and
// the application, which has only the privileges that it needs.
func startServer(t *testing.T) *postgrestest.Server {
	t.Helper()
	server := postgrestest.Start(t)
	server.Exec("postgres", "CREATE ROLE owner LOGIN")
	server.Exec("postgres", "CREATE ROLE application LOGIN")
	return server
}

// clusters counts the clusters, so that each has its own databases.
var clusters atomic.Int32

// newCluster starts a cluster on server and waits until it is ready. Its processes end with the
// test; if the test failed, the ends of their logs are shown.
func newCluster(t *testing.T, server *postgrestest.Server, s settings) *cluster {
	t.Helper()
	n := clusters.Add(1)
	c := &cluster{server: server, invoicing: fmt.Sprintf("invoicing_%d", n),
		paying: fmt.Sprintf("paying_%d", n), tokens: identitytest.New(t)}
	c.migrate(t, c.invoicing, s.programs.invoiceApp)
	c.migrate(t, c.paying, s.programs.paymentProvider)

	callers := c.tokens.Config()
	for n := range s.providers {
		c.providers = append(c.providers, c.newReplica(t,
			fmt.Sprintf("payment-provider-%d", n), s.programs.paymentProvider, c.paying,
			"CALLER_KEYS_FILE="+callers.KeysFile, "CALLER_ISSUER="+callers.Issuer,
			"CALLER_AUDIENCE="+callers.Audience, "CALLER_ACCOUNT="+callers.Account))
	}
	c.proxy = newProxy(c.providers)
	t.Cleanup(c.proxy.server.Close)
	env := append([]string{
		"PAYMENT_PROVIDER_TOKEN_FILE=" + c.tokens.TokenFile(c.tokens.Token()),
	}, s.env...)
	for n := range s.apps {
		provider := newLink(t, c.proxy.server.Listener.Addr().String())
		c.toProvider = append(c.toProvider, provider)
		c.apps = append(c.apps, c.newReplica(t, fmt.Sprintf("invoice-app-%d", n), s.programs.invoiceApp, c.invoicing,
			append([]string{"PAYMENT_PROVIDER_URL=http://" + provider.address()}, env...)...))
	}
	if s.inPods != nil {
		c.apps[0].binary, c.apps[0].pod = s.inPods.invoiceApp, podtest.New(t, moduleRoot, "invoice-app")
		c.providers[0].binary, c.providers[0].pod = s.inPods.paymentProvider, podtest.New(t, moduleRoot, "payment-provider")
	}
	t.Cleanup(func() { c.end(t) })
	for _, r := range c.replicas() {
		r.start(t)
	}
	c.waitReady(t)
	return c
}

// migrate creates a database and migrates it with several processes at once, as the replicas of a
// deployment do.
func (c *cluster) migrate(t *testing.T, database, program string) {
	t.Helper()
	c.server.CreateDatabase(database)
	c.server.Exec("postgres", "ALTER DATABASE "+database+" OWNER TO owner")
	c.server.Exec("postgres", "REVOKE ALL ON DATABASE "+database+" FROM PUBLIC")
	c.server.Exec("postgres", "GRANT CONNECT ON DATABASE "+database+" TO application")
	folder := t.TempDir()
	var processes errgroup.Group
	for range 3 {
		processes.Go(func() error {
			command := exec.Command(program, "migrate", "--grant-to", "application")
			command.Dir, command.Env = folder, []string{"DATABASE_URL=" + c.server.URL("owner", database)}
			if out, err := command.CombinedOutput(); err != nil {
				return fmt.Errorf("%s: %w\n%s", command, err, out)
			}
			return nil
		})
	}
	require.NoError(t, processes.Wait())
}

func (c *cluster) newReplica(t *testing.T, name, program, database string, env ...string) *replica {
	t.Helper()
	folder := t.TempDir()
	log, err := os.Create(filepath.Join(folder, "log"))
	require.NoError(t, err)
	r := &replica{name: name, binary: program, folder: folder, log: log,
		database: newLink(t, c.server.Address()), answer: payAnswer(env)}
	r.env = append([]string{
		"LISTEN_ADDR=127.0.0.1:0",
		"DATABASE_URL=" + postgrestest.URL(r.database.address(), "application", database),
	}, env...)
	r.back = r.away.begin()
	return r
}

func (c *cluster) replicas() []*replica {
	return append(append([]*replica{}, c.apps...), c.providers...)
}

// end stops all processes.
func (c *cluster) end(t *testing.T) {
	for _, r := range c.replicas() {
		r.kill()
		if t.Failed() {
			t.Logf("the log of %s ends with:\n%s", r.name, r.tail())
		}
		r.log.Close()
	}
}

// waitReady waits until every replica is ready.
func (c *cluster) waitReady(t *testing.T) {
	t.Helper()
	for _, r := range c.replicas() {
		require.Eventually(t, func() bool {
			status, _ := call(t.Context(), http.MethodGet, r.url()+"/readyz", "")
			return status == http.StatusOK
		}, enough, 50*time.Millisecond, "%s does not become ready:\n%s", r.name, r.tail())
	}
}

// anyOf returns a random element of list.
func anyOf[T any](list []T) T { return list[rand.IntN(len(list))] }

// reply is the response to a request. Status 0 means that there was no complete response.
type reply struct {
	status int
	text   []byte
	heard  bool          // the response has begun
	after  time.Duration // until then, or until it was clear that there will be none
}

// call sends a request, within ctx and enough.
func call(ctx context.Context, method, url, body string) (status int, text []byte) {
	return callAs(ctx, "", method, url, body)
}

// callAs is call with a token, unless that is "".
func callAs(ctx context.Context, token, method, url, body string) (status int, text []byte) {
	r := request(ctx, token, method, url, body)
	return r.status, r.text
}

func request(ctx context.Context, token, method, url, body string) (r reply) {
	ctx, cancel := context.WithTimeout(ctx, enough)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return r
	}
	request.Header.Set("Content-Type", "application/json")
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	start := time.Now()
	response, err := client.Do(request)
	r.after = time.Since(start)
	if err != nil {
		return r
	}
	defer response.Body.Close()
	r.heard = true
	r.text, err = io.ReadAll(response.Body)
	if err == nil {
		r.status = response.StatusCode
	}
	return r
}

// client opens a new connection for each call, so that none remains from a process that has been
// killed.
var client = http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

// late is how much later than its deadline a response may arrive, since the machine may be busy.
const late = 15 * time.Second

// ask sends a request to r, within ctx and enough, and records if there is no response in time.
// The limit in docs/bounds.md is from the arrival of the request to the beginning of the response.
func (r *replica) ask(ctx context.Context, token, method, path, body string) (status int, text []byte) {
	mark, url := r.away.mark(), r.url()
	if url == "" {
		return 0, nil
	}
	a := request(ctx, token, method, url+path, body)
	deadline := server.AnswerTimeout
	if path == "/invoices/pay" {
		deadline = r.answer
	}
	switch {
	case ctx.Err() != nil && !a.heard: // the caller has gone
	case r.away.since(mark):
	case a.after > deadline+late, !a.heard && a.after < enough:
		r.violate(inTime, "%s %s has no answer after %s", method, path, a.after)
	}
	return a.status, a.text
}

// payAnswer is the time within which an invoice-app with these variables responds to a pay-all. If
// the response is that paying continues, the rest is counted first.
func payAnswer(env []string) time.Duration {
	answer := 45 * time.Second
	for _, variable := range env {
		if value, found := strings.CutPrefix(variable, "PAY_ANSWER="); found {
			answer, _ = time.ParseDuration(value)
		}
	}
	return answer + 15*time.Second
}

// payAll requests a pay-all from r.
func payAll(ctx context.Context, r *replica) (status int, text []byte) {
	return r.ask(ctx, "", http.MethodPost, "/invoices/pay", "")
}

// list gets all invoices, by ID, from any replica that responds completely.
func (c *cluster) list(ctx context.Context) (map[string]historytest.Shown, error) {
	for deadline := time.Now().Add(enough); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		status, text := anyOf(c.apps).ask(ctx, "", http.MethodGet, "/invoices", "")
		if status != http.StatusOK {
			continue
		}
		return historytest.DecodeList(text)
	}
	return nil, fmt.Errorf("no replica lists the invoices")
}
