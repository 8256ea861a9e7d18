package web

import (
	"bytes"
	"errors"
	"io"
	"mime/multipart"
	"net/http"
	"strings"
	"unicode/utf8"

	"github.com/gin-gonic/gin"

	"example.com/invoices/internal/server"
	"example.com/invoices/invoice-app/api"
	"example.com/invoices/invoice-app/importer"
)

// add adds the invoices of a file, all or none: POST /import.
func (w *web) add(c *gin.Context) {
	body, err := server.OpenBody(c)
	if err != nil {
		w.fail(c, view{Show: tabs[0].Name}, err)
		return
	}
	file, options, err := openForm(c.Request, body)
	if err != nil {
		w.fail(c, view{Show: tabs[0].Name}, err)
		return
	}
	text := &tail{from: file, line: 1}
	result, err := api.Import(c, w.store, text, options)
	if err != nil {
		p := page{View: view{Show: tabs[0].Name}}
		w.note(c, &p, err)
		var at *importer.Error
		if errors.As(err, &at) && (p.status == http.StatusBadRequest || p.status == http.StatusConflict) {
			p.Wrong = &wrong{at.Line, at.Err.Error(), text.around(at.Line)}
		}
		w.answer(c, p)
		return
	}
	w.redirect(c, view{Show: tabs[0].Name}, "added", map[string]int{"n": result.Added, "existing": result.Existing})
}

// openForm reads a form up to its file, which is its last part.
func openForm(r *http.Request, body io.Reader) (file io.Reader, options importer.Options, err error) {
	refuse := func(text string) (io.Reader, importer.Options, error) {
		return nil, options, &server.Failure{Status: http.StatusBadRequest, Text: text}
	}
	// A part's header is kept in memory, and can be as large as the text it is read from.
	bounded := &io.LimitedReader{R: body, N: maxForm}
	r.Body = io.NopCloser(bounded)
	parts, err := r.MultipartReader()
	if err != nil {
		return refuse("the form cannot be read")
	}
	for {
		part, err := parts.NextRawPart()
		var failure *server.Failure
		if errors.As(err, &failure) {
			return nil, options, failure
		}
		if err != nil {
			return refuse("the form has no file")
		}
		switch part.FormName() {
		case "comma":
			options.DecimalComma = true
		case "file":
			if part.FileName() == "" {
				return refuse("choose a file first")
			}
			return lifted{part, bounded}, options, nil
		}
	}
}

// lifted is a part whose length is limited only by that of the body.
type lifted struct {
	*multipart.Part
	bounded *io.LimitedReader
}

func (l lifted) Read(p []byte) (int, error) {
	l.bounded.N = int64(len(p)) + maxForm
	return l.Part.Read(p)
}

// wrong shows an error in an import.
type wrong struct {
	Line   int
	Text   string
	Around []line
}

// line is a line of a file.
type line struct {
	Number int
	Text   string
}

const (
	maxKept  = 512 << 10 // bytes of a file that tail remembers
	maxShown = 200       // bytes of a line that are shown
	around   = 2         // lines before and after the one that is wrong
)

// tail remembers the end of what was read through it: all of a small file. An invalid line is
// always included, since the importer reads only a little ahead.
type tail struct {
	from io.Reader
	kept []byte
	line int  // the number of the first line in kept
	lost bool // the number is not known
}

func (t *tail) Read(p []byte) (int, error) {
	n, err := t.from.Read(p)
	t.kept = append(t.kept, p[:n]...)
	if len(t.kept) > maxKept {
		cut := bytes.LastIndexByte(t.kept[:maxKept/2], '\n') + 1
		if cut == 0 { // such lines are too long to show
			cut, t.lost = len(t.kept), true
		}
		t.line += len(lines(t.kept[:cut]))
		t.kept = append(t.kept[:0], t.kept[cut:]...)
	}
	return n, err
}

// lines splits text in the same way as the importer. An empty text after the last line end is not
// a line.
func lines(text []byte) [][]byte {
	text = bytes.ReplaceAll(bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n")), []byte("\r"), []byte("\n"))
	if len(text) == 0 {
		return nil
	}
	return bytes.Split(bytes.TrimSuffix(text, []byte("\n")), []byte("\n"))
}

// around returns the line with this number and its neighbours, or nothing if it is no longer kept,
// or in an encoding that is not shown.
func (t *tail) around(number int) (list []line) {
	text := bytes.TrimPrefix(t.kept, []byte("\uFEFF"))
	if t.lost || bytes.IndexByte(text, 0) >= 0 { // UTF-16
		return nil
	}
	all := lines(text)
	if number < t.line || number >= t.line+len(all) {
		return nil
	}
	for n := max(number-around, t.line); n <= number+around && n < t.line+len(all); n++ {
		list = append(list, line{n, shorten(strings.ToValidUTF8(string(all[n-t.line]), "\uFFFD"))})
	}
	return list
}

func shorten(text string) string {
	if len(text) <= maxShown {
		return text
	}
	end := maxShown
	for !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + "…"
}
