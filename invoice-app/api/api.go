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
	"example.com/invoices/invoice-app/invoice"
)

//go:embed openapi.yaml
var openapi []byte

type api struct {
	store      invoice.Store
	payer      *invoice.Payer
	payTimeout time.Duration
	log        *slog.Logger

	lists, pages server.Slots
}

const (
	maxPayAlls = 32      // that wait at once
	maxList    = 1 << 20 // bytes of invoices in one POST
)

// Register adds every call of openapi.yaml to s. One pay-all takes payTimeout
// at most.
func Register(s *server.Server, log *slog.Logger, store invoice.Store, payer *invoice.Payer, payTimeout time.Duration) {
	a := &api{store: store, payer: payer, payTimeout: payTimeout, log: log, lists: server.NewSlots(maxLists), pages: server.NewSlots(maxPages)}
	s.AcceptBody(http.MethodPost, "/invoices", maxList, "application/json")
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

// fail is the one place where an error becomes an answer.
func (a *api) fail(c *gin.Context, err error) {
	var conflict *invoice.ConflictError
	switch {
	case errors.As(err, &conflict):
		server.Fail(c, http.StatusConflict, "", conflict.Error())
	case errors.Is(err, invoice.ErrPaid):
		server.Fail(c, http.StatusConflict, "", "the invoice "+err.Error())
	case errors.Is(err, invoice.ErrNotFound):
		server.Fail(c, http.StatusNotFound, "", err.Error())
	default:
		server.FailUnexpected(c, a.log, err)
	}
}
