// Package store keeps payments in PostgreSQL or in an embedded SQLite file.
package store

import (
	"context"
	"embed"

	"example.com/invoices/internal/database"
	"example.com/invoices/payment-provider/payment"
)

//go:embed migrations
var files embed.FS

// Schema is the schema of this service.
var Schema = database.Schema{
	Files: files,
	// No UPDATE and no DELETE: what was taken stays taken.
	Grants: []database.Grant{{Privilege: "SELECT", On: "payments"}, {Privilege: "INSERT", On: "payments"}},
}

// Store is a payment.Store that can be opened, checked and closed.
type Store interface {
	payment.Store
	database.Connection
}

// Open opens the database at url. An SQLite file is created and migrated if necessary; PostgreSQL
// must have been migrated, or the error is database.ErrNotMigrated.
func Open(ctx context.Context, url string, maxConns int) (Store, error) {
	if database.IsSQLite(url) {
		return openSQLite(ctx, url)
	}
	return openPostgres(ctx, url, maxConns)
}
