// Package historytest records what clients send to the services and see of them while things fail,
// and checks it: against both databases, and for an order in which it could have happened.
package historytest

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
)

// Rule is a rule that a violation breaks.
type Rule string

// The first three rules are what all others serve.
const (
	AtMostOnce    Rule = "I1 at most one payment of an invoice"
	PaidMeansPaid Rule = "I2 a paid invoice has a payment of its amount"
	NeverStuck    Rule = "I3 an unsettled invoice can be picked up within a lease"

	KeepsInvoices Rule = "an accepted invoice is kept as it was sent"
	OnlyVerdicts  Rule = "an invoice is rejected by the provider's verdict, and only by it"
	Honest200     Rule = "a pay-all that said 200 had settled its snapshot"
	SumsAgree     Rule = "what is marked paid is what was taken"
	ClearAnswers  Rule = "the API answers as it is documented"
	OneHistory    Rule = "what clients saw is what one after the other could have seen"
)

// Violation is a broken rule, as a check found it.
type Violation struct {
	Rule   Rule
	Detail string
}

func (v Violation) String() string { return string(v.Rule) + ": " + v.Detail }

// Amount is a sum of money, with its number in a response.
type Amount struct {
	Minor    int64
	Currency string
	Number   string
}

// decimals is the number of decimals of each currency.
var decimals = map[string]int{"EUR": 2, "GBP": 2, "DKK": 2, "JPY": 0, "KWD": 3}

// NewAmount returns a random amount; some are too large for a float.
func NewAmount(draw *rand.Rand) Amount {
	currency := slices.Sorted(maps.Keys(decimals))[draw.IntN(len(decimals))]
	a := Amount{Minor: 2 + draw.Int64N(1_000_000), Currency: currency}
	if draw.IntN(20) == 0 {
		a.Minor += 1<<53 + 1
	}
	digits := decimals[currency]
	text := fmt.Sprintf("%0*d", digits+1, a.Minor)
	a.Number = text[:len(text)-digits]
	if fraction := strings.TrimRight(text[len(text)-digits:], "0"); fraction != "" {
		a.Number += "." + fraction
	}
	return a
}

// Sent is an invoice that was sent to invoice-app.
type Sent struct {
	ID         string
	Amount     Amount
	Mismatched bool // already paid at the provider with another amount
}

// Encode returns the body that adds list. Some amounts are written differently.
func Encode(list []Sent, draw *rand.Rand) string {
	var objects []map[string]any
	for _, i := range list {
		number := i.Amount.Number
		switch draw.IntN(4) {
		case 0:
			number = fmt.Sprintf("%de-%d", i.Amount.Minor, decimals[i.Amount.Currency])
		case 1:
			if strings.Contains(number, ".") {
				number += "00"
			}
		}
		objects = append(objects,
			map[string]any{"InvoiceId": i.ID, "Value": json.Number(number), "Currency": i.Amount.Currency})
	}
	body, err := json.Marshal(objects)
	if err != nil {
		panic(err) // only for an invalid number
	}
	return string(body)
}

// Shown is an invoice in a response of invoice-app.
type Shown struct {
	InvoiceId string //nolint:revive,staticcheck // the API's spelling
	Value     json.RawMessage
	Currency  string
	IsPaid    bool
	Rejected  string
}

// Settled reports whether the invoice needs no more work.
func (s Shown) Settled() bool { return s.IsPaid || s.Rejected != "" }

// Sees returns what a reader of invoice-app sees in a response.
func (s Shown) Sees() Account {
	return Account{Known: true, Paid: s.IsPaid, Rejected: s.Rejected != ""}
}

// DecodeList returns the invoices in a list of invoice-app, by ID.
func DecodeList(text []byte) (map[string]Shown, error) {
	var all []Shown
	if err := json.Unmarshal(text, &all); err != nil {
		return nil, fmt.Errorf("the list of invoices: %w", err)
	}
	byID := map[string]Shown{}
	for _, i := range all {
		byID[i.InvoiceId] = i
	}
	if len(byID) < len(all) {
		return nil, fmt.Errorf("the list of invoices has %d of %d twice", len(all)-len(byID), len(all))
	}
	return byID, nil
}

// Book records what the test knows to be true, whatever the services report. Its methods may be
// called concurrently.
type Book struct {
	mu         sync.Mutex
	sent       map[string]Sent
	order      []Sent
	accepted   []Sent // those with a 2xx from invoice-app
	violations []Violation
}

// NewBook returns an empty book.
func NewBook() *Book { return &Book{sent: map[string]Sent{}} }

// Send records invoices that will be sent.
func (b *Book) Send(list []Sent) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range list {
		b.sent[s.ID] = s
	}
	b.order = append(b.order, list...)
}

// Latest returns the last invoice that was sent, or one of those before. There must be one.
func (b *Book) Latest(earlier int) Sent {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.order[max(0, len(b.order)-1-earlier)]
}

