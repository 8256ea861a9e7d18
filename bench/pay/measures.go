package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"example.com/invoices/bench/stats"
	"example.com/invoices/internal/postgrestest"
	payments "example.com/invoices/payment-provider/store"
)

// measures are all measurements, in order.
var measures = []struct {
	name  string
	round func(*bench)
	once  bool // only in the first round
}{
	{"pay", (*bench).measurePay, false},
	{"xmin", (*bench).measureXmin, false},
	{"list", (*bench).measureList, false},
	{"single", (*bench).measureSingle, false},
	{"import", (*bench).measureImport, false},
	{"sqlite", (*bench).measureSQLite, false},
	{"growth", (*bench).measureGrowth, false},
	{"callers", (*bench).measureCallers, true},
}

// measurePay pays the same number of invoices with invoice-app and with River, and compares both with one-row inserts.
func (b *bench) measurePay() {
	limit := b.oneRowInserts(b.limitClients())
	pay := b.pay(b.sizes.invoices)
	river := b.river(b.sizes.invoices)
	b.add("limit", "rows/s", limit)
	b.add("pay", "invoices/s", pay.rate)
	b.add("river", "invoices/s", river)
	b.add("pay: CPU of invoice-app", "µs/invoice", pay.apps)
	b.add("pay: CPU of payment-provider", "µs/invoice", pay.providers)
	b.add("pay: CPU of PostgreSQL", "µs/invoice", pay.database)
	b.add("pay: commits", "/invoice", pay.commits)
	b.add("pay: write-ahead log", "B/invoice", pay.wal)
	b.add("pay: tables and indexes", "B/invoice", pay.disk)
	b.ratio("pay/limit", pay.rate/limit)
	b.ratio("pay/river", pay.rate/river)
}

// pay pays the given number of invoices with three replicas of each service.
func (b *bench) pay(invoices int) spent {
	s := b.newSystem(b.programs, replicas)
	defer s.stop()
	s.fill(invoices)
	return s.payAll(invoices)
}

// limitClients returns the number of clients with the highest rate of one-row inserts.
func (b *bench) limitClients() int {
	if b.clients == 0 {
		best := 0.0
		for _, clients := range []int{8, 16, 32, 64, 128} {
			if rate := b.oneRowInserts(clients); rate > best {
				b.clients, best = clients, rate
			}
		}
	}
	return b.clients
}

var tps = regexp.MustCompile(`(?m)^tps = ([\d.]+)`)

// oneRowInserts inserts payments with pgbench, and returns the rate per second.
func (b *bench) oneRowInserts(clients int) float64 {
	database := b.database(b.programs.paymentProvider())
	defer b.drop(database)
	b.server.Exec("postgres", "CHECKPOINT")
	script := filepath.Join(b.folder, "insert.sql")
	require.NoError(b, os.WriteFile(script, []byte(`\set n :n + 1
INSERT INTO payments (id, amount_minor, currency)
VALUES ('invoice-' || :client_id || '-' || :n, 1 + :n % 100000, 'EUR');
`), 0o644))
	out := b.run(postgrestest.Command(b, b.folder, "pgbench", "--no-vacuum", "--protocol=prepared", "--file="+script,
		"--define=n=0", "--client="+strconv.Itoa(clients), "--jobs=2",
		fmt.Sprintf("--time=%.0f", b.sizes.limit.Seconds()), b.url(database)))
	found := tps.FindStringSubmatch(out)
	require.NotNil(b, found, "%s", out)
	rate, err := strconv.ParseFloat(found[1], 64)
	require.NoError(b, err)
	return rate
}

