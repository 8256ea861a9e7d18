package api

import (
	"errors"
	"net/http"

	"github.com/gin-gonic/gin"
	"github.com/go-json-experiment/json/jsontext"

	"example.com/invoices/internal/identifier"
	"example.com/invoices/internal/money"
	"example.com/invoices/internal/server"
	"example.com/invoices/payment-provider/payment"
)

// pay takes one payment: POST /payments/pay.
func (a *api) pay(c *gin.Context) {
	body, err := server.ReadBody(c)
	if err != nil {
		a.fail(c, err)
		return
	}
	request, err := decodePayment(body)
	if err != nil {
		a.fail(c, err)
		return
	}
	id := request.id
	if request.refusal != nil {
		if _, err := a.store.Get(c.Request.Context(), id); err != nil {
			if errors.Is(err, payment.ErrNotFound) {
				err = request.refusal
			}
			a.fail(c, err)
			return
		}
	}
	isNew, err := payment.Take(c.Request.Context(), a.store, id, request.amount)
	switch {
	case errors.Is(err, payment.ErrMismatch):
		a.taken.WithLabelValues("mismatch").Inc()
	case err == nil && isNew:
		a.taken.WithLabelValues("taken").Inc()
	case err == nil:
		a.taken.WithLabelValues("repeated").Inc()
	}
	if err != nil {
		a.fail(c, err)
		return
	}
	c.JSON(http.StatusOK, gin.H{"id": id})
}

// paymentRequest is a payment that somebody asks for.
type paymentRequest struct {
	id     string
	amount money.Amount
	// refusal says why no new payment can be taken, or is nil. The rules become
	// stricter and currencies are withdrawn, but one that was taken before is
	// confirmed for ever: a caller that missed our answer asks again.
	refusal error
}

// decodePayment reads a request's body. What is wrong with the payment itself
// has codeInvalid; what is wrong with the body as such, server.CodeMalformed.
func decodePayment(body []byte) (paymentRequest, error) {
	var sent struct {
		ID       string         `json:"id"`
		Value    jsontext.Value `json:"value"` // the literal's text: no float on the way
		Currency string         `json:"currency"`
	}
	if err := server.Decode(body, &sent); err != nil {
		return paymentRequest{}, err
	}
	invalid := func(text string) error {
		return &server.Failure{Status: http.StatusBadRequest, Code: codeInvalid, Text: text}
	}
	wrongID := identifier.Check(sent.ID)
	if wrongID != "" && !identifier.Storable(sent.ID) {
		return paymentRequest{}, invalid("id " + wrongID)
	}
	if len(sent.Value) == 0 || sent.Value.Kind() == 'n' {
		return paymentRequest{}, invalid("value is missing")
	}
	if sent.Currency == "" {
		return paymentRequest{}, invalid("currency is missing")
	}
	request := paymentRequest{id: sent.ID}
	if wrongID != "" {
		request.refusal = invalid("id " + wrongID)
	}
	var err error
	request.amount, err = money.Parse(string(sent.Value), sent.Currency)
	if errors.Is(err, money.ErrWithdrawn) {
		request.refusal = invalid(err.Error())
		request.amount, err = money.ParseHistoric(string(sent.Value), sent.Currency)
	}
	if err != nil {
		return paymentRequest{}, invalid(err.Error())
	}
	return request, nil
}
