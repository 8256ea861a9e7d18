package comparison

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/internal/postgrestest"
	invoices "example.com/invoices/invoice-app/store"
	payments "example.com/invoices/payment-provider/store"
)

// role may only read, as the platform's may.
const role = "auditor"

// pair is two databases with the services' schemas.
type pair struct {
	*testing.T
	server             *postgrestest.Server
	invoices, payments string // their names
}

// TestCompare runs all tests on one server, because starting one takes long. Each finds empty databases.
func TestCompare(t *testing.T) {
	p := newPair(t)
	for name, test := range map[string]func(pair){
		"violations": violations, "nothing stored": nothingStored, "large sums": largeSums, "collations": collations,
		"many not marked": manyNotMarked, "while paying": whilePaying, "errors": failures,
	} {
		t.Run(name, func(t *testing.T) { test(p.emptied(t)) })
	}
}

func newPair(t *testing.T) pair {
	server := postgrestest.Start(t)
	server.Exec("postgres", "CREATE ROLE "+role+" LOGIN IN ROLE pg_read_all_data")
	p := pair{t, server, "i", "p"}
	server.CreateDatabase(p.invoices)
	server.CreateDatabase(p.payments)
	superuser := func(database string) string { return server.URL(postgrestest.Superuser, database) }
	require.NoError(t, invoices.Schema.Migrate(t.Context(), superuser(p.invoices), ""))
	require.NoError(t, payments.Schema.Migrate(t.Context(), superuser(p.payments), ""))
	return p
}

// emptied returns the pair for another test.
func (p pair) emptied(t *testing.T) pair {
	p.T = t
	p.server.Exec(p.invoices, "TRUNCATE invoices")
	p.server.Exec(p.payments, "TRUNCATE payments")
	return p
}

func (p pair) compare() *Figures {
	p.Helper()
	figures, err := Compare(p.Context(), p.server.URL(role, p.invoices), p.server.URL(role, p.payments))
	require.NoError(p, err)
	return figures
}

// fill adds the invoices 1 to count of some euros, and marks the first ones paid, with their payments.
func (p pair) fill(count, paid int) {
	p.Helper()
	p.server.Exec(p.invoices, fmt.Sprintf(`INSERT INTO invoices (id, amount_minor, currency, paid_at)
		SELECT 'I-' || n, n, 'EUR', CASE WHEN n <= %d THEN now() END FROM generate_series(1, %d) n`, paid, count))
	p.server.Exec(p.payments, fmt.Sprintf(`INSERT INTO payments (id, amount_minor, currency)
		SELECT 'I-' || n, n, 'EUR' FROM generate_series(1, %d) n`, paid))
}

