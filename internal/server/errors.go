package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"

	"github.com/gin-gonic/gin"

	"example.com/invoices/internal/requestid"
)

// Failure is an error with its HTTP response.
type Failure struct {
	Status int
	Code   string // for programs that must tell failures apart; may be empty
	Text   string // shown to the client
	Cause  error  // logged and never shown; nil where Text says it all
}

func (f *Failure) Error() string { return f.Text }

// Unwrap returns the cause.
func (f *Failure) Unwrap() error { return f.Cause }

// NoSuchPath is the response to a path that is not served.
var NoSuchPath = &Failure{Status: http.StatusNotFound, Text: "no such path"}

// Fail ends the request with the response that Explain returns for err: {"error": text}, and the
// code if there is one.
func Fail(c *gin.Context, err error) {
	failure := Explain(c, err)
	body := gin.H{"error": failure.Text}
	if failure.Code != "" {
		body["code"] = failure.Code
	}
	c.AbortWithStatusJSON(failure.Status, body)
}

// Explain returns the response to err, and logs what the client is not shown. An error that is not
// a Failure is unexpected, and becomes a 500.
func Explain(c *gin.Context, err error) *Failure {
	ctx := c.Request.Context()
	var failure *Failure
	if !errors.As(err, &failure) {
		failure = &Failure{Status: http.StatusInternalServerError, Text: "internal error", Cause: err}
		// After the deadline, or once the client has gone, err is most likely a consequence of that
		// and says nothing about the service.
		if ctx.Err() != nil {
			failure = &Failure{Status: http.StatusServiceUnavailable, Text: "the request was canceled, try again", Cause: err}
		}
	}
	if failure.Cause != nil {
		level := slog.LevelError
		if context.Cause(ctx) == context.Canceled { // the client has gone
			level = slog.LevelInfo
		}
		exchangeOf(c).server.log.Log(ctx, level, "request failed", "error", err, "request_id", requestid.From(ctx))
	}
	return failure
}

// CodeMalformed means that the body could not be parsed. It says nothing about the sender's
// intent: the body may have been cut off on the way.
const CodeMalformed = "malformed"

func malformed(format string, args ...any) *Failure {
	return &Failure{Status: http.StatusBadRequest, Code: CodeMalformed, Text: fmt.Sprintf(format, args...)}
}
