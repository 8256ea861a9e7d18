package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/gofrs/flock"

	"example.com/invoices/internal/database"
	"example.com/invoices/invoice-app/invoice"
)

// Add adds a short list in one transaction. Other writers wait for it, because the file has only
// one lock, so a longer list is added as an import.
func (s sqlite) Add(ctx context.Context, invoices iter.Seq2[invoice.Invoice, error]) (added int, err error) {
	var importing *sqliteImport
	defer func() {
		if importing != nil {
			err = errors.Join(err, importing.close())
		}
	}()
	err = chunks(invoices, func(index int, chunk []invoice.Invoice, last bool) error {
		if index == 0 && last {
			return s.Write(ctx, func(tx *sql.Tx) error {
				next, err := lastVisible(ctx, tx)
				if err == nil {
					added, err = addRowsSQLite(ctx, tx, 0, chunk, next+1)
				}
				return err
			})
		}
		if index == 0 {
			if importing, err = s.beginImport(ctx); err != nil {
				return err
			}
		}
		n, err := importing.add(ctx, index, chunk)
		added += n
		if err == nil && last {
			err = s.exec(ctx, "finish the import", `DELETE FROM importing`, nil)
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	return added, nil
}

// lastVisible returns the Seq of the last invoice that others see.
func lastVisible(ctx context.Context, tx *sql.Tx) (seq int64, err error) {
	if err := tx.QueryRowContext(ctx, maxSQLite).Scan(&seq); err != nil {
		return 0, fmt.Errorf("add invoices: %w", err)
	}
	return seq, nil
}

// addRowsSQLite adds the new invoices of chunk, numbered from seq. index is the position of the
// chunk's first invoice in the whole list.
func addRowsSQLite(
	ctx context.Context, tx *sql.Tx, index int, chunk []invoice.Invoice, seq int64,
) (added int, err error) {
	for n, i := range chunk {
		isNew, err := addRow(ctx, tx, index+n, i, seq)
		if err != nil {
			return 0, err
		}
		if isNew {
			seq++
			added++
		}
	}
	return added, nil
}

// errImported means that an import in progress contains the invoice, and may still fail.
var errImported = fmt.Errorf("%w: an import in progress contains the invoice", database.ErrUnavailable)

func addRow(ctx context.Context, tx *sql.Tx, index int, i invoice.Invoice, seq int64) (isNew bool, err error) {
	var same, hidden bool
	err = tx.QueryRowContext(ctx, `
		SELECT amount_minor = ? AND currency = ?, NOT (`+visible+`) AND ? < (SELECT first FROM importing)
		FROM invoices WHERE id = ?`,
		i.Amount.Minor, i.Amount.Currency, seq, i.ID).Scan(&same, &hidden)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		_, err = tx.ExecContext(ctx, `INSERT INTO invoices (seq, id, amount_minor, currency) VALUES (?, ?, ?, ?)`,
			seq, i.ID, i.Amount.Minor, i.Amount.Currency)
		isNew = true
	case err == nil && hidden:
		return false, errImported
	case err == nil && !same:
		return false, &invoice.ConflictError{Index: index, ID: i.ID}
	}
	if err != nil {
		return false, fmt.Errorf("add invoice: %w", err)
	}
	return isNew, nil
}

// sqliteImport is a long list that is being added: in many small transactions, so that others can
// write in between, after all visible invoices, and hidden until the row in the table importing is
// deleted. If that never happens, the rest is deleted when the file is next opened, or by the next
// import.
type sqliteImport struct {
	sqlite
	lock *flock.Flock // held while the import lives
	next int64
}

// importLock returns the lock that an importer holds, in a file beside the database.
func (s sqlite) importLock(ctx context.Context) (*flock.Flock, error) {
	var path string
	if err := s.QueryRowContext(ctx, `SELECT file FROM pragma_database_list WHERE name = 'main'`).Scan(&path); err != nil {
		return nil, fmt.Errorf("query the file's name: %w", database.ClassifySQLite(err))
	}
	return flock.New(path + ".import"), nil
}

// beginImport waits until no other import is in progress.
func (s sqlite) beginImport(ctx context.Context) (*sqliteImport, error) {
	lock, err := s.importLock(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := lock.TryLockContext(ctx, 100*time.Millisecond); err != nil {
		return nil, fmt.Errorf("%w: wait for another import to end: %w", database.ErrUnavailable, err)
	}
	i := &sqliteImport{sqlite: s, lock: lock}
	err = s.discard(ctx)
	if err == nil {
		err = s.Write(ctx, func(tx *sql.Tx) error {
			last, err := lastVisible(ctx, tx)
			if err != nil {
				return err
			}
			i.next = last + importGap
			_, err = tx.ExecContext(ctx, `INSERT INTO importing (one, first, next) VALUES (1, ?1, ?1)`, i.next)
			return err
		})
	}
	if err != nil {
		return nil, errors.Join(err, lock.Unlock())
	}
	return i, nil
}

// add adds one chunk, and then leaves the file to others for as long as that took: they wait by
// retrying.
func (i *sqliteImport) add(ctx context.Context, index int, chunk []invoice.Invoice) (added int, err error) {
	began := time.Now()
	err = i.Write(ctx, func(tx *sql.Tx) error {
		added, err = addRowsSQLite(ctx, tx, index, chunk, i.next)
		if err == nil {
			_, err = tx.ExecContext(ctx, `UPDATE importing SET next = ?`, i.next+int64(added))
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	i.next += int64(added)
	time.Sleep(min(time.Since(began), 100*time.Millisecond))
	return added, nil
}

// close ends the import. What is not visible by then never will be.
func (i *sqliteImport) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return errors.Join(i.discard(ctx), i.lock.Unlock())
}

// discard deletes the rest of an import, from the end and a little at a time.
func (s sqlite) discard(ctx context.Context) error {
	for {
		var first, next int64
		err := s.QueryRowContext(ctx, `SELECT first, next FROM importing`).Scan(&first, &next)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("find the rest of an import: %w", database.ClassifySQLite(err))
		}
		from := max(first, next-addChunk)
		err = s.Write(ctx, func(tx *sql.Tx) error {
			statement, args := `DELETE FROM importing`, []any{}
			if from < next {
				if _, err := tx.ExecContext(ctx, `DELETE FROM invoices WHERE seq >= ? AND seq < ?`, from, next); err != nil {
					return err
				}
				statement, args = `UPDATE importing SET next = ?`, []any{from}
			}
			_, err := tx.ExecContext(ctx, statement, args...)
			return err
		})
		if err != nil {
			return fmt.Errorf("delete the rest of an import: %w", err)
		}
	}
}

// discardLeftovers deletes what a dead importer has left behind.
func (s sqlite) discardLeftovers(ctx context.Context) error {
	lock, err := s.importLock(ctx)
	if err != nil {
		return err
	}
	free, err := lock.TryLock()
	if err != nil || !free {
		return err // it is under way
	}
	return errors.Join(s.discard(ctx), lock.Unlock())
}
