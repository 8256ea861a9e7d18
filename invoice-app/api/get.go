package api

import (
	"net/http"

	"github.com/gin-gonic/gin"

	"example.com/invoices/internal/server"
	"example.com/invoices/invoice-app/invoice"
	"example.com/invoices/invoice-app/wire"
)

// get returns one invoice: GET /invoices/{id}.
func (a *api) get(c *gin.Context) {
	id, ok := server.ID(c)
	if !ok {
		a.fail(c, invoice.ErrNotFound)
		return
	}
	i, err := a.store.Get(c.Request.Context(), id)
	if err != nil {
		a.fail(c, err)
		return
	}
	shown, err := wire.New(i)
	if err != nil {
		a.fail(c, err)
		return
	}
	c.JSON(http.StatusOK, shown)
}
