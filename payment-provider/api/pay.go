package api

import (
	"context"
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
	var sent sentPayment
	if err == nil {
		err = server.Decode(body, &sent)
	}
	var refusals []*server.Failure
	if err == nil {
		refusals, err = a.take(c.Request.Context(), []paymentRequest{sent.read()})
	}
	if err == nil && refusals[0] != nil {
		err = refusals[0]
	}
	if err != nil {
		a.fail(c, err)
		return
	}
	c.JSON(http.StatusOK, gin.H{"id": sent.ID})
}

// sentPayment is a payment as a client sends it.
type sentPayment struct {
	ID       string         `json:"id"`
	Value    jsontext.Value `json:"value"` // the text of the literal, so that no float is involved
	Currency string         `json:"currency"`
}

// paymentRequest is a request for a payment.
type paymentRequest struct {
	id     string
	amount money.Amount // or zero if it is invalid; then there is a refusal
	// refusal says why no new payment can be taken, or is nil. The rules become stricter and
	// currencies are withdrawn, but a payment that was taken before is always confirmed: a caller
	// that missed the response repeats its request.
	refusal *server.Failure
}

// read parses what was sent. A refusal has codeInvalid.
func (s sentPayment) read() paymentRequest {
	request := paymentRequest{id: s.ID}
	refuse := func(text string) {
		request.refusal = &server.Failure{Status: http.StatusBadRequest, Code: codeInvalid, Text: text}
	}
	if wrong := identifier.Check(s.ID); wrong != "" {
		refuse("id " + wrong)
		if !identifier.Storable(s.ID) {
			return request
		}
	}
	switch {
	case len(s.Value) == 0 || s.Value.Kind() == 'n':
		refuse("value is missing")
		return request
	case s.Currency == "":
		refuse("currency is missing")
		return request
	}
	var err error
	request.amount, err = money.Parse(string(s.Value), s.Currency)
	if errors.Is(err, money.ErrWithdrawn) {
		refuse(err.Error())
		request.amount, err = money.ParseHistoric(string(s.Value), s.Currency)
	}
	if err != nil {
		refuse(err.Error())
	}
	return request
}

// mismatch rejects a payment under the ID of a different one.
var mismatch = &server.Failure{
	Status: http.StatusUnprocessableEntity, Code: codeMismatch,
	Text: "this id was paid before with another amount or currency",
}

// take takes the requested payments, which have different IDs, and returns for each why it was not
// taken, or nil.
func (a *api) take(ctx context.Context, requests []paymentRequest) ([]*server.Failure, error) {
	refusals := make([]*server.Failure, len(requests))
	var payments []payment.Payment
	var places []int // of payments in requests
	for n, r := range requests {
		takable := r.refusal == nil
		if !takable && r.amount != (money.Amount{}) {
			_, err := a.store.Get(ctx, r.id)
			if err != nil && !errors.Is(err, payment.ErrNotFound) {
				return nil, err
			}
			takable = err == nil
		}
		if !takable {
			refusals[n] = r.refusal
			continue
		}
		payments = append(payments, payment.Payment{ID: r.id, Amount: r.amount})
		places = append(places, n)
	}
	if len(payments) == 0 {
		return refusals, nil
	}
	outcomes, err := payment.Take(ctx, a.store, payments)
	for n, outcome := range outcomes {
		a.taken.WithLabelValues(string(outcome)).Inc()
		if outcome == payment.Mismatch {
			refusals[places[n]] = mismatch
		}
	}
	return refusals, err
}
