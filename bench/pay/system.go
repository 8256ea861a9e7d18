package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"example.com/invoices/internal/postgrestest"
)

const (
	replicas = 3
	enough   = time.Hour // a timeout for anything that hangs
)

// process is a running replica.
type process struct {
	command *exec.Cmd
	url     string
}

// start starts a service and waits until it is ready.
func (b *bench) start(program string, env ...string) *process {
	command := exec.Command(program)
	command.Dir = b.emptyFolder() // without an .env file
	command.Env = append(env, "LISTEN_ADDR=127.0.0.1:0")
	stderr, err := command.StderrPipe()
	require.NoError(b, err)
	require.NoError(b, command.Start())
	p := &process{command: command}
	b.Cleanup(p.stop)
	lines := bufio.NewReader(stderr)
	for {
		text, err := lines.ReadString('\n')
		require.NoError(b, err, "%s ended: %s", program, text)
		var line struct{ Msg, Address string }
		if json.Unmarshal([]byte(text), &line) == nil && line.Msg == "serving" {
			p.url = "http://" + line.Address
			break
		}
	}
	go func() { _, _ = io.Copy(b.log, lines) }() // until the service exits
	require.Eventually(b, func() bool {
		response, err := http.Get(p.url + "/readyz")
		if err != nil {
			return false
		}
		response.Body.Close()
		return response.StatusCode == http.StatusOK
	}, time.Minute, 10*time.Millisecond, "%s is not ready", program)
	return p
}

// stop kills the process if it is running.
func (p *process) stop() {
	if p.command.ProcessState == nil {
		_ = p.command.Process.Kill()
		_ = p.command.Wait() // returns an error because it was killed
	}
}

// peak returns the process's peak memory usage so far, in bytes.
func (b *bench) peak(p *process) float64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.command.Process.Pid))
	require.NoError(b, err)
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	kibibytes, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
	require.NoError(b, err)
	return kibibytes * 1024
}

// cpu returns the CPU time of a process and of its children that have exited.
func (b *bench) cpu(pid int) time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0 // it has exited: its parent's time includes it
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	var ticks int
	for _, field := range fields[11:15] { // utime, stime, cutime, cstime
		n, err := strconv.Atoi(field)
		require.NoError(b, err)
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond // a tick is 10 ms on Linux
}

// databaseCPU returns the CPU time of PostgreSQL's processes.
func (b *bench) databaseCPU() time.Duration {
	pid := b.server.PID()
	total := b.cpu(pid)
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	require.NoError(b, err)
	for _, child := range strings.Fields(string(children)) {
		id, err := strconv.Atoi(child)
		require.NoError(b, err)
		total += b.cpu(id)
	}
	return total
}

// programs is the folder with the binaries of both services.
type programs string

func (p programs) invoiceApp() string      { return filepath.Join(string(p), "invoice-app") }
func (p programs) paymentProvider() string { return filepath.Join(string(p), "payment-provider") }

// system runs both services with separate databases. The n-th invoice-app calls the n-th payment-provider.
type system struct {
	*bench
	invoicing, paying string // names of databases, or "" for SQLite files
	apps, providers   []*process
}

// database creates a database with a service's empty tables.
func (b *bench) database(program string) (name string) {
	b.databases++
	name = fmt.Sprintf("bench_%d", b.databases)
	b.server.CreateDatabase(name)
	b.migrate(program, b.url(name))
	return name
}

func (b *bench) url(database string) string {
	return b.server.URL(postgrestest.Superuser, database)
}

func (b *bench) migrate(program, url string) {
	b.run(exec.Command(program, "migrate"), "DATABASE_URL="+url)
}

// run runs a command with only the given variables, and returns its output.
func (b *bench) run(command *exec.Cmd, env ...string) string {
	if command.Dir == "" {
		command.Dir = b.emptyFolder()
	}
	command.Env = append(command.Env, env...)
	out, err := command.CombinedOutput()
	require.NoError(b, err, "%s: %s", command, out)
	return string(out)
}

// newSystem starts n replicas of each service.
func (b *bench) newSystem(p programs, n int) *system {
	s := &system{bench: b, invoicing: b.database(p.invoiceApp()), paying: b.database(p.paymentProvider())}
	s.serve(p, n, b.url(s.invoicing), b.url(s.paying))
	return s
}

func (s *system) serve(p programs, n int, invoicing, paying string) {
	for range n {
		provider := s.start(p.paymentProvider(), "DATABASE_URL="+paying)
		s.providers = append(s.providers, provider)
		s.apps = append(s.apps, s.start(p.invoiceApp(),
			append([]string{"DATABASE_URL=" + invoicing, "PAYMENT_PROVIDER_URL=" + provider.url}, s.appEnv...)...))
	}
}

