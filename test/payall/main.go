// payall is the program behind test.sh: it pays all invoices of a running invoice-app, and checks that nothing but
// their state has changed.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"
)

const usage = `usage: ./test.sh [--wait DURATION]

Waits until invoice-app is ready, adds an invoice if none is unpaid, pays all
invoices, and checks that each is paid (rejected ones are listed separately),
that no amount or currency has changed, and that none is missing.

Standard output is the list of paid invoices, as JSON.

  --wait DURATION   how long to wait for invoice-app to be ready (default 1m)
  INVOICE_APP_URL   URL of invoice-app (default http://localhost:8081)
`

func main() {
	flags := flag.NewFlagSet("test.sh", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	wait := flags.Duration("wait", time.Minute, "")
	err := flags.Parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		fmt.Print(usage)
		return
	}
	if err == nil && flags.NArg() > 0 {
		err = fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "test.sh: %v\n%s", err, usage)
		os.Exit(2)
	}
	base := os.Getenv("INVOICE_APP_URL")
	if base == "" {
		base = "http://localhost:8081"
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, app{strings.TrimRight(base, "/")}, *wait, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "test.sh: FAILED:", err)
		os.Exit(1)
	}
}

// invoice is an invoice in the response to GET /invoices. Value is the text of the number, since a float would hide a
// changed digit.
type invoice struct {
	InvoiceId string //nolint:revive,staticcheck // the API's spelling
	Value     json.Number
	Currency  string
	IsPaid    bool
	Rejected  string `json:",omitempty"`
}

func (i invoice) open() bool { return !i.IsPaid && i.Rejected == "" }

func run(ctx context.Context, app app, wait time.Duration, out io.Writer) error {
	if err := app.awaitReady(ctx, wait); err != nil {
		return err
	}
	before, err := app.list(ctx)
	if err != nil {
		return err
	}
	open := 0
	for _, i := range before {
		if i.open() {
			open++
		}
	}
	if open == 0 {
		fresh := invoice{InvoiceId: "test-" + uuid.NewString(), Value: "131072.01", Currency: "EUR"}
		say("nothing is unpaid: adding %s over %s %s", fresh.InvoiceId, fresh.Value, fresh.Currency)
		if err := app.add(ctx, fresh); err != nil {
			return err
		}
		before = append(before, fresh)
		open = 1
	}
	say("paying %d unpaid of %d invoices", open, len(before))
	if err := app.payAll(ctx); err != nil {
		return err
	}
	after, err := app.list(ctx)
	if err != nil {
		return err
	}
	if err := compare(before, after); err != nil {
		return err
	}
	paid := []invoice{}
	for _, i := range after {
		if i.IsPaid {
			paid = append(paid, i)
		}
	}
	say("passed: %d invoices, %d of them paid", len(after), len(paid))
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(paid)
}

// compare returns an error if the list is wrong after a pay-all. Invoices that were added in the meantime may be
// unpaid.
func compare(before, after []invoice) error {
	now := make(map[string]invoice, len(after))
	for _, i := range after {
		if _, twice := now[i.InvoiceId]; twice {
			return fmt.Errorf("invoice %q is in the list twice", i.InvoiceId)
		}
		now[i.InvoiceId] = i
	}
	newlyPaid := 0
	for _, was := range before {
		is, there := now[was.InvoiceId]
		switch {
		case !there:
			return fmt.Errorf("invoice %q is missing", was.InvoiceId)
		case is.Value != was.Value || is.Currency != was.Currency:
			return fmt.Errorf("invoice %q was %s %s and is %s %s", was.InvoiceId, was.Value, was.Currency, is.Value, is.Currency)
		case was.IsPaid && !is.IsPaid:
			return fmt.Errorf("invoice %q was paid and is no longer", was.InvoiceId)
		case is.open():
			return fmt.Errorf("invoice %q is unpaid, although the pay-all succeeded", was.InvoiceId)
		case is.Rejected != "":
			say("rejected: invoice %q: %s", is.InvoiceId, is.Rejected)
		case !was.IsPaid:
			newlyPaid++
		}
	}
	if newlyPaid == 0 {
		return errors.New("no invoice was paid: all that were unpaid are rejected")
	}
	return nil
}

// app is a running invoice-app, seen from outside.
type app struct{ url string }

func (a app) awaitReady(ctx context.Context, wait time.Duration) error {
	say("waiting for %s to be ready, %s at most", a.url, wait)
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for {
		_, err := a.call(ctx, http.MethodGet, "/readyz", nil, http.StatusOK)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("invoice-app was not ready after %s: %w; is it running there? INVOICE_APP_URL sets its URL",
				wait, err)
		case <-time.After(500 * time.Millisecond):
		}
	}
}

func (a app) list(ctx context.Context) ([]invoice, error) {
	body, err := a.call(ctx, http.MethodGet, "/invoices", nil, http.StatusOK)
	if err != nil {
		return nil, err
	}
	var list []invoice
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, fmt.Errorf("GET /invoices did not return a list of invoices: %w", err)
	}
	return list, nil
}

func (a app) add(ctx context.Context, i invoice) error {
	body, err := json.Marshal(i)
	if err != nil {
		return err
	}
	_, err = a.call(ctx, http.MethodPost, "/invoices", body, http.StatusCreated)
	return err
}

func (a app) payAll(ctx context.Context) error {
	for {
		status, body, err := a.ask(ctx, http.MethodPost, "/invoices/pay", nil)
		switch {
		case err != nil:
			return err
		case status == http.StatusAccepted: // paying continues: the next call waits for its end
			say("%.200s", body)
		case status != http.StatusOK || string(body) != "{}":
			return fmt.Errorf("POST /invoices/pay returned %d %.500q instead of 200 {}", status, body)
		default:
			return nil
		}
	}
}

// call returns the body of the response, or an error unless its status is want.
func (a app) call(ctx context.Context, method, path string, body []byte, want int) ([]byte, error) {
	status, answer, err := a.ask(ctx, method, path, body)
	if err == nil && status != want {
		err = fmt.Errorf("%s %s returned %d %s: %.500s", method, path, status, http.StatusText(status), answer)
	}
	return answer, err
}

// ask returns the status and the body of the response.
func (a app) ask(ctx context.Context, method, path string, body []byte) (int, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Minute) // longer than any response
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, a.url+path, strings.NewReader(string(body)))
	if err != nil {
		return 0, nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	return response.StatusCode, answer, nil
}

func say(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
