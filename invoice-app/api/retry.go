package api

import "github.com/gin-gonic/gin"

// retry frees a rejected invoice, so that the next pay-all tries it again:
// POST /invoices/{id}/retry. It answers the invoice as it is then.
func (a *api) retry(c *gin.Context) {
	if err := a.store.Retry(c.Request.Context(), c.Param("id")); err != nil {
		a.fail(c, err)
		return
	}
	a.get(c)
}
