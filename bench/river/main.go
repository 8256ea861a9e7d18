// river pays invoices using River, a job queue in PostgreSQL that bench/pay compares invoice-app with. Each job
// pays one invoice: it calls payment-provider, and marks the invoice as paid in a table.
//
// usage: river prepare INVOICES    creates the tables, and that number of invoices with a job for each
//
//	river work WORKERS        prints "ready", waits for a line of input, and works on jobs until terminated
//
// DATABASE_URL and PAYMENT_PROVIDER_URL are the same as for invoice-app.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

// conns is the maximum number of connections to PostgreSQL, the same as for a replica of invoice-app.
const conns = 10

// invoice is a job's arguments, and the body of its request.
type invoice struct {
	ID       string      `json:"id"`
	Value    json.Number `json:"value"`
	Currency string      `json:"currency"`
}

func (invoice) Kind() string { return "pay" }

type payer struct {
	river.WorkerDefaults[invoice]
	pool   *pgxpool.Pool
	client *http.Client
	url    string
}

// Work pays an invoice. River may retry it, because the provider accepts each payment only once.
func (p *payer) Work(ctx context.Context, job *river.Job[invoice]) error {
	body, err := json.Marshal(job.Args)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := p.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", response.StatusCode)
	}
	_, err = p.pool.Exec(ctx, `UPDATE invoices SET paid_at = clock_timestamp() WHERE id = $1`, job.Args.ID)
	return err
}

func main() {
	log.SetFlags(0)
	if len(os.Args) != 3 {
		log.Fatal("usage: river prepare INVOICES | river work WORKERS")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1], os.Args[2]); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, command, argument string) error {
	number, err := strconv.Atoi(argument)
	if err != nil {
		return err
	}
	config, err := pgxpool.ParseConfig(os.Getenv("DATABASE_URL"))
	if err != nil {
		return err
	}
	config.MaxConns = conns
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return err
	}
	defer pool.Close()
	if command == "prepare" {
		return prepare(ctx, pool, number)
	}
	return work(ctx, pool, number)
}

func prepare(ctx context.Context, pool *pgxpool.Pool, invoices int) error {
	driver := riverpgxv5.New(pool)
	migrator, err := rivermigrate.New(driver, nil)
	if err != nil {
		return err
	}
	if _, err := migrator.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return err
	}
	if _, err := pool.Exec(ctx, `CREATE TABLE invoices (
		id text PRIMARY KEY, amount_minor bigint NOT NULL, currency text NOT NULL, paid_at timestamptz)`); err != nil {
		return err
	}
	client, err := river.NewClient(driver, &river.Config{})
	if err != nil {
		return err
	}
	const chunk = 10_000
	for from := 0; from < invoices; from += chunk {
		var rows [][]any
		var jobs []river.InsertManyParams
		for n := from; n < min(from+chunk, invoices); n++ {
			minor := int64(1 + n%100_000)
			i := invoice{
				ID: fmt.Sprintf("invoice-%09d", n), Value: json.Number(fmt.Sprintf("%d.%02d", minor/100, minor%100)),
				Currency: "EUR",
			}
			rows = append(rows, []any{i.ID, minor, i.Currency})
			jobs = append(jobs, river.InsertManyParams{Args: i})
		}
		if _, err := pool.CopyFrom(ctx, pgx.Identifier{"invoices"}, []string{"id", "amount_minor", "currency"},
			pgx.CopyFromRows(rows)); err != nil {
			return err
		}
		if _, err := client.InsertManyFast(ctx, jobs); err != nil {
			return err
		}
	}
	return nil
}

func work(ctx context.Context, pool *pgxpool.Pool, workers int) error {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConns, transport.MaxIdleConnsPerHost = workers, workers
	known := river.NewWorkers()
	river.AddWorker(known, &payer{pool: pool, client: &http.Client{Transport: transport, Timeout: 30 * time.Second},
		url: os.Getenv("PAYMENT_PROVIDER_URL") + "/payments/pay"})
	client, err := river.NewClient(riverpgxv5.New(pool), &river.Config{
		Queues:  map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: workers}},
		Workers: known,
		// The same as in River's own benchmark: with the default of 100 ms, workers are idle most of the time.
		FetchCooldown:     2 * time.Millisecond,
		FetchPollInterval: 20 * time.Millisecond,
	})
	if err != nil {
		return err
	}
	if err := pool.Ping(ctx); err != nil {
		return err
	}
	fmt.Println("ready")
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return err
	}
	if err := client.Start(ctx); err != nil {
		return err
	}
	<-ctx.Done()
	return client.Stop(context.WithoutCancel(ctx))
}
