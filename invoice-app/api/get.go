package api

import (
	"net/http"

	"github.com/gin-gonic/gin"
)

// get answers one invoice: GET /invoices/{id}.
func (a *api) get(c *gin.Context) {
	i, err := a.store.Get(c.Request.Context(), c.Param("id"))
	if err != nil {
		a.fail(c, err)
		return
	}
	c.JSON(http.StatusOK, newAnswer(i))
}
