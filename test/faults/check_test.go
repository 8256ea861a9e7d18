package faults

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"math/big"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// rule is a rule that a violation breaks.
type rule string

// The first three rules are what all others serve.
const (
	atMostOnce    rule = "I1 at most one payment of an invoice"
	paidMeansPaid rule = "I2 a paid invoice has a payment of its amount"
	neverStuck    rule = "I3 an unsettled invoice can be picked up within a lease"

	keepsInvoices rule = "an accepted invoice is kept as it was sent"
	keepsPayments rule = "a confirmed payment is kept"
	onlyVerdicts  rule = "an invoice is rejected by the provider's verdict, and only by it"
	honest200     rule = "a pay-all that said 200 had settled its snapshot"
	honest5xx     rule = "a pay-all that failed says what remains"
	sumsAgree     rule = "what is marked paid is what was taken"
	knownCaller   rule = "a payment is taken for invoice-app, and for nobody else"
	soundProcess  rule = "no process ends or panics by itself"
	clearAnswers  rule = "the API answers as it is documented"
	oneHistory    rule = "what clients saw is what one after the other could have seen"
	inTime        rule = "a request is answered within its documented deadline"
	staysReady    rule = "a healthy replica is not out of service for another's fault"
	locksFree     rule = "a lock is free soon after its holder stands still or is gone"
)

// violation is a broken rule, as a check found it.
type violation struct {
	rule   rule
	detail string
}

func (v violation) String() string { return string(v.rule) + ": " + v.detail }

// violated returns the rules that list has a violation of.
func violated(list []violation) []rule {
	rules := map[rule]bool{}
	for _, v := range list {
		rules[v.rule] = true
	}
	return slices.Sorted(maps.Keys(rules))
}

// amount is a sum of money, with its number in a response.
type amount struct {
	minor    int64
	currency string
	number   string
}

// sent is an invoice that was sent to invoice-app.
type sent struct {
	id         string
	amount     amount
	mismatched bool // already paid at the provider with another amount
}

// book records what the test knows to be true, whatever the services report.
type book struct {
	mu         sync.Mutex
	sent       map[string]sent
	order      []sent
	accepted   []sent // those with a 2xx from invoice-app
	violations []violation
}

func (b *book) send(list []sent) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range list {
		b.sent[s.id] = s
	}
	b.order = append(b.order, list...)
}

// latest returns the last invoice that was sent, or one of those before.
func (b *book) latest(earlier int) sent {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.order[max(0, len(b.order)-1-earlier)]
}

func (b *book) accept(list []sent) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.accepted = append(b.accepted, list...)
}

// snapshot returns the invoices accepted so far.
func (b *book) snapshot() []sent {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.accepted)
}

func (b *book) violate(r rule, format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.violations = append(b.violations, violation{r, fmt.Sprintf(format, args...)})
}

// checkLeases checks that no claim ends later than lease from now.
func (b *book) checkLeases(ctx context.Context, c *cluster, lease time.Duration) error {
	ids, err := query(ctx, c.server.URL(superuser, c.invoicing), pgx.RowTo[string], `
		SELECT id FROM invoices WHERE paid_at IS NULL AND rejected_reason IS NULL
		AND claimed_until > clock_timestamp() + $1`, lease)
	for _, id := range ids {
		b.violate(neverStuck, "%q is claimed for longer than %s", id, lease)
	}
	return err
}

// invoiceRow and paymentRow are rows of the databases.
type invoiceRow struct {
	ID       string
	Minor    int64
	Currency string
	Paid     bool
	Rejected bool
}

type paymentRow struct {
	ID       string
	Minor    int64
	Currency string
}

// check compares the book with both databases and with the list of invoice-app, when every invoice
// should be settled.
func (b *book) check(ctx context.Context, c *cluster) error {
	invoices, err := query(ctx, c.server.URL(superuser, c.invoicing), pgx.RowToStructByPos[invoiceRow],
		`SELECT id, amount_minor, currency, paid_at IS NOT NULL, rejected_reason IS NOT NULL FROM invoices`)
	if err != nil {
		return err
	}
	payments, err := query(ctx, c.server.URL(superuser, c.paying), pgx.RowToStructByPos[paymentRow],
		`SELECT id, amount_minor, currency FROM payments`)
	if err != nil {
		return err
	}
	list, err := c.list(ctx)
	if err != nil {
		b.violate(clearAnswers, "%v", err)
	}
	b.checkKept(invoices, list)
	b.checkPaid(invoices, payments)
	b.checkConfirmed(payments, c.proxy.confirmations())
	b.checkSums(invoices, payments)
	for _, r := range c.replicas() {
		b.violations = append(b.violations, r.violations()...)
	}
	return nil
}

