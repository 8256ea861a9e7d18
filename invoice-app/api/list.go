package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/gin-gonic/gin"

	"example.com/invoices/internal/server"
	"example.com/invoices/invoice-app/invoice"
)

const (
	maxPage = 1000 // invoices a client may ask for at once
	// chunk is how many are read from the store at a time for the whole list:
	// memory stays flat, and no database connection waits for a slow client.
	chunk = 500
	// chunkTimeout is how long a client may take to receive one chunk.
	chunkTimeout = 30 * time.Second
)

// list answers the invoices in order of arrival: GET /invoices. With ?limit=
// it is one page and a Link to the next, without it the whole list.
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
	if text := query.Get("paid"); query.Has("paid") {
		if text != "true" && text != "false" {
			return filter, 0, refuse("paid must be true or false")
		}
		paid := text == "true"
		filter.Paid = &paid
	}
	if query.Has("after") {
		filter.After, err = strconv.ParseInt(query.Get("after"), 10, 64)
		if err != nil || filter.After < 0 {
			return filter, 0, refuse("after must be what a Link header gave")
		}
	}
	if query.Has("limit") {
		limit, err = strconv.Atoi(query.Get("limit"))
		if err != nil || limit < 1 || limit > maxPage {
			return filter, 0, refuse("limit must be a whole number from 1 to %d", maxPage)
		}
	}
	return filter, limit, nil
}

func (a *api) page(c *gin.Context, filter invoice.Filter, limit int) {
	filter.Limit = limit + 1 // one more tells whether there is a next page
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
	answers := make([]answer, len(invoices))
	for n, i := range invoices {
		if answers[n], err = newAnswer(i); err != nil {
			a.fail(c, err)
			return
		}
	}
	c.JSON(http.StatusOK, answers)
}

// stream writes the list chunk by chunk. Once the first is written, an error
// can only be shown by cutting the connection: the client must not take half a
// list for a whole one.
func (a *api) stream(c *gin.Context, filter invoice.Filter) {
	filter.Limit = chunk
	invoices, err := a.store.List(c.Request.Context(), filter)
	if err != nil {
		a.fail(c, err)
		return
	}
	c.Header("Content-Type", "application/json; charset=utf-8")
	c.Status(http.StatusOK)
	var buffer bytes.Buffer
	buffer.WriteByte('[')
	for {
		for n, i := range invoices {
			if n > 0 {
				buffer.WriteByte(',')
			}
			shown, err := newAnswer(i)
			if err != nil {
				a.log.Error("list cut short", "error", err)
				panic(http.ErrAbortHandler)
			}
			text, err := json.Marshal(shown)
			if err != nil {
				panic(http.ErrAbortHandler)
			}
			buffer.Write(text)
		}
		last := len(invoices) < chunk
		if !last {
			filter.After = invoices[chunk-1].Seq
			if invoices, err = a.store.List(c.Request.Context(), filter); err != nil {
				a.log.Error("list cut short", "error", err)
				panic(http.ErrAbortHandler)
			}
			if len(invoices) > 0 {
				buffer.WriteByte(',')
			}
		} else {
			buffer.WriteByte(']')
		}
		server.ExtendDeadlines(c, chunkTimeout)
		if _, err := buffer.WriteTo(c.Writer); err != nil {
			return // the client has gone
		}
		if last {
			return
		}
	}
}