// river pays the given number of invoices with three River clients, which call three payment-providers.
func (b *bench) river(invoices int) float64 {
	s := &system{bench: b, paying: b.database(b.programs.paymentProvider())}
	defer s.stop()
	b.databases++
	s.invoicing = fmt.Sprintf("bench_%d", b.databases)
	b.server.CreateDatabase(s.invoicing)
	program := filepath.Join(string(b.programs), "river")
	b.run(exec.Command(program, "prepare", strconv.Itoa(invoices)), "DATABASE_URL="+b.url(s.invoicing))
	b.server.Exec(s.invoicing, "VACUUM ANALYZE")
	b.server.Exec("postgres", "CHECKPOINT")

	var starters []io.Writer
	for range replicas {
		provider := b.start(b.programs.paymentProvider(), "DATABASE_URL="+b.url(s.paying))
		command := exec.Command(program, "work", strconv.Itoa(b.riverWorkers))
		command.Env = []string{"DATABASE_URL=" + b.url(s.invoicing), "PAYMENT_PROVIDER_URL=" + provider.url}
		command.Stderr = b.log
		stdin, err := command.StdinPipe()
		require.NoError(b, err)
		stdout, err := command.StdoutPipe()
		require.NoError(b, err)
		require.NoError(b, command.Start())
		worker := &process{command: command}
		b.Cleanup(worker.stop)
		_, err = bufio.NewReader(stdout).ReadString('\n')
		require.NoError(b, err, "River is not ready")
		s.providers, s.apps, starters = append(s.providers, provider), append(s.apps, worker), append(starters, stdin)
	}
	began := time.Now()
	for _, starter := range starters {
		_, err := fmt.Fprintln(starter)
		require.NoError(b, err)
	}
	for left := true; left; time.Sleep(10 * time.Millisecond) {
		b.query(s.invoicing, `SELECT EXISTS (SELECT FROM river_job
			WHERE state IN ('available', 'running', 'retryable', 'scheduled', 'pending'))`, &left)
	}
	took := time.Since(began)
	s.checkPaid(invoices)
	return float64(invoices) / took.Seconds()
}

// measureXmin pays while another transaction holds an old snapshot of both databases.
func (b *bench) measureXmin() {
	held := func(hold bool) float64 {
		s := b.newSystem(b.programs, replicas)
		defer s.stop()
		s.fill(b.sizes.invoices)
		if hold {
			for _, database := range []string{s.invoicing, s.paying} {
				conn, err := pgx.Connect(context.Background(), b.url(database))
				require.NoError(b, err)
				defer conn.Close(context.Background())
				_, err = conn.Exec(context.Background(),
					"BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM goose_db_version LIMIT 1")
				require.NoError(b, err)
			}
		}
		return s.payAll(b.sizes.invoices).rate
	}
	var without, with float64
	if b.round%2 == 0 { // take turns at being first
		without, with = held(false), held(true)
	} else {
		with, without = held(true), held(false)
	}
	b.add("pay, no old snapshot", "invoices/s", without)
	b.add("pay, an old snapshot held", "invoices/s", with)
	b.ratio("xmin", with/without)
}

// measureList lists invoices while the system is idle, and while everything is being paid.
func (b *bench) measureList() {
	s := b.newSystem(b.programs, replicas)
	defer s.stop()
	s.fill(b.sizes.invoices)
	ask := func(until func() bool) (times []float64) {
		for !until() {
			times = append(times, b.timed(func() {
				b.call(http.MethodGet, s.apps[0].url+"/invoices?limit=100", "", http.StatusOK)
			}))
			time.Sleep(5 * time.Millisecond)
		}
		return times
	}
	end := time.Now().Add(b.sizes.limit)
	idle := ask(func() bool { return time.Now().After(end) })
	paid := make(chan struct{})
	go func() {
		defer close(paid)
		s.payAllEverywhere()
	}()
	busy := ask(func() bool {
		select {
		case <-paid:
			return true
		default:
			return false
		}
	})
	for _, q := range []struct {
		name string
		q    float64
	}{{"median", 0.5}, {"p99", 0.99}} {
		b.add("list, idle, "+q.name, "ms", 1e3*stats.Quantile(idle, q.q))
		b.add("list, busy, "+q.name, "ms", 1e3*stats.Quantile(busy, q.q))
		b.ratio("list-"+q.name+"-busy/idle", stats.Quantile(busy, q.q)/stats.Quantile(idle, q.q))
	}
}

// measureSingle compares single payments with those of the baseline.
func (b *bench) measureSingle() {
	const payAllEvery = 5 // in the baseline a pay-all takes a hundred times as long as a single payment
	systems := []*system{b.newSystem(b.programs, 1), b.newSystem(b.baseline, 1)}
	var pay, payAll [2][]float64
	for n := range b.sizes.single {
		for turn := range systems {
			which := (turn + n) % len(systems) // take turns at being first
			s := systems[which]
			id := fmt.Sprintf("single-%d", n)
			pay[which] = append(pay[which], b.timed(func() {
				b.call(http.MethodPost, s.providers[0].url+"/payments/pay",
					`{"id":"lone-`+id+`","value":12.15,"currency":"EUR"}`, http.StatusOK)
			}))
			if n%payAllEvery != 0 {
				continue
			}
			b.call(http.MethodPost, s.apps[0].url+"/invoices",
				`{"InvoiceId":"`+id+`","Value":12.15,"Currency":"EUR"}`, http.StatusCreated)
			payAll[which] = append(payAll[which], b.timed(func() {
				b.call(http.MethodPost, s.apps[0].url+"/invoices/pay", "", http.StatusOK)
			}))
		}
	}
	for _, s := range systems {
		s.stop()
	}
	for _, kind := range []struct {
		name  string
		times [2][]float64
	}{{"pay", pay}, {"payall", payAll}} {
		for _, q := range []struct {
			name string
			q    float64
		}{{"median", 0.5}, {"p99", 0.99}} {
			now, then := stats.Quantile(kind.times[0], q.q), stats.Quantile(kind.times[1], q.q)
			b.add("single "+kind.name+", "+q.name, "ms", 1e3*now)
			b.add("single "+kind.name+", "+q.name+", baseline", "ms", 1e3*then)
			b.ratio("single-"+kind.name+"-"+q.name, now/then)
		}
	}
}

