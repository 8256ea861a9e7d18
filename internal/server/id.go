package server

import (
	"fmt"
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/gin-gonic/gin"
)

// ID returns the identifier in the path of a route with ":id", or false if none
// that CheckID accepts is there: then there is nothing of that id.
func ID(c *gin.Context) (string, bool) {
	id := c.Param("id")
	if c.Request.URL.RawPath != "" { // otherwise the path is decoded already
		decoded, err := url.PathUnescape(id)
		if err != nil {
			return "", false
		}
		id = decoded
	}
	return id, CheckID(id) == ""
}

// maxID is in bytes. It bounds keys, indexes and log lines.
const maxID = 128

// CheckID says what is wrong with an identifier that a client made up, or "".
func CheckID(id string) string {
	switch {
	case id == "":
		return "is missing"
	case len(id) > maxID:
		return fmt.Sprintf("is over %d bytes", maxID)
	case !utf8.ValidString(id):
		return "is not UTF-8"
	case strings.ContainsFunc(id, unicode.IsControl):
		return "has control characters"
	}
	return ""
}
