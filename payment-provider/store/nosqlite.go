//go:build nosqlite

package store

import (
	"context"

	"example.com/invoices/internal/database"
)

func openSQLite(context.Context, string) (Store, error) { return nil, database.ErrNoSQLite }