// measureImport imports a file, and compares that with copying the same rows with psql.
func (b *bench) measureImport() {
	lines := b.sizes.imported
	csv, rows := filepath.Join(b.folder, "import.csv"), filepath.Join(b.folder, "copy.csv")
	var imported, copied bytes.Buffer
	imported.WriteString("InvoiceId,Value,Currency\n")
	for n := range lines {
		minor := 1 + n%100_000
		fmt.Fprintf(&imported, "invoice-%09d,%d.%02d,EUR\n", n, minor/100, minor%100)
		fmt.Fprintf(&copied, "invoice-%09d,%d,EUR\n", n, minor)
	}
	require.NoError(b, os.WriteFile(csv, imported.Bytes(), 0o644))
	require.NoError(b, os.WriteFile(rows, copied.Bytes(), 0o644))
	into := func(do func(database string)) float64 {
		database := b.database(b.programs.invoiceApp())
		defer b.drop(database)
		b.server.Exec("postgres", "CHECKPOINT")
		var took float64
		b.profiled(lines, func() { took = b.timed(func() { do(database) }) })
		var count int
		b.query(database, "SELECT count(*) FROM invoices", &count)
		require.Equal(b, lines, count)
		return float64(lines) / took
	}
	copyRate := into(func(database string) {
		b.run(postgrestest.Command(b, b.folder, "psql", "--no-psqlrc",
			"--command", `\copy invoices (id, amount_minor, currency) FROM '`+rows+`' CSV`, b.url(database)))
	})
	importRate := into(func(database string) {
		b.run(exec.Command(b.programs.invoiceApp(), "import", csv), "DATABASE_URL="+b.url(database))
	})
	b.add(`\copy`, "rows/s", copyRate)
	b.add("import", "invoices/s", importRate)
	b.ratio("import/copy", importRate/copyRate)
}

// measureSQLite pays with both services on SQLite, and compares that with one-row commits to SQLite.
func (b *bench) measureSQLite() {
	folder := b.emptyFolder()
	db, err := payments.Schema.OpenSQLite(context.Background(), "sqlite:"+filepath.Join(folder, "limit.db"))
	require.NoError(b, err)
	rows, began := 0, time.Now()
	for ; time.Since(began) < b.sizes.limit; rows++ {
		_, err := db.Exec(`INSERT INTO payments (id, amount_minor, currency) VALUES (?, ?, ?)`,
			fmt.Sprintf("invoice-%09d", rows), 1+rows%100_000, "EUR")
		require.NoError(b, err)
	}
	limit := float64(rows) / time.Since(began).Seconds()
	db.Close()

	var list strings.Builder
	list.WriteString("InvoiceId,Value,Currency\n")
	for n := range b.sizes.sqlite {
		fmt.Fprintf(&list, "invoice-%09d,12.15,EUR\n", n)
	}
	csv := filepath.Join(folder, "import.csv")
	require.NoError(b, os.WriteFile(csv, []byte(list.String()), 0o644))
	invoicing := "sqlite:" + filepath.Join(folder, "invoicing.db")
	b.run(exec.Command(b.programs.invoiceApp(), "import", csv), "DATABASE_URL="+invoicing)
	s := &system{bench: b}
	defer s.stop()
	s.serve(b.programs, 1, invoicing, "sqlite:"+filepath.Join(folder, "paying.db"))
	rate := float64(b.sizes.sqlite) / b.timed(func() { b.payAllAt(s.apps[0]) })
	b.add("SQLite: one-row commits", "rows/s", limit)
	b.add("SQLite: pay", "invoices/s", rate)
	b.ratio("sqlite", rate/limit)
}

