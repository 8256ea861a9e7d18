// Package comparison compares what invoice-app and payment-provider have stored: every invoice with every payment, and
// the sums of each currency. It only reads.
package comparison

import (
	"context"
	"fmt"
	"math/big"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// Figures is how the two databases differ. While the services keep their promises, Violations is 0 and each currency's
// Difference is 0, also while invoices are being added and paid.
type Figures struct {
	Invoices int64 // all of them
	Paid     int64 // invoices that are marked paid
	Payments int64

	PaidWithoutPayment     int64 // invoices that are marked paid, but have no payment
	PaidTwice              int64 // payments with the ID of another one
	PaymentsWithoutInvoice int64
	AmountsDiffer          int64 // payments with an amount or a currency other than their invoice's

	// Payments whose invoice is not marked paid. A few are normal: invoice-app has not received the answer yet, or has
	// crashed before it could write it down, and asks again within a lease.
	NotMarked       int64
	OldestNotMarked time.Duration // age of the oldest of these payments

	Currencies map[string]*Sums
	Examples   []string // the first violations, with their IDs
}

// Sums are amounts of one currency, in its smallest unit.
type Sums struct {
	Paid      big.Int // of the invoices that are marked paid
	Taken     big.Int // of the payments
	NotMarked big.Int // of the payments whose invoice was not marked paid when it was read
}

// Difference is how much more was taken than the invoices account for.
func (s *Sums) Difference() *big.Int {
	accounted := new(big.Int).Add(&s.Paid, &s.NotMarked)
	return accounted.Sub(&s.Taken, accounted)
}

// Violations is the number of invoices and payments that contradict each other.
func (f *Figures) Violations() int64 {
	return f.PaidWithoutPayment + f.PaidTwice + f.PaymentsWithoutInvoice + f.AmountsDiffer
}

// Equal reports whether there are no violations and no difference in any currency.
func (f *Figures) Equal() bool {
	for _, sums := range f.Currencies {
		if sums.Difference().Sign() != 0 {
			return false
		}
	}
	return f.Violations() == 0
}

const (
	// Sorted by bytes, as Go compares strings, whatever the databases' collations are.
	invoicesSQL = `SELECT id, amount_minor, currency, paid_at IS NOT NULL FROM invoices ORDER BY id COLLATE "C"`
	paymentsSQL = `SELECT id, amount_minor, currency,
		extract(epoch FROM statement_timestamp() - created_at)::float8 FROM payments ORDER BY id COLLATE "C"`
	againSQL = `SELECT id, amount_minor, currency, paid_at IS NOT NULL FROM invoices WHERE id = ANY($1)`
)

const (
	againAtOnce  = 10_000 // invoices that are read again in one statement
	mostExamples = 10
)

type amount struct {
	minor    int64
	currency string
}

func (a amount) String() string { return fmt.Sprintf("%d %s", a.minor, a.currency) }

type invoice struct {
	id string
	amount
	paid bool
}

func scanInvoice(rows pgx.Rows, i *invoice) error {
	return rows.Scan(&i.id, &i.minor, &i.currency, &i.paid)
}

type payment struct {
	id string
	amount
	age float64 // seconds
}

func scanPayment(rows pgx.Rows, p *payment) error {
	return rows.Scan(&p.id, &p.minor, &p.currency, &p.age)
}

// Compare compares the databases at two DATABASE_URLs, whose roles need only SELECT. Both tables are read once, sorted
// by ID, and merged, so the memory that this takes does not grow with them. The databases sort them on disk: a million
// invoices and as many payments take seconds.
//
// Nothing is locked and nothing has to stand still. Three rules of the services make the result exact nevertheless:
// invoices and payments are never deleted or changed, a payment is committed before its invoice is marked paid, and an
// invoice is committed before it is paid. So the invoices are read first, as of one moment, and the payments as of a
// later moment: whatever was marked paid by then must have its payment. Payments whose invoice was not there yet, or
// not marked paid yet, are compared with their invoices again, as of a third moment.
//
// Both databases must be primaries: a standby that lags behind would show violations that do not exist.
func Compare(ctx context.Context, invoicesURL, paymentsURL string) (*Figures, error) {
	invoices, err := connect(ctx, "invoices", invoicesURL)
	if err != nil {
		return nil, err
	}
	defer invoices.Close(context.Background())
	again, err := connect(ctx, "invoices", invoicesURL)
	if err != nil {
		return nil, err
	}
	defer again.Close(context.Background())
	payments, err := connect(ctx, "payments", paymentsURL)
	if err != nil {
		return nil, err
	}
	defer payments.Close(context.Background())

	left, err := query(ctx, "read invoices", invoices, scanInvoice, invoicesSQL)
	if err != nil {
		return nil, err
	}
	// The first invoice has been read, so the moment of all of them has passed.
	right, err := query(ctx, "read payments", payments, scanPayment, paymentsSQL)
	if err != nil {
		return nil, err
	}
	c := comparer{Figures: Figures{Currencies: map[string]*Sums{}}, again: again}
	if err := c.merge(ctx, left, right); err != nil {
		return nil, err
	}
	return &c.Figures, c.lookAgain(ctx)
}

func connect(ctx context.Context, of, url string) (*pgx.Conn, error) {
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("the database of %s: %w", of, err)
	}
	config.DefaultQueryExecMode = pgx.QueryExecModeExec // nothing is prepared, so a pooler may be in between
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("connect to the database of %s: %w", of, err)
	}
	return conn, nil
}

