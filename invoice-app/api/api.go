// Package api implements invoice-app's HTTP API, one file per endpoint.
package api

import (
	"context"
	_ "embed"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"example.com/invoices/internal/identity"
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

const maxPayAlls = 32 // waiting at the same time

// New returns a server with all endpoints of openapi.yaml. ready is the check behind /readyz. A
// pay-all gets its response within payAnswer. callers verifies the requests for everything but
// server.New's endpoints, also for those that are added later; nil accepts all of them.
func New(log *slog.Logger, registry *prometheus.Registry, ready func(context.Context) error,
	store invoice.Store, payer *invoice.Payer, payAnswer time.Duration, callers identity.Callers,
) *server.Server {
	s := server.New(log, registry, openapi, ready)
	if callers != nil {
		s.Router.Use(s.RequireCaller(callers))
	}
	a := &api{
		store: store, payer: payer, payAnswer: payAnswer, log: log,
		lists: server.NewSlots(maxLists), pages: server.NewSlots(maxPages),
	}
	s.AcceptBody(http.MethodPost, "/invoices", MaxUpload, "application/json", "text/csv", "application/x-ndjson")
	s.Router.GET("/invoices", a.list)
	s.Router.POST("/invoices", a.add)
	s.Router.POST("/invoices/pay", server.AtMost(maxPayAlls), a.payAll)
	s.Router.GET("/invoices/:id", a.get)
	s.Router.POST("/invoices/:id/retry", a.retry)
	return s
}