func violations(p pair) {
	for name, test := range map[string]struct {
		invoices, payments string // statements
		want               Figures
		difference         string // in euros' cents
		example            string
	}{
		"none": {
			want: Figures{Invoices: 100, Paid: 50, Payments: 50}, difference: "0",
		},
		"paid without payment": {
			payments: `DELETE FROM payments WHERE id = 'I-7'`,
			want:     Figures{Invoices: 100, Paid: 50, Payments: 49, PaidWithoutPayment: 1}, difference: "-7",
			example: `invoice "I-7" is marked paid, but has no payment`,
		},
		"paid twice": {
			payments: `ALTER TABLE payments DROP CONSTRAINT payments_pkey;
				INSERT INTO payments (id, amount_minor, currency) VALUES ('I-7', 7, 'EUR'), ('I-7', 7, 'EUR')`,
			want: Figures{Invoices: 100, Paid: 50, Payments: 52, PaidTwice: 2}, difference: "14",
			example: `payment "I-7" is there twice`,
		},
		"payment without invoice": {
			invoices: `DELETE FROM invoices WHERE id = 'I-7'`,
			want:     Figures{Invoices: 99, Paid: 49, Payments: 50, PaymentsWithoutInvoice: 1}, difference: "7",
			example: `payment "I-7" has no invoice`,
		},
		"other amount": {
			payments: `UPDATE payments SET amount_minor = 8 WHERE id = 'I-7'`,
			want:     Figures{Invoices: 100, Paid: 50, Payments: 50, AmountsDiffer: 1}, difference: "1",
			example: `invoice "I-7" is about 7 EUR, its payment about 8 EUR`,
		},
		"other currency": {
			payments: `UPDATE payments SET currency = 'DKK' WHERE id = 'I-7'`,
			want:     Figures{Invoices: 100, Paid: 50, Payments: 50, AmountsDiffer: 1}, difference: "-7",
			example: `invoice "I-7" is about 7 EUR, its payment about 7 DKK`,
		},
		"other amount, not marked": {
			payments: `INSERT INTO payments VALUES ('I-60', 1, 'EUR', now() - interval '1 hour')`,
			want: Figures{Invoices: 100, Paid: 50, Payments: 51, AmountsDiffer: 1, NotMarked: 1,
				OldestNotMarked: time.Hour}, difference: "0",
			example: `invoice "I-60" is about 60 EUR, its payment about 1 EUR`,
		},
		"not marked": { // the answer is on its way, or its reader has crashed
			payments: `INSERT INTO payments VALUES ('I-60', 60, 'EUR', now() - interval '1 minute'),
				('I-61', 61, 'EUR', now() - interval '1 second')`,
			want:       Figures{Invoices: 100, Paid: 50, Payments: 52, NotMarked: 2, OldestNotMarked: time.Minute},
			difference: "0",
		},
		"rejected, but paid": {
			invoices:   `UPDATE invoices SET rejected_reason = 'no' WHERE id = 'I-60'`,
			payments:   `INSERT INTO payments VALUES ('I-60', 60, 'EUR', now() - interval '1 minute')`,
			want:       Figures{Invoices: 100, Paid: 50, Payments: 51, NotMarked: 1, OldestNotMarked: time.Minute},
			difference: "0",
		},
		"all payments lost": {
			payments: `TRUNCATE payments`,
			want:     Figures{Invoices: 100, Paid: 50, PaidWithoutPayment: 50}, difference: "-1275",
			example: `invoice "I-1" is marked paid, but has no payment`,
		},
		"all invoices lost": {
			invoices: `TRUNCATE invoices`,
			want:     Figures{Payments: 50, PaymentsWithoutInvoice: 50}, difference: "1275",
			example: `payment "I-1" has no invoice`,
		},
	} {
		p.Run(name, func(t *testing.T) {
			p := p.emptied(t)
			p.fill(100, 50)
			p.server.Exec(p.invoices, test.invoices)
			p.server.Exec(p.payments, test.payments)
			got := p.compare()
			p.server.Exec(p.payments, `TRUNCATE payments; ALTER TABLE payments DROP CONSTRAINT IF EXISTS payments_pkey;
				ALTER TABLE payments ADD PRIMARY KEY (id)`)
			assert.Equal(t, test.difference, got.Currencies["EUR"].Difference().String())
			assert.Equal(t, test.example == "", got.Violations() == 0)
			assert.Equal(t, test.example == "" && test.difference == "0", got.Equal())
			if test.example == "" {
				assert.Empty(t, got.Examples)
			} else {
				assert.Equal(t, test.example, got.Examples[0])
				assert.LessOrEqual(t, len(got.Examples), mostExamples)
			}
			assert.InDelta(t, test.want.OldestNotMarked.Seconds(), got.OldestNotMarked.Seconds(), 30)
			got.Currencies, got.Examples, got.OldestNotMarked, test.want.OldestNotMarked = nil, nil, 0, 0
			assert.Equal(t, test.want, *got)
		})
	}
}

func nothingStored(p pair) {
	assert.Equal(p, Figures{Currencies: map[string]*Sums{}}, *p.compare())
}

// Sums are exact, however large.
func largeSums(p pair) {
	for _, sql := range []string{
		`INSERT INTO invoices (id, amount_minor, currency, paid_at) SELECT n, 9223372036854775807, 'JPY', now()`,
		`INSERT INTO payments (id, amount_minor, currency) SELECT n, 9223372036854775807, 'JPY'`,
	} {
		database := p.invoices
		if strings.Contains(sql, "payments") {
			database = p.payments
		}
		p.server.Exec(database, sql+` FROM generate_series(1, 3) n`)
	}
	got := p.compare()
	assert.True(p, got.Equal())
	assert.Equal(p, "27670116110564327421", got.Currencies["JPY"].Paid.String())
}

