package server

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"

	"github.com/gin-gonic/gin"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"example.com/invoices/internal/database"
	"example.com/invoices/internal/identifier"
)

// Failure is an error with the answer that it gets: an HTTP status, a text fit
// to be shown, and for errors that a program has to tell apart, a code.
type Failure struct {
	Status int
	Code   string
	Text   string
}

func (f *Failure) Error() string { return f.Text }

// Fail answers with {"error": text}, and the code if there is one, and ends
// the request.
func Fail(c *gin.Context, status int, code, text string) {
	body := gin.H{"error": text}
	if code != "" {
		body["code"] = code
	}
	c.AbortWithStatusJSON(status, body)
}

// FailUnexpected answers an error that the service has no answer of its own
// for: a Failure as it says, a database that is gone with 503, and anything
// else with 500. What is inside the last two is logged and not shown.
func FailUnexpected(c *gin.Context, log *slog.Logger, err error) {
	var failure *Failure
	if errors.As(err, &failure) {
		Fail(c, failure.Status, failure.Code, failure.Text)
		return
	}
	status, text := http.StatusInternalServerError, "internal error"
	if errors.Is(err, database.ErrUnavailable) {
		status, text = http.StatusServiceUnavailable, "the database is unavailable, try again"
	}
	log.Error("request failed", "error", err, "request_id", RequestID(c.Request.Context()))
	Fail(c, status, "", text)
}

// CodeMalformed says that a body could not be read as what it has to be. It is
// no verdict on what the sender meant: the body may have been cut on its way.
const CodeMalformed = "malformed"

func malformed(format string, args ...any) *Failure {
	return &Failure{http.StatusBadRequest, CodeMalformed, fmt.Sprintf(format, args...)}
}

// ReadBody returns the whole body: 413 if it is over the limit, 400 if it is
// empty or ends early.
func ReadBody(c *gin.Context) ([]byte, error) {
	body, err := io.ReadAll(c.Request.Body)
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, &Failure{http.StatusRequestEntityTooLarge, "", fmt.Sprintf("the body is over %d bytes", tooLarge.Limit)}
	case err != nil:
		return nil, malformed("the body ended early")
	case len(body) == 0:
		return nil, malformed("the body is empty")
	}
	return body, nil
}

// Decode reads one JSON value into into. Stricter than encoding/json where
// money is at stake (a duplicate key or anything after the value is refused),
// and as lenient where the original API was: unknown fields are ignored, and
// the case of a key does not matter.
func Decode(body []byte, into any) error {
	err := json.Unmarshal(body, into, json.MatchCaseInsensitiveNames(true))
	var syntax *jsontext.SyntacticError
	var semantic *json.SemanticError
	switch {
	case errors.As(err, &syntax):
		if errors.Is(err, jsontext.ErrDuplicateName) {
			return malformed("the body has a key twice: %s", syntax.JSONPointer)
		}
		return malformed("the body is not JSON, at byte %d", syntax.ByteOffset)
	case errors.As(err, &semantic):
		where := "the body"
		if semantic.JSONPointer != "" {
			where = string(semantic.JSONPointer)
		}
		return malformed("%s is of the wrong type: %s", where, semantic.JSONKind)
	case err != nil:
		return malformed("the body cannot be read")
	}
	return nil
}

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