// checkKept checks that exactly the accepted invoices exist, unchanged.
func (b *book) checkKept(invoices []invoiceRow, list map[string]shown) {
	rows := map[string]invoiceRow{}
	for _, i := range invoices {
		rows[i.ID] = i
		s, known := b.sent[i.ID]
		switch {
		case !known:
			b.violate(keepsInvoices, "%q was never sent", i.ID)
		case i.Minor != s.amount.minor || i.Currency != s.amount.currency:
			b.violate(keepsInvoices, "%q is %d %s, but was %d %s", i.ID, i.Minor, i.Currency, s.amount.minor, s.amount.currency)
		}
	}
	for _, s := range b.accepted {
		row, found := rows[s.id]
		if !found {
			b.violate(keepsInvoices, "%q is lost", s.id)
		}
		i, found := list[s.id]
		switch {
		case !found:
			b.violate(keepsInvoices, "%q is not in the list", s.id)
		case string(i.Value) != s.amount.number || i.Currency != s.amount.currency:
			b.violate(keepsInvoices, "%q is shown as %s %s, not as %s %s",
				s.id, i.Value, i.Currency, s.amount.number, s.amount.currency)
		case i.IsPaid != row.Paid || (i.Rejected != "") != row.Rejected:
			b.violate(clearAnswers, "%q is shown as %+v, but stored as %+v", s.id, i, row)
		}
	}
}

// checkPaid checks that an invoice is paid if and only if there is one payment of its amount, and
// that the others are rejected for a reason.
func (b *book) checkPaid(invoices []invoiceRow, payments []paymentRow) {
	byID := map[string][]paymentRow{}
	for _, p := range payments {
		byID[p.ID] = append(byID[p.ID], p)
		if _, known := b.sent[p.ID]; !known {
			b.violate(atMostOnce, "%q was paid, but never sent", p.ID)
		}
	}
	for id, paid := range byID {
		if len(paid) > 1 {
			b.violate(atMostOnce, "%q was paid %d times", id, len(paid))
		}
	}
	for _, i := range invoices {
		taken := slices.Contains(byID[i.ID], paymentRow{i.ID, i.Minor, i.Currency})
		mismatched := b.sent[i.ID].mismatched
		switch {
		case i.Paid && !taken:
			b.violate(paidMeansPaid, "%q is marked paid, but the payments are %v", i.ID, byID[i.ID])
		case i.Rejected && !mismatched:
			b.violate(onlyVerdicts, "%q is rejected, but the provider would take it", i.ID)
		case !i.Paid && !i.Rejected && mismatched:
			b.violate(onlyVerdicts, "%q is not rejected, but was paid with another amount", i.ID)
		case !i.Paid && !i.Rejected:
			b.violate(neverStuck, "%q is not settled; the payments are %v", i.ID, byID[i.ID])
		}
	}
}

// checkConfirmed checks that payments that a provider has confirmed exist.
func (b *book) checkConfirmed(payments []paymentRow, confirmed []string) {
	kept := map[string]bool{}
	for _, p := range payments {
		kept[p.ID] = true
	}
	for _, id := range confirmed {
		if !kept[id] {
			b.violate(keepsPayments, "%q is lost", id)
		}
	}
}

// checkSums compares, for each currency, the invoices that invoice-app marks paid, the payments of
// the provider (except mismatched ones, which belong to no invoice), and the book.
func (b *book) checkSums(invoices []invoiceRow, payments []paymentRow) {
	marked, taken, expected := sums{}, sums{}, sums{}
	for _, i := range invoices {
		if i.Paid {
			marked.add(i.Currency, i.Minor)
		}
		if s := b.sent[i.ID]; !s.mismatched {
			expected.add(s.amount.currency, s.amount.minor)
		}
	}
	for _, p := range payments {
		if !b.sent[p.ID].mismatched {
			taken.add(p.Currency, p.Minor)
		}
	}
	if marked.String() != taken.String() || taken.String() != expected.String() {
		b.violate(sumsAgree, "marked paid: %s; taken: %s; expected: %s", marked, taken, expected)
	}
}

// sums are amounts in minor units of any size, by currency.
type sums map[string]*big.Int

func (s sums) add(currency string, minor int64) {
	if s[currency] == nil {
		s[currency] = new(big.Int)
	}
	s[currency].Add(s[currency], big.NewInt(minor))
}

func (s sums) String() string { return fmt.Sprint(map[string]*big.Int(s)) } // sorted by key

// checkPayAll checks the response to a pay-all, except the truth of a 200.
func (b *book) checkPayAll(status int, text []byte) {
	switch status {
	case 0, http.StatusOK, http.StatusAccepted: // 0: canceled by the test
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		if !bytes.Contains(text, []byte("remain")) {
			b.violate(honest5xx, "%d %s", status, text)
		}
	default:
		b.violate(clearAnswers, "pay-all: %d %s", status, text)
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
