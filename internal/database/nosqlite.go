//go:build nosqlite

package database

import (
	"context"
	"database/sql"
)

// In a program without SQLite nothing gets past OpenSQLite.
func (s Schema) OpenSQLite(context.Context, string) (*sql.DB, error) { return nil, ErrNoSQLite }
func PingSQLite(context.Context, *sql.DB) error                      { return ErrNoSQLite }
func SQLite(err error) error                                         { return err }
