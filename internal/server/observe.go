package server

import (
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"example.com/invoices/internal/requestid"
)

func newDurations(registry *prometheus.Registry) *prometheus.HistogramVec {
	return promauto.With(registry).NewHistogramVec(prometheus.HistogramOpts{
		Name: "http_request_duration_seconds",
		Help: "Time to answer, by route and status: 499 where the client had gone, aborted where the answer was cut.",
	}, []string{"method", "route", "status"})
}

// observe logs and counts the exchange, however it ended. Probes and scrapes
// are logged only at debug level.
func (x *exchange) observe() {
	x.mu.Lock()
	defer x.mu.Unlock()
	status, cut := x.end()
	took := time.Since(x.start)
	label := strconv.Itoa(status)
	attributes := []any{"method", x.client.Method, "path", x.client.URL.Path, "status", status,
		"bytes", x.bytes, "took", took.String(), "request_id", x.id}
	if cut {
		label = "aborted"
		attributes = append(attributes, "aborted", true)
	}
	x.server.durations.WithLabelValues(method(x.client), x.route, label).Observe(took.Seconds())
	level := slog.LevelInfo
	switch x.route {
	case "/livez", "/readyz", "/metrics", "/version":
		level = slog.LevelDebug
	}
	x.server.log.Log(x.client.Context(), level, "request", attributes...)
}

// method bounds the label's values: a client can invent methods.
func method(r *http.Request) string {
	switch r.Method {
	case http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodHead, http.MethodOptions:
		return r.Method
	}
	return "other"
}

// noteRoute tells the exchange which route it takes: the pattern, for an id
// must not become a label.
func noteRoute(c *gin.Context) {
	x := exchangeOf(c)
	x.mu.Lock()
	defer x.mu.Unlock()
	x.route = c.FullPath()
}

func recoverPanic(log *slog.Logger) gin.HandlerFunc {
	return func(c *gin.Context) {
		defer func() {
			cause := recover()
			if cause == nil {
				return
			}
			if cause == http.ErrAbortHandler { // meant: the connection is to be cut
				panic(cause)
			}
			log.Error("panic", "cause", fmt.Sprint(cause), "stack", string(debug.Stack()),
				"request_id", requestid.From(c.Request.Context()))
			if c.Writer.Written() { // half an answer must not look like a whole one
				panic(http.ErrAbortHandler)
			}
			Fail(c, &Failure{Status: http.StatusInternalServerError, Text: "internal error"})
		}()
		c.Next()
	}
}
