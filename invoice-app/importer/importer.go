// Package importer reads invoices from common text formats: CSV from any spreadsheet, JSON lines,
// or JSON as the service's own API writes it.
package importer

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"unicode"

	"example.com/invoices/invoice-app/invoice"
	"example.com/invoices/invoice-app/wire"
)

// Format is a text format for invoices.
type Format int

// The formats. With Any, a text that begins with [ or { is JSON, and any other text is CSV.
const (
	Any       Format = iota
	CSV              // a header with the column names, then one row per invoice
	JSONLines        // JSON objects, one after another
	JSON             // one JSON object, or a list of them
)

// Options control how a text is read.
type Options struct {
	Format Format
	// DecimalComma reads 12,15 in a CSV as 12.15, and rejects decimal points. The importer does not
	// guess: in a currency with three decimals, 1,000 may be one.
	DecimalComma bool
}

// Result is the result of an import.
type Result struct {
	Added, Existing int
	// Ignored has the names of unknown columns, or of unknown keys of JSON objects.
	Ignored []string
}

// Error is an error in the invoice that begins on a line, counted from 1.
type Error struct {
	Line int
	Err  error
}

func (e *Error) Error() string { return fmt.Sprintf("line %d: %v", e.Line, e.Err) }

// Unwrap returns the cause: an *invoice.InvalidError, an *invoice.ConflictError, an error of the
// text's reader, or a description of a syntax error.
func (e *Error) Unwrap() error { return e.Err }

// Import adds the invoices in text to store, all of them or none. The text is read once and in
// pieces, so it can come from a pipe and have any length. An error in the text is an *Error.
func Import(ctx context.Context, store invoice.Store, text io.Reader, options Options) (Result, error) {
	r := NewReader(text, options)
	added, err := store.Add(ctx, r.All())
	if r.err != nil {
		return Result{}, r.err // whatever the store returned
	}
	var conflict *invoice.ConflictError
	if errors.As(err, &conflict) {
		return Result{}, &Error{r.lines.of(conflict.Index), r.inList(conflict.Index, err)}
	}
	if err != nil {
		return Result{}, err
	}
	return Result{Added: added, Existing: r.lines.count - added, Ignored: r.ignored}, nil
}

// Reader reads the invoices of one text, once.
type Reader struct {
	options Options
	text    *lineReader
	lines   lines
	ignored []string
	isList  bool // JSON in square brackets
	begun   bool
	err     error
}

// NewReader returns a Reader of text.
func NewReader(text io.Reader, options Options) *Reader {
	return &Reader{options: options, text: &lineReader{from: bufio.NewReaderSize(text, readAhead)}}
}

// next returns the next invoice and the line it begins on, or io.EOF.
type next func() (invoice.Invoice, int, error)

// All yields the invoices. It ends at the first error, an *Error.
func (r *Reader) All() iter.Seq2[invoice.Invoice, error] {
	return func(yield func(invoice.Invoice, error) bool) {
		read, line, err := r.open()
		for {
			var i invoice.Invoice
			if err == nil {
				i, line, err = read()
			}
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				r.err = &Error{line, err}
				yield(invoice.Invoice{}, r.err)
				return
			}
			r.lines.add(line)
			if !yield(i, nil) {
				return
			}
		}
	}
}

// inList adds the position in a JSON list, which may be all on one line.
func (r *Reader) inList(index int, err error) error {
	if !r.isList {
		return err
	}
	return fmt.Errorf("invoice %d of the list: %w", index+1, err)
}

// open detects the format.
func (r *Reader) open() (next, int, error) {
	if r.begun {
		return nil, 0, errors.New("the text has been read already")
	}
	r.begun = true
	if err := r.text.decode(); err != nil {
		return nil, 1, err
	}
	first, err := r.text.first()
	if err != nil {
		return nil, 1, err
	}
	format := r.options.Format
	switch {
	case format == Any && first == '[':
		format = JSON
	case format == Any && first == '{':
		format = JSONLines
	}
	if format == JSON || format == JSONLines {
		return r.openJSON(format), 0, nil
	}
	return r.openCSV()
}

// fold reduces a name to its letters and digits in lower case, so that Invoice ID, invoice_id and
// InvoiceId are the same name.
func fold(name string) string {
	return strings.Map(func(c rune) rune {
		if unicode.In(c, unicode.L, unicode.M, unicode.N) {
			return unicode.ToLower(c)
		}
		return -1
	}, name)
}

// fieldOf returns the field for the name of a column or key, or "".
func fieldOf(name string) string {
	switch fold(name) {
	case "invoiceid":
		return wire.InvoiceID
	case "value":
		return wire.Value
	case "currency":
		return wire.Currency
	case "ispaid", "paid":
		return wire.IsPaid
	}
	return ""
}

// maxIgnored limits how many unknown names are remembered.
const maxIgnored = 20

func (r *Reader) ignore(name string) {
	name = fmt.Sprintf("%.40q", name)
	if len(r.ignored) < maxIgnored && !slices.Contains(r.ignored, name) {
		r.ignored = append(r.ignored, name)
	}
}

// notText returns what is wrong with text that begins with these bytes, or nil.
func notText(begin []byte) error {
	for _, known := range []struct{ mark, is string }{
		{"\x1f\x8b", "compressed with gzip: decompress it first, with gunzip"},
		{"BZh91AY", "compressed with bzip2: decompress it first, with bunzip2"},
		{"\xfd7zXZ", "compressed with xz: decompress it first, with unxz"},
		{"\x28\xb5\x2f\xfd", "compressed with zstd: decompress it first, with unzstd"},
		{"PK\x03\x04", "a ZIP file, as .xlsx and .ods are: save the table as CSV"},
		{"\xd0\xcf\x11\xe0", "a spreadsheet in the old .xls format: save the table as CSV"},
		{"%PDF", "a PDF: use CSV, JSON lines or JSON"},
		{"\xff\xfe\x00\x00", "in UTF-32: save it as UTF-8"},
		{"\x00\x00\xfe\xff", "in UTF-32: save it as UTF-8"},
	} {
		if bytes.HasPrefix(begin, []byte(known.mark)) {
			return fmt.Errorf("the input is %s", known.is)
		}
	}
	return nil
}
