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
		Help: "Response time by route and status: 499 if the client had gone, aborted if the response was cut.",
	}, []string{"method", "route", "status"})
}

// observe logs and counts the exchange, however it ended. Probes and scrapes are logged at debug
// level only.
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

// method limits the label's values: clients can invent methods.
func method(r *http.Request) string {
	switch r.Method {
	case http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete,
		http.MethodHead, http.MethodOptions:
		return r.Method
	}
	return "other"
}

// noteRoute records the route of the exchange: the pattern, since an ID must not become a label.
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
			if cause == http.ErrAbortHandler { // deliberate: the connection must be cut
				panic(cause)
			}
			log.Error("panic", "cause", fmt.Sprint(cause), "stack", string(debug.Stack()),
				"request_id", requestid.From(c.Request.Context()))
			if c.Writer.Written() { // a partial response must not look complete
				panic(http.ErrAbortHandler)
			}
			Fail(c, &Failure{Status: http.StatusInternalServerError, Text: "internal error"})
		}()
		c.Next()
	}
}