// Accept records that invoice-app has accepted invoices.
func (b *Book) Accept(list []Sent) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.accepted = append(b.accepted, list...)
}

// Snapshot returns the invoices accepted so far.
func (b *Book) Snapshot() []Sent {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.accepted)
}

// Violate records a violation.
func (b *Book) Violate(r Rule, format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.violations = append(b.violations, Violation{r, fmt.Sprintf(format, args...)})
}

// Violations returns the violations recorded so far.
func (b *Book) Violations() []Violation {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.violations)
}

// InvoiceRow and PaymentRow are rows of the databases.
type InvoiceRow struct {
	ID       string
	Minor    int64
	Currency string
	Paid     bool
	Rejected bool
}

// PaymentRow is a payment at the provider.
type PaymentRow struct {
	ID       string
	Minor    int64
	Currency string
}

// Check compares the book with both databases and with the list of invoice-app, when every invoice
// should be settled.
func (b *Book) Check(invoices []InvoiceRow, payments []PaymentRow, list map[string]Shown) {
	b.checkKept(invoices, list)
	b.checkPaid(invoices, payments)
	b.checkSums(invoices, payments)
}

// checkKept checks that exactly the accepted invoices exist, unchanged.
func (b *Book) checkKept(invoices []InvoiceRow, list map[string]Shown) {
	rows := map[string]InvoiceRow{}
	for _, i := range invoices {
		rows[i.ID] = i
		s, known := b.sent[i.ID]
		switch {
		case !known:
			b.Violate(KeepsInvoices, "%q was never sent", i.ID)
		case i.Minor != s.Amount.Minor || i.Currency != s.Amount.Currency:
			b.Violate(KeepsInvoices, "%q is %d %s, but was %d %s", i.ID, i.Minor, i.Currency, s.Amount.Minor, s.Amount.Currency)
		}
	}
	for _, s := range b.accepted {
		row, found := rows[s.ID]
		if !found {
			b.Violate(KeepsInvoices, "%q is lost", s.ID)
		}
		i, found := list[s.ID]
		switch {
		case !found:
			b.Violate(KeepsInvoices, "%q is not in the list", s.ID)
		case string(i.Value) != s.Amount.Number || i.Currency != s.Amount.Currency:
			b.Violate(KeepsInvoices, "%q is shown as %s %s, not as %s %s",
				s.ID, i.Value, i.Currency, s.Amount.Number, s.Amount.Currency)
		case i.IsPaid != row.Paid || (i.Rejected != "") != row.Rejected:
			b.Violate(ClearAnswers, "%q is shown as %+v, but stored as %+v", s.ID, i, row)
		}
	}
}

// checkPaid checks that an invoice is paid if and only if there is one payment of its amount, and
// that the others are rejected for a reason.
func (b *Book) checkPaid(invoices []InvoiceRow, payments []PaymentRow) {
	byID := map[string][]PaymentRow{}
	for _, p := range payments {
		byID[p.ID] = append(byID[p.ID], p)
		if _, known := b.sent[p.ID]; !known {
			b.Violate(AtMostOnce, "%q was paid, but never sent", p.ID)
		}
	}
	for id, paid := range byID {
		if len(paid) > 1 {
			b.Violate(AtMostOnce, "%q was paid %d times", id, len(paid))
		}
	}
	for _, i := range invoices {
		taken := slices.Contains(byID[i.ID], PaymentRow{i.ID, i.Minor, i.Currency})
		mismatched := b.sent[i.ID].Mismatched
		switch {
		case i.Paid && !taken:
			b.Violate(PaidMeansPaid, "%q is marked paid, but the payments are %v", i.ID, byID[i.ID])
		case i.Rejected && !mismatched:
			b.Violate(OnlyVerdicts, "%q is rejected, but the provider would take it", i.ID)
		case !i.Paid && !i.Rejected && mismatched:
			b.Violate(OnlyVerdicts, "%q is not rejected, but was paid with another amount", i.ID)
		case !i.Paid && !i.Rejected:
			b.Violate(NeverStuck, "%q is not settled; the payments are %v", i.ID, byID[i.ID])
		}
	}
}

// checkSums compares, for each currency, the invoices that invoice-app marks paid, the payments of
// the provider (except mismatched ones, which belong to no invoice), and the book.
func (b *Book) checkSums(invoices []InvoiceRow, payments []PaymentRow) {
	marked, taken, expected := sums{}, sums{}, sums{}
	for _, i := range invoices {
		if i.Paid {
			marked.add(i.Currency, i.Minor)
		}
		if s := b.sent[i.ID]; !s.Mismatched {
			expected.add(s.Amount.Currency, s.Amount.Minor)
		}
	}
	for _, p := range payments {
		if !b.sent[p.ID].Mismatched {
			taken.add(p.Currency, p.Minor)
		}
	}
	if marked.String() != taken.String() || taken.String() != expected.String() {
		b.Violate(SumsAgree, "marked paid: %s; taken: %s; expected: %s", marked, taken, expected)
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
