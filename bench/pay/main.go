// pay measures how fast invoices are paid, compared with other programs that do similar work in the same run: see
// docs/benchmarks.md.
//
// usage: go -C bench run ./pay [flags]     (make bench-pay; -help lists the flags)
package main

import (
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"github.com/stretchr/testify/require"

	"example.com/invoices/internal/postgrestest"
)

// sizes are the sizes of all measurements.
type sizes struct {
	rounds    int
	invoices  int           // in one pay-all
	few, many int           // invoices when measuring growth
	single    int           // requests when measuring single payments
	imported  int           // lines of an imported file
	sqlite    int           // invoices in SQLite
	limit     time.Duration // of measuring one-row inserts
}

var (
	full = sizes{
		rounds: 5, invoices: 100_000, few: 10_000, many: 1_000_000, single: 2000, imported: 1_000_000, sqlite: 20_000,
		limit: 5 * time.Second,
	}
	short = sizes{
		rounds: 3, invoices: 10_000, few: 2_000, many: 20_000, single: 500, imported: 50_000, sqlite: 2_000,
		limit: time.Second,
	}
)

type bench struct {
	host
	root         string // of the repository
	folder       string // temporary, and owned by PostgreSQL's account
	log          io.Writer
	server       *postgrestest.Server
	databases    int // number of databases created so far
	programs     programs
	baseline     programs
	sizes        sizes
	clients      int // of pgbench at its best, or 0 if not yet known
	riverWorkers int // in each River process
	round        int
	appEnv       []string // variables for invoice-app
	profile      bool

	samples []*series
	ratios  []*series
	notes   []string
	facts   string // about the server
}

// series is the values of one measurement, one for each round.
type series struct {
	Name   string    `json:"name"`
	Unit   string    `json:"unit,omitempty"`
	Values []float64 `json:"values"`
}

func add(list *[]*series, name, unit string, value float64) {
	for _, s := range *list {
		if s.Name == name {
			s.Values = append(s.Values, value)
			return
		}
	}
	*list = append(*list, &series{name, unit, []float64{value}})
}

func (b *bench) add(name, unit string, value float64) {
	log.Printf("%-40s %10.2f %s", name, value, unit)
	add(&b.samples, name, unit, value)
}

func (b *bench) ratio(name string, value float64) {
	log.Printf("%-40s %10.3f", name, value)
	add(&b.ratios, name, "", value)
}

func main() {
	log.SetFlags(log.Ltime)
	b := &bench{sizes: full}
	isShort := flag.Bool("short", false, "run for a few minutes instead of an hour, as in CI")
	rounds := flag.Int("rounds", 0, "number of rounds, if not the default")
	many := flag.Int("many", 0, "larger number of invoices when measuring growth, if not the default")
	only := flag.String("only", "",
		"regular expression that selects measurements: pay, xmin, list, single, import, sqlite, growth, callers")
	baseline := flag.String("baseline", "3155e1d",
		"commit to compare single payments with; the default is the last one before batches")
	check := flag.Bool("check", false, "fail if a ratio is out of its bound in bench/pay/bounds.txt")
	results := flag.String("results", ".build/bench/pay", "prefix of the result files, relative to the repository")
	flag.IntVar(&b.riverWorkers, "river-workers", 50, "number of workers in each River process")
	flag.Func("set", "variable for invoice-app, as NAME=VALUE; may be repeated", func(variable string) error {
		b.appEnv = append(b.appEnv, variable)
		return nil
	})
	flag.BoolVar(&b.profile, "profile", false,
		"print the SQL statements that take the most time; this slows down the benchmark")
	flag.Parse()
	if *isShort {
		b.sizes = short
	}
	if *rounds > 0 {
		b.sizes.rounds = *rounds
	}
	if *many > 0 {
		b.sizes.many = *many
	}
	wanted, err := regexp.Compile(*only)
	require.NoError(b, err, "-only")

	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-interrupted
		b.FailNow()
	}()
	b.prepare(*baseline)
	for b.round = range b.sizes.rounds {
		for _, m := range measures {
			if wanted.MatchString(m.name) && (b.round == 0 || !m.once) {
				log.Printf("round %d of %d: %s", b.round+1, b.sizes.rounds, m.name)
				m.round(b)
			}
		}
	}
	b.query("postgres", `SELECT format('PostgreSQL %s, fsync %s, synchronous_commit %s, full_page_writes %s, `+
		`shared_buffers %s, max_wal_size %s.',
		current_setting('server_version'), current_setting('fsync'), current_setting('synchronous_commit'),
		current_setting('full_page_writes'), current_setting('shared_buffers'), current_setting('max_wal_size'))`, &b.facts)
	b.end()
	b.report(filepath.Join(b.root, *results))
	if *check {
		b.check()
	}
	if b.Failed() {
		os.Exit(1)
	}
}

