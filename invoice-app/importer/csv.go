package importer

import (
	"bytes"
	"cmp"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"example.com/invoices/invoice-app/invoice"
	"example.com/invoices/invoice-app/wire"
)

// separators are the possible column separators, in order of preference.
var separators = []rune{',', ';', '\t', '|'}

// sepLine is the line above the header in which Excel names the separator.
var sepLine = regexp.MustCompile(`(?i)^"?sep=([^"\w\s]|\t)"?[\s,;]*$`)

// openCSV reads the header.
func (r *Reader) openCSV() (next, int, error) {
	candidates := separators
	header, err := r.headerText()
	if found := sepLine.FindStringSubmatch(header); err == nil && found != nil {
		separator, _ := utf8.DecodeRuneInString(found[1])
		candidates = []rune{separator}
		header, err = r.headerText()
	}
	if errors.Is(err, io.EOF) {
		return nil, max(r.text.line, 1), errors.New("there is no header: the first line must name the columns")
	}
	if err != nil {
		return nil, cmp.Or(r.text.start, r.text.line+1), err
	}
	var best *table
	for _, separator := range candidates {
		if t := newTable(header, separator); best == nil || len(t.column) > len(best.column) {
			best = t
		}
	}
	if err := best.check(header); err != nil {
		return nil, r.text.start, err
	}
	for n, name := range best.names {
		switch {
		case fieldOf(name) != "":
		case fold(name) == "" && isBlank(name):
			r.ignored = append(r.ignored, fmt.Sprintf("column %d (without a name)", n+1))
		default:
			r.ignore(name)
		}
	}
	rows := newCSV(r.text, best.separator)
	rows.ReuseRecord = true
	return func() (invoice.Invoice, int, error) {
		for {
			r.text.begin()
			row, err := rows.Read()
			if err != nil {
				return invoice.Invoice{}, cmp.Or(r.text.start, r.text.line+1), describeCSV(err)
			}
			if !slices.ContainsFunc(row, func(field string) bool { return !isBlank(field) }) {
				continue
			}
			i, err := best.invoice(row, r.options.DecimalComma)
			return i, r.text.start, err
		}
	}, 0, nil
}

func newCSV(text io.Reader, separator rune) *csv.Reader {
	rows := csv.NewReader(text)
	rows.Comma = separator
	rows.FieldsPerRecord = -1 // see table.invoice
	return rows
}

// describeCSV describes a syntax error in a row.
func describeCSV(err error) error {
	switch {
	case errors.Is(err, csv.ErrBareQuote):
		return errors.New(`a quote (") is inside a field that does not begin with one: ` +
			`put the whole field in quotes, and write a quote inside it twice`)
	case errors.Is(err, csv.ErrQuote):
		return errors.New(`a field in quotes (") is not closed, or is followed by something before the separator: ` +
			`write a quote inside it twice`)
	}
	return err
}

// headerText returns the text of the first row that is not blank. It may contain quoted line
// breaks.
func (r *Reader) headerText() (string, error) {
	r.text.begin()
	var text strings.Builder
	quotes := 0
	for piece := make([]byte, 512); ; {
		n, err := r.text.Read(piece)
		text.Write(piece[:n])
		quotes += bytes.Count(piece[:n], []byte{'"'})
		blank := strings.Trim(text.String(), " \t\n\u00a0,;|\"") == ""
		switch {
		case errors.Is(err, io.EOF) && !blank:
			return text.String(), nil
		case err != nil:
			return "", err
		case r.text.inner || quotes%2 == 1:
		case blank:
			text.Reset()
			r.text.begin()
		default:
			return text.String(), nil
		}
	}
}

func isBlank(field string) bool { return strings.TrimSpace(field) == "" }

// table is a parsed header.
type table struct {
	separator rune
	names     []string
	column    map[string]int // by field
	err       error          // a syntax error or a duplicate name
}

func newTable(header string, separator rune) *table {
	t := &table{separator: separator, column: map[string]int{}}
	t.names, t.err = newCSV(strings.NewReader(header), separator).Read()
	seen := map[string]string{}
	for n, name := range t.names {
		folded := fold(name)
		if field := fieldOf(name); field != "" {
			folded = field
			t.column[field] = n
		}
		if before, twice := seen[folded]; twice && folded != "" {
			t.err = fmt.Errorf("the header has a duplicate column: %.40q and %.40q", before, name)
		}
		seen[folded] = name
	}
	return t
}