// IDs are merged in the same order whatever the databases' collations are.
func collations(p pair) {
	p.server.Exec(p.payments, `CREATE COLLATION other (provider = icu, locale = 'da', deterministic = false);
		ALTER TABLE payments ALTER COLUMN id TYPE text COLLATE other`)
	ids := `unnest(ARRAY['aa', 'ab', 'AB', 'z', 'å', 'Ø-1', 'a b', 'a-b', 'a_b', '1', '10', '9'])`
	p.server.Exec(p.invoices, `INSERT INTO invoices (id, amount_minor, currency, paid_at)
		SELECT id, 1, 'EUR', now() FROM `+ids+` id`)
	p.server.Exec(p.payments, `INSERT INTO payments (id, amount_minor, currency) SELECT id, 1, 'EUR' FROM `+ids+` id`)
	got := p.compare()
	p.server.Exec(p.payments, `ALTER TABLE payments ALTER COLUMN id TYPE text COLLATE "default"`)
	assert.True(p, got.Equal(), got.Examples)
	assert.EqualValues(p, 12, got.Payments)
}

// More payments than are looked at again in one statement.
func manyNotMarked(p pair) {
	count := 2*againAtOnce + 1
	p.fill(count, count)
	p.server.Exec(p.invoices, `UPDATE invoices SET paid_at = NULL; DELETE FROM invoices WHERE id = 'I-15000'`)
	got := p.compare()
	assert.EqualValues(p, count-1, got.NotMarked)
	assert.EqualValues(p, 1, got.PaymentsWithoutInvoice)
}

// While invoices are added and paid, no comparison sees a violation.
func whilePaying(p pair) {
	p.fill(20_000, 10_000)
	stop := make(chan struct{})
	var payers sync.WaitGroup
	var paid atomic.Int64
	for payer := range 4 {
		payers.Go(func() {
			ctx := context.Background()
			ours, err := pgx.Connect(ctx, p.server.URL(postgrestest.Superuser, p.invoices))
			require.NoError(p, err)
			defer ours.Close(ctx)
			theirs, err := pgx.Connect(ctx, p.server.URL(postgrestest.Superuser, p.payments))
			require.NoError(p, err)
			defer theirs.Close(ctx)
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				id := fmt.Sprintf("new-%d-%d", payer, n)
				_, err := ours.Exec(ctx, `INSERT INTO invoices (id, amount_minor, currency) VALUES ($1, 5, 'EUR')`, id)
				assert.NoError(p, err)
				_, err = theirs.Exec(ctx, `INSERT INTO payments (id, amount_minor, currency) VALUES ($1, 5, 'EUR')`, id)
				assert.NoError(p, err)
				_, err = ours.Exec(ctx, `UPDATE invoices SET paid_at = clock_timestamp() WHERE id = $1`, id)
				assert.NoError(p, err)
				paid.Add(1)
				time.Sleep(time.Millisecond) // leaves the comparisons some time on a busy machine
			}
		})
	}
	defer payers.Wait()
	defer close(stop)
	for range 10 {
		before := paid.Load()
		got := p.compare()
		require.True(p, got.Equal(), got.Examples)
		require.GreaterOrEqual(p, got.Payments, 10_000+before, "everything from before is in it")
		require.LessOrEqual(p, got.NotMarked, int64(4))
	}
	assert.Positive(p, paid.Load())
}

func failures(p pair) {
	url := p.server.URL(role, p.invoices)
	_, err := Compare(p.Context(), "postgres://%", url)
	require.ErrorContains(p, err, "the database of invoices: ")
	_, err = Compare(p.Context(), url, "postgres://127.0.0.1:1/nothing")
	require.ErrorContains(p, err, "connect to the database of payments: ")
	_, err = Compare(p.Context(), url, url)
	require.ErrorContains(p, err, "read payments: ")

	p.fill(1000, 1000)
	ctx, cancel := context.WithCancel(p.Context())
	cancel()
	_, err = Compare(ctx, url, p.server.URL(role, p.payments))
	require.ErrorIs(p, err, context.Canceled)
}
