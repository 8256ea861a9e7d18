// Package importer reads invoices from files: CSV with a header line, or JSON
// lines as POST /invoices takes them.
package importer

import (
	"bufio"
	"bytes"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"strings"

	"example.com/invoices/invoice-app/api"
	"example.com/invoices/invoice-app/invoice"
)

// maxLine is the longest line, in bytes, that an invoice may take.
const maxLine = 1 << 20

// Import adds the invoices of the file at path, or of standard input for "-",
// to store: all of them, or none and an error that begins with the file's name
// and the line's number. It reads the file twice, line by line: first to check
// every line, then to add them, so that the database never waits for the file's
// source. added leaves out those that were there already.
func Import(ctx context.Context, store invoice.Store, path string) (added, total int, err error) {
	file, err := open(path)
	if err != nil {
		return 0, 0, err
	}
	defer file.Close()

	for r, err := range records(file) {
		if err != nil {
			return 0, 0, fmt.Errorf("%s:%d: %w", path, r.line, err)
		}
		total++
	}
	added, err = store.Add(ctx, func(yield func(invoice.Invoice, error) bool) {
		for r, err := range records(file) {
			if !yield(r.Invoice, err) {
				return
			}
		}
	})
	var conflict *invoice.ConflictError
	if errors.As(err, &conflict) {
		return 0, 0, fmt.Errorf("%s:%d: %w", path, lineOf(file, conflict.Index), err)
	}
	return added, total, err
}

// open opens path. Standard input is copied to a temporary file, since it can
// be read only once.
func open(path string) (io.ReadSeekCloser, error) {
	if path != "-" {
		return os.Open(path)
	}
	spool, err := os.CreateTemp("", "invoices-*")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(spool.Name()); err != nil { // the open file stays until it is closed
		return nil, err
	}
	if _, err := io.Copy(spool, os.Stdin); err != nil {
		return nil, fmt.Errorf("read standard input: %w", err)
	}
	return spool, nil
}

// record is an invoice and the line, from 1, that it begins on.
type record struct {
	invoice.Invoice
	line int
}

func lineOf(file io.ReadSeeker, index int) int {
	n := 0
	for r := range records(file) {
		if n == index {
			return r.line
		}
		n++
	}
	return 0
}

// records yields the file's invoices from its beginning, and ends with the
// first error. A file whose first character is { is JSON lines.
func records(file io.ReadSeeker) iter.Seq2[record, error] {
	return func(yield func(record, error) bool) {
		if _, err := file.Seek(0, io.SeekStart); err != nil {
			yield(record{}, err)
			return
		}
		reader := bufio.NewReader(file)
		if bom, _ := reader.Peek(3); string(bom) == "\uFEFF" { // spreadsheets write one
			_, _ = reader.Discard(3)
		}
		if first, _ := reader.Peek(1); string(first) == "{" {
			jsonLines(reader, yield)
		} else {
			csvLines(reader, yield)
		}
	}
}

func jsonLines(reader io.Reader, yield func(record, error) bool) {
	lines := bufio.NewScanner(reader)
	lines.Buffer(nil, maxLine)
	n := 0
	for lines.Scan() {
		n++
		text := bytes.TrimSpace(lines.Bytes())
		if len(text) == 0 {
			continue
		}
		decoded, err := api.Decode(text)
		if err == nil && text[0] != '{' {
			err = errors.New("a line must be one JSON object")
		}
		if err != nil {
			yield(record{line: n}, err)
			return
		}
		if !yield(record{decoded[0], n}, nil) {
			return
		}
	}
	if err := lines.Err(); err != nil {
		yield(record{line: n + 1}, err)
	}
}

func csvLines(reader io.Reader, yield func(record, error) bool) {
	rows := csv.NewReader(reader)
	rows.ReuseRecord = true
	header, err := rows.Read()
	if errors.Is(err, io.EOF) {
		yield(record{line: 1}, errors.New("the file is empty"))
		return
	}
	column := map[string]int{}
	for n, name := range header {
		column[strings.ToLower(strings.TrimSpace(name))] = n
	}
	for _, name := range []string{"InvoiceId", "Value", "Currency"} {
		if _, there := column[strings.ToLower(name)]; !there && err == nil {
			err = fmt.Errorf("the header has no column %s; needed are InvoiceId, Value and Currency", name)
		}
	}
	if err != nil {
		yield(record{line: 1}, err)
		return
	}
	paid, hasPaid := column["ispaid"]
	for {
		row, err := rows.Read()
		if errors.Is(err, io.EOF) {
			return
		}
		var bad *csv.ParseError
		if errors.As(err, &bad) {
			yield(record{line: bad.Line}, bad.Err)
			return
		}
		if err != nil {
			yield(record{}, err)
			return
		}
		line, _ := rows.FieldPos(0)
		i, err := api.NewInvoice(row[column["invoiceid"]], row[column["value"]], row[column["currency"]])
		if err == nil && hasPaid {
			err = checkUnpaid(row[paid])
		}
		if !yield(record{i, line}, err) || err != nil {
			return
		}
	}
}

// checkUnpaid refuses every IsPaid that is not clearly false: an invoice that is
// paid already, in whatever words, would be paid a second time.
func checkUnpaid(isPaid string) error {
	switch strings.ToLower(strings.TrimSpace(isPaid)) {
	case "", "false":
		return nil
	}
	return fmt.Errorf("IsPaid is %.20q: only unpaid invoices can be added (false, or nothing)", isPaid)
}
