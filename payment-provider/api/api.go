// Package api implements payment-provider's HTTP API, one file per endpoint.
package api

import (
	"context"
	_ "embed"
	"log/slog"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"example.com/invoices/internal/identity"
	"example.com/invoices/internal/server"
	"example.com/invoices/payment-provider/payment"
)

//go:embed openapi.yaml
var openapi []byte

type api struct {
	store payment.Store
	taken *prometheus.CounterVec
}

// New returns a server with all endpoints of openapi.yaml. ready is the check behind /readyz.
// callers verifies the requests under /payments; nil accepts all of them.
func New(log *slog.Logger, registry *prometheus.Registry, ready func(context.Context) error,
	store payment.Store, callers identity.Callers,
) *server.Server {
	s := server.New(log, registry, openapi, func(ctx context.Context) error {
		if callers != nil {
			if err := callers.Ready(); err != nil {
				return err
			}
		}
		return ready(ctx)
	})
	a := &api{store: store, taken: promauto.With(registry).NewCounterVec(prometheus.CounterOpts{
		Name: "payments_total",
		Help: "Payments requested, by outcome: taken, repeated (taken before), mismatch.",
	}, []string{"outcome"})}
	payments := s.Router.Group("/payments")
	if callers != nil {
		payments.Use(s.RequireCaller(callers))
	}
	payments.POST("/pay", a.pay)
	payments.POST("/batch", a.payBatch)
	s.AcceptBody(http.MethodPost, "/payments/batch", 512<<10, "application/json") // maxBatch payments with the longest IDs
	payments.GET("/:id", a.get)
	return s
}
