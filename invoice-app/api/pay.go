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

// payAll pays every unpaid invoice: POST /invoices/pay. 200 means that all of
// them are settled; anything else says how many are not.
func (a *api) payAll(c *gin.Context) {
	server.ExtendDeadlines(c, a.payTimeout+15*time.Second) // time to count what remains
	ctx, cancel := context.WithTimeout(c.Request.Context(), a.payTimeout)
	defer cancel()
	err := a.payer.PayAll(ctx)
	var remaining *invoice.RemainingError
	switch {
	case err == nil:
		c.JSON(http.StatusOK, gin.H{})
	case errors.As(err, &remaining):
		a.log.Warn("pay-all ended early", "error", err, "request_id", server.RequestID(ctx))
		status, cause := remains(remaining.Cause)
		body := gin.H{"error": remaining.Count() + " unpaid: " + cause + "; it is safe to try again"}
		if remaining.Unpaid >= 0 {
			body["unpaid"] = remaining.Unpaid
		}
		c.AbortWithStatusJSON(status, body)
	default:
		a.fail(c, err)
	}
}

// remains says, without what is inside, why a pay-all ended early.
func remains(cause error) (status int, text string) {
	switch {
	case errors.Is(cause, invoice.ErrStopping):
		return http.StatusServiceUnavailable, invoice.ErrStopping.Error()
	case errors.Is(cause, database.ErrUnavailable):
		return http.StatusServiceUnavailable, database.ErrUnavailable.Error()
	case errors.Is(cause, invoice.ErrProvider) && errors.Is(cause, context.DeadlineExceeded):
		return http.StatusGatewayTimeout, "payment-provider does not answer in time"
	case errors.Is(cause, invoice.ErrProvider):
		return http.StatusBadGateway, invoice.ErrProvider.Error()
	case errors.Is(cause, context.DeadlineExceeded), errors.Is(cause, context.Canceled):
		return http.StatusServiceUnavailable, "the time for one request is over"
	}
	return http.StatusInternalServerError, "internal error"
}
