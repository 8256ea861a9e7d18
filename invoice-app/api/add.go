package api

import (
	"net/http"
	"net/url"

	"github.com/gin-gonic/gin"

	"example.com/invoices/internal/server"
	"example.com/invoices/invoice-app/invoice"
)

// add keeps new invoices, all or none: POST /invoices. Sent again, it changes
// nothing and succeeds.
func (a *api) add(c *gin.Context) {
	body, err := server.ReadBody(c)
	if err != nil {
		a.fail(c, err)
		return
	}
	invoices, err := Decode(body)
	if err != nil {
		a.fail(c, err)
		return
	}
	added, err := a.store.Add(c.Request.Context(), invoice.All(invoices))
	if err != nil {
		a.fail(c, err)
		return
	}
	status := http.StatusOK
	if added > 0 {
		status = http.StatusCreated
		if len(invoices) == 1 {
			c.Header("Location", "/invoices/"+url.PathEscape(invoices[0].ID))
		}
	}
	c.JSON(status, gin.H{"added": added, "existing": len(invoices) - added})
}
