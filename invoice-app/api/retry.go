package api

import (
	"github.com/gin-gonic/gin"

	"example.com/invoices/internal/server"
	"example.com/invoices/invoice-app/invoice"
)

// retry unparks a rejected invoice, so that the next pay-all tries it again: POST
// /invoices/{id}/retry. It returns the invoice.
func (a *api) retry(c *gin.Context) {
	id, ok := server.ID(c)
	if !ok {
		a.fail(c, invoice.ErrNotFound)
		return
	}
	if err := a.store.Retry(c.Request.Context(), id); err != nil {
		a.fail(c, err)
		return
	}
	a.get(c)
}
