package api

import (
	"github.com/gin-gonic/gin"

	"example.com/invoices/internal/server"
	"example.com/invoices/invoice-app/invoice"
)

// retry frees a rejected invoice, so that the next pay-all tries it again:
// POST /invoices/{id}/retry. It answers the invoice as it is then.
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
