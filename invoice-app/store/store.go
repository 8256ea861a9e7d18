// Package store keeps invoices in PostgreSQL or in an embedded SQLite file.
package store

import (
	"context"
	"embed"

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
	Grants: []string{
		`GRANT SELECT, INSERT (id, amount_minor, currency) ON invoices TO %s`,
		`GRANT UPDATE (paid_at, rejected_reason, claimed_until, attempts) ON invoices TO %s`,
	},
}

// Store is invoice.Store with what a program needs around it.
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
