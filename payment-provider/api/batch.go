package api

import (
	"fmt"
	"net/http"

	"github.com/gin-gonic/gin"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"example.com/invoices/internal/server"
)

// maxBatch is the maximum length of a list.
const maxBatch = 500

// verdict is the response to one payment of a list: what pay would respond.
type verdict struct {
	ID     string `json:"id"`
	Status int    `json:"status"`
	Code   string `json:"code,omitempty"`
	Error  string `json:"error,omitempty"`
}

// payBatch takes each payment of a list: POST /payments/batch. A 200 has a verdict for each; any
// other response says nothing about any of them.
func (a *api) payBatch(c *gin.Context) {
	body, err := server.ReadBody(c)
	var sent batch
	if err == nil {
		err = server.Decode(body, &sent)
	}
	requests := make([]paymentRequest, len(sent))
	for n, s := range sent {
		requests[n] = s.read()
	}
	var refusals []*server.Failure
	if err == nil {
		refusals, err = a.take(c.Request.Context(), requests)
	}
	if err != nil {
		a.fail(c, err)
		return
	}
	verdicts := make([]verdict, len(sent))
	for n, s := range sent {
		verdicts[n] = verdict{ID: s.ID, Status: http.StatusOK}
		if refusal := refusals[n]; refusal != nil {
			verdicts[n] = verdict{s.ID, refusal.Status, refusal.Code, refusal.Text}
		}
	}
	c.JSON(http.StatusOK, verdicts)
}

// batch is a list of payments with different IDs. It is read one by one, so that a long list of
// empty elements takes no memory.
type batch []sentPayment

func (b *batch) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	malformed := func(format string, args ...any) error {
		return &server.Failure{Status: http.StatusBadRequest, Code: server.CodeMalformed, Text: fmt.Sprintf(format, args...)}
	}
	if d.PeekKind() != '[' {
		return malformed("the body is not a list")
	}
	if _, err := d.ReadToken(); err != nil {
		return err
	}
	known := map[string]bool{}
	for d.PeekKind() != ']' {
		if len(*b) == maxBatch {
			return malformed("the list has more than %d payments", maxBatch)
		}
		var sent sentPayment
		if err := json.UnmarshalDecode(d, &sent); err != nil {
			return err
		}
		if known[sent.ID] {
			return malformed("the list has a duplicate id: %.40q", sent.ID)
		}
		known[sent.ID] = true
		*b = append(*b, sent)
	}
	_, err := d.ReadToken()
	return err
}
