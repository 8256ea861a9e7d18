//go:build nosqlite

package database

import (
	"context"
	"database/sql"
)

// File is never opened in a program without SQLite.
type File struct{ *sql.DB }

func (s Schema) OpenSQLite(context.Context, string) (File, error) { return File{}, ErrNoSQLite }
func (f File) Write(context.Context, func(*sql.Tx) error) error   { return ErrNoSQLite }
func (f File) Ping(context.Context) error                         { return ErrNoSQLite }
func (f File) Excess(context.Context) ([]string, error)           { return nil, ErrNoSQLite }
func (f File) Close()                                             {}
func ClassifySQLite(err error) error                              { return err }
