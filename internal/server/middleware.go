package server

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// RequestIDHeader carries a request's id from service to service and back to
// the client.
const RequestIDHeader = "X-Request-Id"

type requestIDKey struct{}

// RequestID returns the id of the request that ctx belongs to, or "".
func RequestID(ctx context.Context) string {
	id, _ := ctx.Value(requestIDKey{}).(string)
	return id
}

// plainID is what is taken over from a client; anything else could forge logs.
var plainID = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

func requestID(c *gin.Context) {
	id := c.GetHeader(RequestIDHeader)
	if !plainID.MatchString(id) {
		id = uuid.NewString()
	}
	c.Header(RequestIDHeader, id)
	c.Request = c.Request.WithContext(context.WithValue(c.Request.Context(), requestIDKey{}, id))
}

// observe logs and counts each request. Probes and scrapes are logged only at
// debug level.
func (s *Server) observe() gin.HandlerFunc {
	seconds := promauto.With(s.Registry).NewHistogramVec(prometheus.HistogramOpts{
		Name: "http_request_duration_seconds",
		Help: "Time to answer, by route and status.",
	}, []string{"method", "route", "status"})
	return func(c *gin.Context) {
		start := time.Now()
		c.Next()
		route := c.FullPath() // the pattern: an id must not become a label
		took := time.Since(start)
		seconds.WithLabelValues(method(c.Request), route, strconv.Itoa(c.Writer.Status())).Observe(took.Seconds())
		level := slog.LevelInfo
		switch route {
		case "/livez", "/readyz", "/metrics":
			level = slog.LevelDebug
		}
		s.log.Log(c.Request.Context(), level, "request",
			"method", c.Request.Method, "path", c.Request.URL.Path, "status", c.Writer.Status(),
			"bytes", c.Writer.Size(), "took", took.String(), "request_id", RequestID(c.Request.Context()))
	}
}

// method bounds the label's values: a client can invent methods.
func method(r *http.Request) string {
	switch r.Method {
	case http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodHead, http.MethodOptions:
		return r.Method
	}
	return "other"
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
				"request_id", RequestID(c.Request.Context()))
			if !c.Writer.Written() {
				Fail(c, http.StatusInternalServerError, "", "internal error")
			}
		}()
		c.Next()
	}
}

func limitBody(c *gin.Context) {
	c.Set(bodyKey, c.Request.Body)
	c.Request.Body = http.MaxBytesReader(c.Writer, c.Request.Body, maxBody)
}
