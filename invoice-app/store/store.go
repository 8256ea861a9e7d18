// Package store keeps invoices in PostgreSQL or in an embedded SQLite file.
package store

import (
	"context"
	"embed"
	"iter"
	"sync"

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
}

// Open opens the database at url. An SQLite file is created and migrated where
// needed; PostgreSQL must have been migrated, or it is database.ErrNotMigrated.
func Open(ctx context.Context, url string, maxConns int) (Store, error) {
	if database.IsSQLite(url) {
		return openSQLite(ctx, url)
	}
	return openPostgres(ctx, url, maxConns)
}

const (
	// addChunk is the longest list that is added in one go. A longer one comes
	// from its source bit by bit, and no transaction may wait for that.
	addChunk = 1000
	// importGap is how far behind the last invoice a longer list is numbered:
	// invoices that become visible before it have room for a lower Seq.
	importGap = 1 << 32
)

// columns are what a query for invoices selects, and scan reads.
const columns = `seq, id, amount_minor, currency, paid_at IS NOT NULL, coalesce(rejected_reason, '')`

// paidCondition is the part of a query's WHERE that a partial index answers.
func paidCondition(paid *bool) string {
	switch {
	case paid == nil:
		return ""
	case *paid:
		return " AND paid_at IS NOT NULL"
	}
	return " AND paid_at IS NULL"
}

// chunks calls each with addChunk invoices at a time, and with what is left at
// the end, if anything or if there were none at all. index is the first one's
// place; the slice is used again. While each writes a chunk, the next one is
// read, so that neither the source nor the database waits for the other.
func chunks(invoices iter.Seq2[invoice.Invoice, error], each func(index int, chunk []invoice.Invoice, last bool) error) error {
	var (
		index         int
		chunk, before []invoice.Invoice
		writing       sync.WaitGroup // the one before
		failed        error          // once it is written
	)
	defer writing.Wait() // for whatever reason the reading ends
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