// measureGrowth compares paying few and many invoices.
func (b *bench) measureGrowth() {
	few, many := b.pay(b.sizes.few), b.pay(b.sizes.many)
	b.add("pay, few", "invoices/s", few.rate)
	b.add("pay, many", "invoices/s", many.rate)
	b.ratio("linearity", few.rate/many.rate)
	growth := 0.0
	for _, process := range []struct {
		name      string
		few, many float64
	}{{"invoice-app", few.appsMemory, many.appsMemory}, {"payment-provider", few.providersMemory, many.providersMemory}} {
		b.add("memory of "+process.name+", few", "MiB", process.few/(1<<20))
		b.add("memory of "+process.name+", many", "MiB", process.many/(1<<20))
		growth = max(growth, process.many/process.few)
	}
	b.ratio("memory-growth", growth)
}

// measureCallers sends 1,000 concurrent requests to each endpoint. Each must be served or refused in time.
func (b *bench) measureCallers() {
	const callers = 1000
	s := b.newSystem(b.programs, 1)
	defer s.stop()
	s.fill(callers)
	app, provider := s.apps[0].url, s.providers[0].url
	total := map[string]int{}
	for _, endpoint := range []struct{ method, url, body string }{
		{http.MethodGet, app + "/invoices", ""},
		{http.MethodGet, app + "/invoices?limit=100", ""},
		{http.MethodGet, app + "/invoices/invoice-%09d", ""},
		{http.MethodPost, app + "/invoices", `{"InvoiceId":"new-%d","Value":12.15,"Currency":"EUR"}`},
		{http.MethodPost, app + "/invoices/pay", ""},
		{http.MethodPost, app + "/invoices/invoice-%09d/retry", ""},
		{http.MethodGet, app + "/readyz", ""},
		{http.MethodGet, app + "/metrics", ""},
		{http.MethodPost, provider + "/payments/pay", `{"id":"new-%d","value":12.15,"currency":"EUR"}`},
		{http.MethodPost, provider + "/payments/batch", `[{"id":"batch-%d","value":12.15,"currency":"EUR"}]`},
		{http.MethodGet, provider + "/payments/invoice-%09d", ""},
	} {
		var mu sync.Mutex
		outcomes := map[string]int{}
		var calls sync.WaitGroup
		began := time.Now()
		for n := range callers {
			fill := func(text string) string {
				if strings.Contains(text, "%") {
					return fmt.Sprintf(text, n+1)
				}
				return text
			}
			calls.Go(func() {
				outcome := b.outcome(endpoint.method, fill(endpoint.url), fill(endpoint.body))
				mu.Lock()
				defer mu.Unlock()
				outcomes[outcome]++
				total[outcome]++
			})
		}
		calls.Wait()
		b.notes = append(b.notes, fmt.Sprintf("%d callers at once of %s %s: %v in %.1f s", callers, endpoint.method,
			endpoint.url[strings.Index(endpoint.url[8:], "/")+8:], outcomes, time.Since(began).Seconds()))
	}
	b.ratio("callers-hung", float64(total[hung]))
	b.ratio("callers-failed", float64(total[failed]))
}

// Outcomes of a request.
const (
	served  = "served"
	refused = "refused" // with status 4xx or 503
	failed  = "failed"  // no response, an incomplete one, or another error
	hung    = "hung"
)

// outcome sends a request over a new connection.
func (b *bench) outcome(method, url, body string) string {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 2 * time.Minute}
	request, err := http.NewRequest(method, url, strings.NewReader(body))
	require.NoError(b, err)
	request.Header.Set("Content-Type", "application/json")
	response, err := client.Do(request)
	var timeout net.Error
	switch {
	case errors.As(err, &timeout) && timeout.Timeout():
		return hung
	case err != nil:
		return failed
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, response.Body)
	switch {
	case errors.As(err, &timeout) && timeout.Timeout():
		return hung
	case err != nil, response.StatusCode >= 500 && response.StatusCode != http.StatusServiceUnavailable:
		return failed
	case response.StatusCode >= 400:
		return refused
	}
	return served
}

// call sends a request over a kept-alive connection, and requires a status.
func (b *bench) call(method, url, body string, status int) {
	request, err := http.NewRequest(method, url, strings.NewReader(body))
	require.NoError(b, err)
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	require.NoError(b, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	require.NoError(b, err)
	require.Equal(b, status, response.StatusCode, "%s %s: %s", method, url, text)
}

// timed returns how long f takes, in seconds.
func (b *bench) timed(f func()) float64 {
	began := time.Now()
	f()
	return time.Since(began).Seconds()
}
