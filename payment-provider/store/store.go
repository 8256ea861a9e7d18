// Package store keeps payments in PostgreSQL or in an embedded SQLite file.
package store

import (
	"context"
	"embed"
	"errors"
	"io/fs"

	"example.com/invoices/internal/database"
	"example.com/invoices/payment-provider/payment"
)

//go:embed migrations
var files embed.FS

func migrations(engine string) fs.FS {
	sub, err := fs.Sub(files, "migrations/"+engine)
	if err != nil {
		panic(err) // only for a path that is no path
	}
	return sub
}

// Store is payment.Store with what a program needs around it.
type Store interface {
	payment.Store
	// Ping returns an error unless the database can be asked.
	Ping(ctx context.Context) error
	Close()
}

// Open opens the database at url. An SQLite file is created and migrated where
// needed; PostgreSQL must have been migrated, or it is database.ErrNotMigrated.
func Open(ctx context.Context, url string, maxConns int) (Store, error) {
	if database.IsSQLite(url) {
		return openSQLite(ctx, url)
	}
	return openPostgres(ctx, url, maxConns)
}

// Migrate brings the schema at url up to date and, in PostgreSQL, grants role
// (unless it is "") what the program needs and no more.
func Migrate(ctx context.Context, url, role string) error {
	if !database.IsSQLite(url) {
		return migratePostgres(ctx, url, role)
	}
	if role != "" {
		return errors.New("an SQLite file has no roles to grant to")
	}
	db, err := openSQLite(ctx, url)
	if err == nil {
		db.Close()
	}
	return err
}