// cursor is at one row of a query, or after the last one.
type cursor[Row any] struct {
	doing string
	rows  pgx.Rows
	scan  func(pgx.Rows, *Row) error
	row   Row
	ended bool
}

func query[Row any](
	ctx context.Context, doing string, conn *pgx.Conn, scan func(pgx.Rows, *Row) error, sql string, args ...any,
) (*cursor[Row], error) {
	rows, err := conn.Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	c := &cursor[Row]{doing: doing, rows: rows, scan: scan}
	return c, c.next()
}

func (c *cursor[Row]) next() error {
	c.ended = !c.rows.Next()
	err := c.rows.Err()
	if !c.ended {
		err = c.scan(c.rows, &c.row)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", c.doing, err)
	}
	return nil
}

type comparer struct {
	Figures
	again   *pgx.Conn
	waiting []payment // their invoices are read again
}

// merge goes through both tables, in the order of their IDs.
func (c *comparer) merge(ctx context.Context, invoices *cursor[invoice], payments *cursor[payment]) error {
	for !invoices.ended || !payments.ended {
		i, p := invoices.row, payments.row
		order := strings.Compare(i.id, p.id)
		if payments.ended {
			order = -1
		} else if invoices.ended {
			order = 1
		}
		if order <= 0 {
			c.Invoices++
			if i.paid {
				c.Paid++
				add(&c.sums(i.currency).Paid, i.minor)
			}
			if err := invoices.next(); err != nil {
				return err
			}
		}
		switch {
		case order < 0 && i.paid:
			c.PaidWithoutPayment++
			c.example("invoice %q is marked paid, but has no payment", i.id)
		case order == 0 && i.paid:
			c.match(i, p)
		case order >= 0:
			c.waiting = append(c.waiting, p)
		}
		if order < 0 {
			continue
		}
		if err := c.passPayment(payments); err != nil {
			return err
		}
		if len(c.waiting) >= againAtOnce {
			if err := c.lookAgain(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// passPayment counts the payment that the cursor is at and those with the same ID, and goes to the next one.
func (c *comparer) passPayment(payments *cursor[payment]) error {
	for first := payments.row; ; {
		c.Payments++
		add(&c.sums(payments.row.currency).Taken, payments.row.minor)
		if err := payments.next(); err != nil {
			return err
		}
		if payments.ended || payments.row.id != first.id {
			return nil
		}
		c.PaidTwice++
		c.example("payment %q is there twice", first.id)
	}
}

// lookAgain reads the invoices of the payments that wait for that.
func (c *comparer) lookAgain(ctx context.Context) error {
	ids := make([]string, len(c.waiting))
	for n, p := range c.waiting {
		ids[n] = p.id
	}
	found, err := query(ctx, "read invoices again", c.again, scanInvoice, againSQL, ids)
	if err != nil {
		return err
	}
	now := make(map[string]invoice, len(ids))
	for !found.ended {
		now[found.row.id] = found.row
		if err := found.next(); err != nil {
			return err
		}
	}
	for _, p := range c.waiting {
		i, exists := now[p.id]
		if !exists {
			c.PaymentsWithoutInvoice++
			c.example("payment %q has no invoice", p.id)
			continue
		}
		add(&c.sums(p.currency).NotMarked, p.minor)
		c.match(i, p)
		if !i.paid {
			c.NotMarked++
			c.OldestNotMarked = max(c.OldestNotMarked, time.Duration(p.age*float64(time.Second)))
		}
	}
	c.waiting = c.waiting[:0]
	return nil
}

// match compares the amounts of an invoice and its payment.
func (c *comparer) match(i invoice, p payment) {
	if i.amount != p.amount {
		c.AmountsDiffer++
		c.example("invoice %q is about %s, its payment about %s", i.id, i.amount, p.amount)
	}
}

func (c *comparer) example(format string, args ...any) {
	if len(c.Examples) < mostExamples {
		c.Examples = append(c.Examples, fmt.Sprintf(format, args...))
	}
}

func (c *comparer) sums(currency string) *Sums {
	sums := c.Currencies[currency]
	if sums == nil {
		sums = &Sums{}
		c.Currencies[currency] = sums
	}
	return sums
}

func add(sum *big.Int, minor int64) { sum.Add(sum, big.NewInt(minor)) }
