// Package api is invoice-app's HTTP side: one file a call.
package api

import (
	"context"
	_ "embed"
	"log/slog"
	"net/http"
	"time"

	"example.com/invoices/internal/server"
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
