package faults

import (
	"bytes"
	"context"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"example.com/invoices/internal/historytest"
)

// The rules that only this suite checks.
const (
	keepsPayments historytest.Rule = "a confirmed payment is kept"
	honest5xx     historytest.Rule = "a pay-all that failed says what remains"
	knownCaller   historytest.Rule = "a payment is taken for invoice-app, and for nobody else"
	soundProcess  historytest.Rule = "no process ends or panics by itself"
	inTime        historytest.Rule = "a request is answered within its documented deadline"
	staysReady    historytest.Rule = "a healthy replica is not out of service for another's fault"
	locksFree     historytest.Rule = "a lock is free soon after its holder stands still or is gone"
)

// violated returns the rules that list has a violation of.
func violated(list []historytest.Violation) []historytest.Rule {
	rules := map[historytest.Rule]bool{}
	for _, v := range list {
		rules[v.Rule] = true
	}
	return slices.Sorted(maps.Keys(rules))
}

// checkLeases checks that no claim ends later than lease from now.
func (s *storm) checkLeases(ctx context.Context, lease time.Duration) error {
	ids, err := query(ctx, s.server.URL(superuser, s.invoicing), pgx.RowTo[string], `
		SELECT id FROM invoices WHERE paid_at IS NULL AND rejected_reason IS NULL
		AND claimed_until > clock_timestamp() + $1`, lease)
	for _, id := range ids {
		s.Violate(historytest.NeverStuck, "%q is claimed for longer than %s", id, lease)
	}
	return err
}

// check compares the book with both databases and with the list of invoice-app, when every invoice
// should be settled. It returns all violations.
func (c *cluster) check(ctx context.Context, b *historytest.Book) ([]historytest.Violation, error) {
	invoices, err := query(ctx, c.server.URL(superuser, c.invoicing), pgx.RowToStructByPos[historytest.InvoiceRow],
		`SELECT id, amount_minor, currency, paid_at IS NOT NULL, rejected_reason IS NOT NULL FROM invoices`)
	if err != nil {
		return nil, err
	}
	payments, err := query(ctx, c.server.URL(superuser, c.paying), pgx.RowToStructByPos[historytest.PaymentRow],
		`SELECT id, amount_minor, currency FROM payments`)
	if err != nil {
		return nil, err
	}
	list, err := c.list(ctx)
	if err != nil {
		b.Violate(historytest.ClearAnswers, "%v", err)
	}
	b.Check(invoices, payments, list)
	checkConfirmed(b, payments, c.proxy.confirmations())
	violations := b.Violations()
	for _, r := range c.replicas() {
		violations = append(violations, r.violations()...)
	}
	return violations, nil
}

// checkConfirmed checks that payments that a provider has confirmed exist.
func checkConfirmed(b *historytest.Book, payments []historytest.PaymentRow, confirmed []string) {
	kept := map[string]bool{}
	for _, p := range payments {
		kept[p.ID] = true
	}
	for _, id := range confirmed {
		if !kept[id] {
			b.Violate(keepsPayments, "%q is lost", id)
		}
	}
}

// checkPayAll checks the response to a pay-all, except the truth of a 200.
func (s *storm) checkPayAll(status int, text []byte) {
	switch status {
	case 0, http.StatusOK, http.StatusAccepted: // 0: canceled by the test
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		if !bytes.Contains(text, []byte("remain")) {
			s.Violate(honest5xx, "%d %s", status, text)
		}
	default:
		s.Violate(historytest.ClearAnswers, "pay-all: %d %s", status, text)
	}
}

// query collects the rows of a statement, on its own connection.
func query[T any](ctx context.Context, url string, scan pgx.RowToFunc[T], statement string, args ...any) ([]T, error) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	rows, _ := conn.Query(ctx, statement, args...) // the error is returned below
	return pgx.CollectRows(rows, scan)
}
