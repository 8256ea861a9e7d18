package api

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/gin-gonic/gin"

	"example.com/invoices/internal/database"
	"example.com/invoices/internal/server"
	"example.com/invoices/invoice-app/importer"
	"example.com/invoices/invoice-app/invoice"
)

// fail ends the request with the response to err.
func (a *api) fail(c *gin.Context, err error) { server.Fail(c, explain(err)) }

// Explain returns the response to err, as server.Explain does.
func Explain(c *gin.Context, err error) *server.Failure { return server.Explain(c, explain(err)) }

// explain turns the errors that this service expects into a *server.Failure.
func explain(err error) error {
	var wrong *importer.Error
	var conflict *invoice.ConflictError
	switch {
	case errors.As(err, &wrong):
		return refusal(err)
	case errors.As(err, &conflict):
		return &server.Failure{Status: http.StatusConflict, Text: conflict.Error()}
	case errors.Is(err, invoice.ErrPaid):
		return &server.Failure{Status: http.StatusConflict, Text: "the invoice " + err.Error()}
	case errors.Is(err, invoice.ErrNotFound):
		return &server.Failure{Status: http.StatusNotFound, Text: err.Error()}
	case errors.Is(err, database.ErrUnavailable):
		return &server.Failure{Status: http.StatusServiceUnavailable,
			Text: "the database is unavailable, try again", Cause: err}
	}
	return err
}

// refusal returns the response to an importer's error.
func refusal(err error) *server.Failure {
	var failure *server.Failure // from reading the body
	var conflict *invoice.ConflictError
	var invalid *invoice.InvalidError
	switch {
	case errors.As(err, &failure):
		return failure
	case errors.As(err, &conflict):
		return &server.Failure{Status: http.StatusConflict, Text: err.Error()}
	case errors.As(err, &invalid):
		return &server.Failure{Status: http.StatusBadRequest, Text: err.Error()}
	}
	return &server.Failure{Status: http.StatusBadRequest, Code: server.CodeMalformed, Text: err.Error()}
}

func refuse(format string, args ...any) error {
	return &server.Failure{Status: http.StatusBadRequest, Text: fmt.Sprintf(format, args...)}
}