// stop stops the replicas and drops their databases.
func (s *system) stop() {
	for _, p := range append(s.apps, s.providers...) {
		p.stop()
	}
	for _, database := range []string{s.invoicing, s.paying} {
		if database != "" {
			s.drop(database)
		}
	}
}

func (b *bench) drop(database string) {
	b.server.Exec("postgres", "DROP DATABASE "+database+" WITH (FORCE)")
}

// fill adds unpaid invoices, and vacuums and checkpoints so that no such work is left for later.
func (s *system) fill(invoices int) {
	s.server.Exec(s.invoicing, fmt.Sprintf(`INSERT INTO invoices (id, amount_minor, currency)
		SELECT 'invoice-' || lpad(n::text, 9, '0'), 1 + n %% 100000, 'EUR' FROM generate_series(1, %d) AS n`, invoices))
	s.server.Exec(s.invoicing, "VACUUM ANALYZE invoices")
	s.server.Exec("postgres", "CHECKPOINT")
}

// spent is the cost of paying.
type spent struct {
	rate                        float64 // invoices per second
	apps, providers, database   float64 // µs of CPU per invoice
	commits, wal, disk          float64 // commits, and bytes of write-ahead log and of tables and indexes, per invoice
	appsMemory, providersMemory float64 // peak memory of a process, in bytes
}

// payAll calls all invoice-apps concurrently to pay everything, and checks that all invoices have been paid.
func (s *system) payAll(invoices int) (result spent) {
	cpu := func(processes []*process) (total time.Duration) {
		for _, p := range processes {
			total += s.cpu(p.command.Process.Pid)
		}
		return total
	}
	apps, providers, database := cpu(s.apps), cpu(s.providers), s.databaseCPU()
	commits, wal := s.written()
	each := float64(invoices)
	s.profiled(invoices, func() { result.rate = each / s.timed(s.payAllEverywhere) })
	result.apps = float64((cpu(s.apps) - apps).Microseconds()) / each
	result.providers = float64((cpu(s.providers) - providers).Microseconds()) / each
	result.database = float64((s.databaseCPU() - database).Microseconds()) / each
	// PostgreSQL's sessions report commits with a delay of a second, or when they end.
	for _, p := range s.apps {
		result.appsMemory = max(result.appsMemory, s.peak(p))
		p.stop()
	}
	for _, p := range s.providers {
		result.providersMemory = max(result.providersMemory, s.peak(p))
		p.stop()
	}
	time.Sleep(time.Second)
	commitsAfter, walAfter := s.written()
	result.commits, result.wal = (commitsAfter-commits)/each, (walAfter-wal)/each
	for database, table := range map[string]string{s.invoicing: "invoices", s.paying: "payments"} {
		var size float64
		s.query(database, "SELECT pg_total_relation_size('"+table+"')::float8", &size)
		result.disk += size / each
	}
	s.checkPaid(invoices)
	return result
}

func (s *system) payAllEverywhere() {
	var callers sync.WaitGroup
	for _, app := range s.apps {
		callers.Go(func() { s.payAllAt(app) })
	}
	callers.Wait()
}

// payAllAt calls one invoice-app until everything is paid.
func (b *bench) payAllAt(app *process) {
	client := http.Client{Timeout: enough}
	for {
		response, err := client.Post(app.url+"/invoices/pay", "application/json", nil)
		require.NoError(b, err)
		text, err := io.ReadAll(response.Body)
		require.NoError(b, err)
		response.Body.Close()
		if response.StatusCode != http.StatusAccepted { // still in progress: the next request waits for it
			require.Equal(b, http.StatusOK, response.StatusCode, "%s", text)
			return
		}
	}
}

// checkPaid checks that both databases agree that all invoices are paid.
func (s *system) checkPaid(invoices int) {
	const sums = `SELECT count(*), sum(amount_minor)::bigint FROM `
	var count, paid, taken [2]int64
	s.query(s.invoicing, sums+"invoices", &count[0], &count[1])
	s.query(s.invoicing, sums+"invoices WHERE paid_at IS NOT NULL", &paid[0], &paid[1])
	s.query(s.paying, sums+"payments", &taken[0], &taken[1])
	require.EqualValues(s, invoices, count[0])
	require.Equal(s, count, paid, "invoices marked as paid")
	require.Equal(s, count, taken, "payments accepted by payment-provider")
}

// query queries one row as the superuser.
func (b *bench) query(database, sql string, into ...any) {
	conn, err := pgx.Connect(context.Background(), b.url(database))
	require.NoError(b, err)
	defer conn.Close(context.Background())
	require.NoError(b, conn.QueryRow(context.Background(), sql).Scan(into...))
}

// written returns the number of commits and the bytes of write-ahead log so far.
func (b *bench) written() (commits, wal float64) {
	b.query("postgres",
		`SELECT sum(xact_commit)::float8, pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::float8 FROM pg_stat_database`,
		&commits, &wal)
	return commits, wal
}
