package api

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"

	"example.com/invoices/internal/database"
	"example.com/invoices/internal/server"
	"example.com/invoices/invoice-app/invoice"
)

// payAll pays every unpaid invoice: POST /invoices/pay. 200 means that all of them are settled,
// 202 that paying continues; any other response says how many are not settled.
func (a *api) payAll(c *gin.Context) {
	server.ExtendDeadlines(c, a.payAnswer+15*time.Second) // time to count what remains
	err := a.payer.PayAll(c.Request.Context())
	var remaining *invoice.RemainingError
	var underway *invoice.UnderwayError
	switch {
	case err == nil:
		c.JSON(http.StatusOK, gin.H{})
	case errors.As(err, &underway):
		body := gin.H{"status": "paying continues; repeat the request to wait for the end"}
		if underway.Unpaid >= 0 {
			body["unpaid"] = underway.Unpaid
		}
		c.Header("Location", "/invoices?paid=false")
		c.JSON(http.StatusAccepted, body)
	case errors.As(err, &remaining):
		failure := Remains(remaining)
		body := gin.H{"error": failure.Text}
		if remaining.Unpaid >= 0 {
			body["unpaid"] = remaining.Unpaid
		}
		c.AbortWithStatusJSON(failure.Status, body)
	default:
		a.fail(c, err)
	}
}

// Remains returns the response for a pay-all that ended early, without internal details.
func Remains(remaining *invoice.RemainingError) *server.Failure {
	status, cause := ended(remaining.Cause)
	return &server.Failure{Status: status, Text: remaining.Count() + " unpaid: " + cause + "; it is safe to try again"}
}

func ended(cause error) (status int, text string) {
	switch {
	case errors.Is(cause, invoice.ErrStopping):
		return http.StatusServiceUnavailable, invoice.ErrStopping.Error()
	case errors.Is(cause, database.ErrUnavailable):
		return http.StatusServiceUnavailable, database.ErrUnavailable.Error()
	case errors.Is(cause, invoice.ErrProvider) && errors.Is(cause, context.DeadlineExceeded):
		return http.StatusGatewayTimeout, "payment-provider did not respond in time"
	case errors.Is(cause, invoice.ErrProvider):
		return http.StatusBadGateway, invoice.ErrProvider.Error()
	case errors.Is(cause, context.DeadlineExceeded), errors.Is(cause, context.Canceled):
		return http.StatusServiceUnavailable, "pay-all exceeded its time limit"
	}
	return http.StatusInternalServerError, "internal error"
}
