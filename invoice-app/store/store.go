// Package store keeps invoices in PostgreSQL or in an embedded SQLite file.
package store

import (
	"context"
	"embed"
	"iter"
	"math/big"
	"sync"
	"time"

	"example.com/invoices/internal/database"
	"example.com/invoices/internal/money"
	"example.com/invoices/invoice-app/invoice"
)

//go:embed migrations
var files embed.FS

// Schema is this service's.
var Schema = database.Schema{
	Files: files,
	// Only the bookkeeping may be updated: whatever the program does, an
	// invoice's id, amount and currency stay what they were.
	Grants: []database.Grant{
		{Privilege: "SELECT", On: "invoices"},
		{Privilege: "INSERT", On: "invoices", Columns: []string{"seq", "id", "amount_minor", "currency"}},
		{Privilege: "UPDATE", On: "invoices", Columns: []string{"paid_at", "rejected_reason", "claimed_until", "attempts"}},
		{Privilege: "SELECT", On: "invoices_seq_seq"},
		{Privilege: "UPDATE", On: "invoices_seq_seq"},
		{Privilege: "SELECT", On: "staged_invoices"},
		{Privilege: "INSERT", On: "staged_invoices"},
		{Privilege: "DELETE", On: "staged_invoices"},
	},
}

// Store is an invoice.Store that a program can open, watch and close.
type Store interface {
	invoice.Store
	database.Connection
	// Backlog returns the number of invoices that are neither paid nor rejected, but at most 500,000, and the age of
	// the oldest one, or 0.
	Backlog(ctx context.Context) (unpaid int64, oldest time.Duration, err error)
}

// Open opens the database at url. An SQLite file is created and migrated if necessary; PostgreSQL
// must have been migrated, or the error is database.ErrNotMigrated.
func Open(ctx context.Context, url string, maxConns int) (Store, error) {
	if database.IsSQLite(url) {
		return openSQLite(ctx, url)
	}
	return openPostgres(ctx, url, maxConns)
}

const (
	// addChunk is the longest list that is added in one go. A longer one arrives bit by bit, and no
	// transaction must wait for that.
	addChunk = 1000
	// importGap is the distance between the last invoice and the first of a longer list: invoices
	// that become visible earlier have room for a lower Seq.
	importGap = 1 << 32
)

// columns are the columns that scan reads.
const columns = `seq, id, amount_minor, currency, paid_at IS NOT NULL, coalesce(rejected_reason, '')`

// condition returns the part of a query's WHERE that a partial index covers.
func condition(f invoice.Filter) (where string) {
	if f.Paid != nil {
		where += " AND paid_at IS " + map[bool]string{true: "NOT NULL", false: "NULL"}[*f.Paid]
	}
	if f.Rejected != nil {
		where += " AND rejected_reason IS " + map[bool]string{true: "NOT NULL", false: "NULL"}[*f.Rejected]
	}
	return where
}

// sumsOf adds up the rows of query, which selects from invoices. Amounts are added in two parts,
// each of which fits into 64 bits for any possible number of rows; scanSum combines them.
func sumsOf(query string) string {
	return `
		SELECT currency, paid_at IS NOT NULL, rejected_reason IS NOT NULL, count(*),
			CAST(sum(amount_minor / 1000000000) AS bigint), CAST(sum(amount_minor % 1000000000) AS bigint), max(seq)
		FROM (` + query + `) AS part
		GROUP BY currency, paid_at IS NOT NULL, rejected_reason IS NOT NULL`
}

// sumColumns are the columns that the query of sumsOf must select.
const sumColumns = `seq, currency, amount_minor, paid_at, rejected_reason`

// summed is a row of sumsOf.
type summed struct {
	invoice.Sum
	last int64
}

func scanSum(row interface{ Scan(into ...any) error }) (s summed, err error) {
	var high, low int64
	if err := row.Scan(&s.Currency, &s.Paid, &s.Rejected, &s.Count, &high, &low, &s.last); err != nil {
		return s, err
	}
	s.Minor = big.NewInt(high)
	s.Minor.Mul(s.Minor, big.NewInt(1_000_000_000)).Add(s.Minor, big.NewInt(low))
	return s, nil
}

// sums returns the sums of rows, and the last Seq of all.
func sums(rows []summed) (list []invoice.Sum, last int64) {
	for _, r := range rows {
		list = append(list, r.Sum)
		last = max(last, r.last)
	}
	return list, last
}

// chunks calls each with addChunk invoices at a time, and with the rest at the end, which may be
// empty only if there are no invoices at all. index is the position of the first invoice; the
// slice is reused. While each writes a chunk, the next one is read, so that neither the source nor
// the database waits for the other.
func chunks(
	invoices iter.Seq2[invoice.Invoice, error], each func(index int, chunk []invoice.Invoice, last bool) error,
) error {
	var (
		index         int
		chunk, before []invoice.Invoice
		writing       sync.WaitGroup // of the previous chunk
		failed        error          // after writing it
	)
	defer writing.Wait() // however the reading ends
	for i, err := range invoices {
		if err != nil {
			return err
		}
		if len(chunk) == addChunk {
			if writing.Wait(); failed != nil {
				return failed
			}
			full, at := chunk, index
			writing.Go(func() { failed = each(at, full, false) })
			index += len(chunk)
			chunk, before = before[:0], chunk
		}
		chunk = append(chunk, i)
	}
	if writing.Wait(); failed != nil {
		return failed
	}
	return each(index, chunk, true)
}

// Seed adds the first three invoices to a store that has none.
func Seed(ctx context.Context, s invoice.Store) error {
	last, err := s.LastSeq(ctx)
	if err != nil || last > 0 {
		return err
	}
	_, err = s.Add(ctx, invoice.All([]invoice.Invoice{
		{ID: "I1", Amount: money.Amount{Minor: 1215, Currency: "EUR"}},
		{ID: "I2", Amount: money.Amount{Minor: 1025, Currency: "GBP"}},
		{ID: "I3", Amount: money.Amount{Minor: 6613, Currency: "DKK"}},
	}))
	return err
}
