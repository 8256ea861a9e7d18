package api

import (
	"errors"
	"net/http"

	"github.com/gin-gonic/gin"

	"example.com/invoices/internal/database"
	"example.com/invoices/internal/server"
	"example.com/invoices/payment-provider/payment"
)

// Codes of the responses that are a verdict on the payment itself. A client may act on these only:
// anything else may come from a fault on the way.
const (
	codeInvalid  = "invalid_payment"
	codeMismatch = "payment_mismatch"
)

// fail ends the request with the response to err.
func (a *api) fail(c *gin.Context, err error) {
	switch {
	case errors.Is(err, payment.ErrNotFound):
		err = &server.Failure{Status: http.StatusNotFound, Text: err.Error()}
	case errors.Is(err, database.ErrUnavailable):
		err = &server.Failure{Status: http.StatusServiceUnavailable,
			Text: "the database is unavailable, try again", Cause: err}
	}
	server.Fail(c, err)
}
