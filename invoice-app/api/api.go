// Package api is invoice-app's HTTP side: one file a call.
package api

import (
	"context"
	_ "embed"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"

	"example.com/invoices/internal/server"
	"example.com/invoices/invoice-app/importer"
	"example.com/invoices/invoice-app/invoice"
)

//go:embed openapi.yaml
var openapi []byte

type api struct {
	store     invoice.Store
	payer     *invoice.Payer
	payAnswer time.Duration
	log       *slog.Logger

	lists, pages server.Slots
}

const (
	maxPayAlls = 32 // that wait at once
)

// Register adds every call of openapi.yaml to s. A pay-all is answered
// after payAnswer at the latest.
func Register(s *server.Server, log *slog.Logger, store invoice.Store, payer *invoice.Payer, payAnswer time.Duration) {
	a := &api{store: store, payer: payer, payAnswer: payAnswer, log: log, lists: server.NewSlots(maxLists), pages: server.NewSlots(maxPages)}
	s.AcceptBody(http.MethodPost, "/invoices", MaxUpload, "application/json", "text/csv", "application/x-ndjson")
	s.Router.GET("/invoices", a.list)
	s.Router.POST("/invoices", a.add)
	s.Router.POST("/invoices/pay", server.AtMost(maxPayAlls), a.payAll)
	s.Router.GET("/invoices/:id", a.get)
	s.Router.POST("/invoices/:id/retry", a.retry)
}

// NewServer returns a server that describes itself as openapi.yaml does. Calls
// are added by Register.
func NewServer(log *slog.Logger, ready func(context.Context) error) *server.Server {
	return server.New(log, openapi, ready)
}

func (a *api) fail(c *gin.Context, err error) {
	failure := Explain(c, a.log, err)
	server.Fail(c, failure.Status, failure.Code, failure.Text)
}

// Explain is the one place where an error becomes an answer.
func Explain(c *gin.Context, log *slog.Logger, err error) *server.Failure {
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
	}
	return server.Explain(c, log, err)
}
