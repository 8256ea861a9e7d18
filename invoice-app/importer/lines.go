package importer

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"

	encoding "golang.org/x/text/encoding/unicode"
	"golang.org/x/text/transform"
)

const (
	readAhead = 64 << 10
	// maxRecord is the maximum length of an invoice, in bytes. It limits everything that the CSV
	// and JSON readers keep: fields, keys and depth.
	maxRecord = 64 << 10
)

var errTooLong = errors.New("the invoice is over 64 KiB long; is there a quote (\") that is never closed?")

// lineReader passes a text to a parser line by line: one Read returns a line or a part of it, and
// never more, so the parser is always on the line that was read last. Every line ends in \n,
// whether it was \n, \r\n or \r.
type lineReader struct {
	from  *bufio.Reader
	line  int  // number of the line that was read last, from 1
	inner bool // that line continues
	given int  // bytes read since begin
	start int  // the line that these begin on, or 0; empty lines do not count
}

// begin marks the beginning of a new invoice.
func (r *lineReader) begin() { r.given, r.start = 0, 0 }

func (r *lineReader) Read(p []byte) (int, error) {
	if r.given > maxRecord {
		return 0, errTooLong
	}
	if _, err := r.from.Peek(1); err != nil {
		return 0, err
	}
	data, _ := r.from.Peek(min(r.from.Buffered(), len(p)))
	if !r.inner {
		r.line++
	}
	n := bytes.IndexAny(data, "\r\n")
	r.inner = n < 0
	if r.inner {
		n = len(data)
	}
	copy(p, data[:n])
	_, _ = r.from.Discard(n)
	if !r.inner {
		end, _ := r.from.ReadByte()
		if after, _ := r.from.Peek(1); end == '\r' && string(after) == "\n" {
			_, _ = r.from.Discard(1)
		}
		p[n] = '\n'
		n++
	}
	if r.given > 0 || n > 1 || p[0] != '\n' {
		if r.given == 0 {
			r.start = r.line
		}
		r.given += n
	}
	return n, nil
}

// decode skips a byte-order mark, decodes UTF-16 that begins with one, and rejects input that is
// not text.
func (r *lineReader) decode() error {
	begin, err := r.from.Peek(8)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if err := notText(begin); err != nil {
		return err
	}
	order := encoding.BigEndian
	switch {
	case bytes.HasPrefix(begin, []byte("\uFEFF")):
		_, _ = r.from.Discard(len("\uFEFF"))
		return nil
	case bytes.HasPrefix(begin, []byte{0xff, 0xfe}):
		order = encoding.LittleEndian
	case bytes.HasPrefix(begin, []byte{0xfe, 0xff}):
	case bytes.IndexByte(begin, 0) >= 0:
		return errors.New("the input is not text, or is UTF-16 without a byte-order mark: save it as UTF-8")
	default:
		return nil
	}
	// Invalid input becomes U+FFFD, which every field rejects.
	decoder := encoding.UTF16(order, encoding.ExpectBOM).NewDecoder()
	r.from = bufio.NewReaderSize(transform.NewReader(r.from, decoder), readAhead)
	return nil
}

// first returns the first byte that is not blank, without consuming it.
func (r *lineReader) first() (byte, error) {
	for n := 1; ; n++ {
		begin, err := r.from.Peek(n)
		switch {
		case errors.Is(err, io.EOF):
			return 0, errors.New("the input is empty")
		case errors.Is(err, bufio.ErrBufferFull):
			return 0, errors.New("the input begins with 64 KiB of blanks")
		case err != nil:
			return 0, err
		}
		if last := begin[n-1]; last != ' ' && last != '\t' && last != '\r' && last != '\n' {
			return last, nil
		}
	}
}

// lines remembers on which line each invoice begins. It stores the distances between neighbors
// with run-length encoding: a few bytes for a file with one line per invoice, and at most about
// two bytes per invoice otherwise.
type lines struct {
	runs           []byte // pairs of numbers: distance and count
	count          int
	last           int // line
	distance, many int // the current run
}

func (l *lines) add(line int) {
	if distance := line - l.last; distance != l.distance {
		l.flush()
		l.distance = distance
	}
	l.last = line
	l.many++
	l.count++
}

func (l *lines) flush() {
	l.runs = binary.AppendUvarint(l.runs, uint64(l.distance))
	l.runs = binary.AppendUvarint(l.runs, uint64(l.many))
	l.many = 0
}

// of returns the line of the invoice with this index, from 0.
func (l *lines) of(index int) int {
	l.flush()
	line, left := 0, index+1
	for rest := l.runs; len(rest) > 0 && left > 0; {
		distance, n := binary.Uvarint(rest)
		many, m := binary.Uvarint(rest[n:])
		rest = rest[n+m:]
		line += int(distance) * min(left, int(many))
		left -= int(many)
	}
	return line
}
