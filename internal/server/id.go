package server

import (
	"net/url"

	"github.com/gin-gonic/gin"

	"example.com/invoices/internal/identifier"
)

// ID returns the identifier in the path of a route with ":id", or false if none
// that can have been stored is there: then there is nothing of that id.
func ID(c *gin.Context) (string, bool) {
	id := c.Param("id")
	if c.Request.URL.RawPath != "" { // otherwise the path is decoded already
		decoded, err := url.PathUnescape(id)
		if err != nil {
			return "", false
		}
		id = decoded
	}
	return id, identifier.Storable(id)
}
