package api

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/gin-gonic/gin"

	"example.com/invoices/internal/requestid"
	"example.com/invoices/internal/server"
	"example.com/invoices/invoice-app/invoice"
	"example.com/invoices/invoice-app/wire"
)

const (
	maxPage = 1000 // the most invoices per page
	// chunk is how many invoices of the whole list are read from the store at a time: memory stays
	// flat, and no database connection waits for a slow client.
	chunk = 500
	// chunkTimeout is how long a client may take to receive one chunk, and listTimeout to receive
	// the whole list.
	chunkTimeout = 25 * time.Second
	listTimeout  = 15 * time.Minute
	// Slow clients hold lists for long, so lists and pages have separate slots.
	maxLists = 16 // at a time
	maxPages = 32
)

// list returns the invoices in order of arrival: GET /invoices. With ?limit= it is one page and a
// Link to the next, otherwise the whole list.
func (a *api) list(c *gin.Context) {
	filter, limit, err := parseList(c.Request.URL.Query())
	if err != nil {
		a.fail(c, err)
		return
	}
	if limit > 0 {
		a.page(c, filter, limit)
	} else {
		a.stream(c, filter)
	}
}

func parseList(query url.Values) (filter invoice.Filter, limit int, err error) {
	for name, into := range map[string]**bool{"paid": &filter.Paid, "rejected": &filter.Rejected} {
		if text := query.Get(name); query.Has(name) {
			if text != "true" && text != "false" {
				return filter, 0, refuse("%s must be true or false", name)
			}
			value := text == "true"
			*into = &value
		}
	}
	if query.Has("after") {
		filter.After, err = strconv.ParseInt(query.Get("after"), 10, 64)
		if err != nil || filter.After < 0 {
			return filter, 0, refuse("after must be a value from a Link header")
		}
	}
	if query.Has("limit") {
		limit, err = strconv.Atoi(query.Get("limit"))
		if err != nil || limit < 1 || limit > maxPage {
			return filter, 0, refuse("limit must be an integer from 1 to %d", maxPage)
		}
	}
	return filter, limit, nil
}

func (a *api) page(c *gin.Context, filter invoice.Filter, limit int) {
	if err := a.pages.Take(c); err != nil {
		a.fail(c, err)
		return
	}
	filter.Limit = limit + 1 // one more, to know whether there is a next page
	invoices, err := a.store.List(c.Request.Context(), filter)
	if err != nil {
		a.fail(c, err)
		return
	}
	if len(invoices) > limit {
		invoices = invoices[:limit]
		next := c.Request.URL.Query()
		next.Set("after", strconv.FormatInt(invoices[limit-1].Seq, 10))
		c.Header("Link", fmt.Sprintf(`</invoices?%s>; rel="next"`, next.Encode()))
	}
	list := startList(c)
	if a.send(c, list, invoices) {
		list.end()
	}
}

// stream writes the list chunk by chunk, up to the last invoice at the time it begins. Once the
// first chunk is written, an error can only be reported by cutting the connection: the client must
// not take a partial list for a complete one.
func (a *api) stream(c *gin.Context, filter invoice.Filter) {
	if err := a.lists.Take(c); err != nil {
		a.fail(c, err)
		return
	}
	over := time.Now().Add(listTimeout)
	through, err := a.store.LastSeq(c.Request.Context())
	if err != nil {
		a.fail(c, err)
		return
	}
	filter.Limit = chunk
	invoices, err := a.store.List(c.Request.Context(), filter)
	if err != nil {
		a.fail(c, err)
		return
	}
	list := startList(c)
	for {
		more := len(invoices) == chunk
		if end := slices.IndexFunc(invoices, func(i invoice.Invoice) bool { return i.Seq > through }); end >= 0 {
			invoices, more = invoices[:end], false
		}
		server.ExtendDeadlines(c, chunkTimeout)
		if !a.send(c, list, invoices) {
			return
		}
		if !more {
			list.end()
			return
		}
		if time.Now().After(over) {
			a.cut(c, fmt.Errorf("the client took longer than %s", listTimeout))
		}
		filter.After = invoices[chunk-1].Seq
		server.ExtendDeadlines(c, server.AnswerTimeout)
		if invoices, err = a.store.List(c.Request.Context(), filter); err != nil {
			a.cut(c, err)
		}
	}
}

// send writes a part of the list. It returns false if the rest is not needed.
func (a *api) send(c *gin.Context, list *listWriter, invoices []invoice.Invoice) bool {
	err := list.write(invoices)
	switch {
	case err == nil:
		return true
	case errors.Is(err, http.ErrBodyNotAllowed): // for a HEAD
	case !c.Writer.Written():
		a.fail(c, err)
	default:
		a.cut(c, err)
	}
	return false
}

// cut aborts a list that has been partly written.
func (a *api) cut(c *gin.Context, err error) {
	a.log.Error("list cut short", "error", err, "request_id", requestid.From(c.Request.Context()))
	panic(http.ErrAbortHandler)
}

// listWriter writes a JSON list of invoices one by one, so that a client costs only the chunk that
// was read for it, and not a copy of it as text.
type listWriter struct {
	*bufio.Writer
	separator string
}

func startList(c *gin.Context) *listWriter {
	c.Header("Content-Type", "application/json; charset=utf-8")
	c.Status(http.StatusOK)
	return &listWriter{bufio.NewWriter(c.Writer), "["}
}

func (w *listWriter) write(invoices []invoice.Invoice) error {
	for _, i := range invoices {
		shown, err := wire.New(i)
		if err != nil {
			return err
		}
		text, err := json.Marshal(shown)
		if err != nil {
			return err
		}
		_, _ = w.WriteString(w.separator) // Flush returns the error
		_, _ = w.Write(text)
		w.separator = ","
	}
	return w.Flush()
}

func (w *listWriter) end() {
	if w.separator == "[" {
		_ = w.WriteByte('[')
	}
	_ = w.WriteByte(']')
	_ = w.Flush() // if the client has gone, that is recorded for the request
}
