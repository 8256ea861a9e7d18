package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"

	"github.com/gin-gonic/gin"

	"example.com/invoices/internal/database"
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

// FailUnexpected answers an error as Explain says.
func FailUnexpected(c *gin.Context, log *slog.Logger, err error) {
	failure := Explain(c, log, err)
	Fail(c, failure.Status, failure.Code, failure.Text)
}

// Explain returns the answer to an error for which the service has none of its
// own: a Failure answers for itself, a database that is gone or too slow gets 503, and
// anything else 500. What is inside the last two is logged and not shown.
func Explain(c *gin.Context, log *slog.Logger, err error) *Failure {
	var failure *Failure
	if errors.As(err, &failure) {
		return failure
	}
	ctx := c.Request.Context()
	status, text := http.StatusInternalServerError, "internal error"
	// A request whose time is over, or whose client has gone, says nothing about
	// the service: whatever the error is, it is most likely the consequence.
	if errors.Is(err, database.ErrUnavailable) || ctx.Err() != nil {
		status, text = http.StatusServiceUnavailable, "the database is unavailable, try again"
	}
	level := slog.LevelError
	if context.Cause(ctx) == context.Canceled { // the client has gone
		level = slog.LevelInfo
	}
	log.Log(ctx, level, "request failed", "error", err, "request_id", RequestID(ctx))
	return &Failure{status, "", text}
}

// CodeMalformed says that a body could not be read as what it has to be. It is
// no verdict on what the sender meant: the body may have been cut on its way.
const CodeMalformed = "malformed"

func malformed(format string, args ...any) *Failure {
	return &Failure{http.StatusBadRequest, CodeMalformed, fmt.Sprintf(format, args...)}
}