// check returns what is wrong with the header.
func (t *table) check(header string) error {
	if t.err != nil {
		return describeCSV(t.err)
	}
	for _, field := range []string{wire.InvoiceID, wire.Value, wire.Currency} {
		if _, there := t.column[field]; !there {
			return fmt.Errorf("the header has no column %s: it must name InvoiceId, Value and Currency, but is %.80q",
				field, strings.TrimSpace(header))
		}
	}
	return nil
}

func (t *table) invoice(row []string, decimalComma bool) (i invoice.Invoice, err error) {
	beyond := row[min(len(row), len(t.names)):]
	if len(row) < len(t.names) || slices.ContainsFunc(beyond, func(field string) bool { return !isBlank(field) }) {
		return i, fmt.Errorf("the row has %d columns, but the header has %d: "+
			"a field with a %q in it must be in quotes (\")", len(row), len(t.names), t.separator)
	}
	for _, field := range []string{wire.InvoiceID, wire.Value, wire.Currency, wire.IsPaid} {
		if n, there := t.column[field]; there && strings.ContainsRune(row[n], utf8.RuneError) {
			return i, fmt.Errorf("%s is not in UTF-8: save the file as UTF-8 and look at %.40q", field, row[n])
		}
	}
	if paid, there := t.column[wire.IsPaid]; there {
		switch isPaid := strings.TrimSpace(row[paid]); strings.ToLower(isPaid) {
		case "", "false":
		default:
			return i, errPaid(fmt.Sprintf("%.20q", isPaid))
		}
	}
	value, err := number(strings.TrimSpace(row[t.column[wire.Value]]), decimalComma)
	if err != nil {
		return i, err
	}
	// Copies, so that the rest of the row can be freed.
	id := strings.Clone(row[t.column[wire.InvoiceID]])
	return invoice.New(id, value, strings.Clone(strings.TrimSpace(row[t.column[wire.Currency]])))
}

// errPaid rejects every IsPaid that is not clearly false: an invoice that is already paid, in
// whatever words, would be paid a second time.
func errPaid(is string) error {
	return &invoice.InvalidError{Text: fmt.Sprintf(
		"IsPaid is %s: only unpaid invoices can be added (false or empty)", is)}
}

// number converts value to the grammar of JSON, or returns what is wrong with it in terms of a
// spreadsheet. It does not guess the meaning of ambiguous values.
func number(value string, decimalComma bool) (string, error) {
	refuse := func(found, do string) (string, error) {
		return "", &invoice.InvalidError{Text: fmt.Sprintf("Value %.40q %s: %s", value, found, do)}
	}
	hasAny := func(is func(rune) bool) bool { return strings.ContainsFunc(value, is) }
	example := "1234.56"
	if decimalComma {
		example = "1234,56"
	}
	switch {
	case value == "":
		return "", nil
	case strings.HasPrefix(value, "+"):
		return refuse("has a plus sign", "remove it")
	case hasAny(func(c rune) bool { return unicode.Is(unicode.Sc, c) || unicode.IsLetter(c) && c != 'e' && c != 'E' }):
		return refuse("has a currency or other letters in it", "write only the number, as in "+example)
	case hasAny(func(c rune) bool { return unicode.IsSpace(c) || strings.ContainsRune("'’_٬", c) }),
		strings.Count(value, ".") > 1, strings.Count(value, ",") > 1,
		strings.Contains(value, ".") && strings.Contains(value, ","):
		return refuse("has a thousands separator", "remove it, as in "+example)
	case decimalComma && strings.Contains(value, "."):
		return refuse("has a decimal point, but --decimal-comma is set", "write it as "+example)
	case !decimalComma && strings.Contains(value, ","):
		return refuse("has a comma, which can separate decimals or thousands",
			"write it as "+example+", or import with --decimal-comma if commas are decimal separators in this file")
	}
	return strings.Replace(value, ",", ".", 1), nil
}