// prepare builds all programs and starts PostgreSQL.
func (b *bench) prepare(baseline string) {
	var err error
	b.root, err = filepath.Abs("..")
	require.NoError(b, err)
	b.folder = postgrestest.Folder(b)
	require.NoError(b, os.Chmod(b.folder, 0o755))
	log, err := os.Create(filepath.Join(b.folder, "log"))
	require.NoError(b, err)
	b.log = log
	b.Cleanup(func() { log.Close() })

	settings := []string{"fsync=on"} // it is off in tests
	if b.profile {
		settings = append(settings, "shared_preload_libraries=pg_stat_statements")
	}
	b.server = postgrestest.Start(b, settings...)
	if b.profile {
		b.server.Exec("postgres", "CREATE EXTENSION pg_stat_statements")
	}
	b.programs = programs(b.emptyFolder())
	b.build(b.root, string(b.programs)+"/", "./invoice-app", "./payment-provider")
	b.build(filepath.Join(b.root, "bench"), string(b.programs)+"/", "./river")
	b.baseline = programs(b.emptyFolder())
	source := b.emptyFolder()
	archive := exec.Command("bash", "-c", `set -o pipefail; git archive "$0" | tar --extract --directory="$1"`,
		baseline, source)
	archive.Dir = b.root
	out, err := archive.CombinedOutput()
	require.NoError(b, err, "%s: %s", archive, out)
	b.build(source, string(b.baseline)+"/", "./invoice-app", "./payment-provider")
}

func (b *bench) build(module, into string, packages ...string) {
	command := exec.Command("go", append([]string{"build", "-trimpath", "-o", into}, packages...)...)
	command.Dir = module
	out, err := command.CombinedOutput()
	require.NoError(b, err, "%s: %s", command, out)
}

// emptyFolder creates a temporary folder.
func (b *bench) emptyFolder() string {
	folder, err := os.MkdirTemp(b.folder, "")
	require.NoError(b, err)
	return folder
}

// profiled runs f, which processes the given number of invoices. With -profile it prints the statements of f.
func (b *bench) profiled(invoices int, f func()) {
	if !b.profile {
		f()
		return
	}
	b.server.Exec("postgres", "SELECT pg_stat_statements_reset()")
	f()
	var table string
	b.query("postgres", fmt.Sprintf(`
		SELECT coalesce(string_agg(format(E'%%s\t%%s\t%%s\t%%s\t%%s', calls, round(total_exec_time * 1000 / %[1]d, 2),
			round(wal_bytes / %[1]d), rows, regexp_replace(left(query, 160), '\s+', ' ', 'g')), E'\n'), '')
		FROM (SELECT calls, total_exec_time::numeric, wal_bytes, rows, query FROM pg_stat_statements
			ORDER BY total_exec_time DESC LIMIT 12) AS top`, invoices), &table)
	fmt.Fprintf(os.Stderr, "calls\tµs/invoice\tlogged B/invoice\trows\tstatement\n%s\n", table)
}
