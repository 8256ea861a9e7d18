package api

import (
	"errors"
	"net/http"

	"github.com/gin-gonic/gin"
	"github.com/go-json-experiment/json/jsontext"

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
	id, amount, err := decodePayment(body)
	if err != nil {
		a.fail(c, err)
		return
	}
	isNew, err := payment.Take(c.Request.Context(), a.store, id, amount)
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

// decodePayment reads a request's body. What is wrong with the payment itself
// has codeInvalid; what is wrong with the body as such, server.CodeMalformed.
func decodePayment(body []byte) (id string, amount money.Amount, err error) {
	var request struct {
		ID       string         `json:"id"`
		Value    jsontext.Value `json:"value"` // the literal's text: no float on the way
		Currency string         `json:"currency"`
	}
	if err := server.Decode(body, &request); err != nil {
		return "", money.Amount{}, err
	}
	invalid := func(text string) (string, money.Amount, error) {
		return "", money.Amount{}, &server.Failure{Status: http.StatusBadRequest, Code: codeInvalid, Text: text}
	}
	if wrong := server.CheckID(request.ID); wrong != "" {
		return invalid("id " + wrong)
	}
	if len(request.Value) == 0 || request.Value.Kind() == 'n' {
		return invalid("value is missing")
	}
	if request.Currency == "" {
		return invalid("currency is missing")
	}
	amount, err = money.Parse(string(request.Value), request.Currency)
	if err != nil {
		return invalid(err.Error())
	}
	return request.ID, amount, nil
}
