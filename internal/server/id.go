package server

import (
	"net/url"

	"github.com/gin-gonic/gin"

	"example.com/invoices/internal/identifier"
)

// ID returns the ID in the path of a route with ":id". It returns false for an ID that cannot have
// been stored.
func ID(c *gin.Context) (string, bool) {
	id := c.Param("id")
	if c.Request.URL.RawPath != "" { // otherwise the path is already decoded
		decoded, err := url.PathUnescape(id)
		if err != nil {
			return "", false
		}
		id = decoded
	}
	return id, identifier.Storable(id)
}
