// Package server is what both services' HTTP side stands on: listening,
// health, draining, logs, metrics, request ids, and the shape of an error.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// drainNotice is how long a stopping server still answers, telling each
// client to close, before it closes the connections itself. Without it a
// connection that was accepted but not yet read, or on which the client is
// just writing, dies unanswered.
const drainNotice = 500 * time.Millisecond

// Server is a service's HTTP side. Add routes to Router, then Run it. Each
// request has AnswerTimeout for its answer, unless the handler extends that:
// then it is answered with 503, whatever the handler does.
type Server struct {
	Router       gin.IRouter
	AllowedHosts []string // names, in lower case, by which browsers may reach it besides localhost

	router      *gin.Engine
	registry    *prometheus.Registry
	log         *slog.Logger
	durations   *prometheus.HistogramVec
	crossOrigin *http.CrossOriginProtection
	bodies      map[string]bodies // by method and path
	requests    Slots
	bulk        Slots
	draining    atomic.Bool
}

// New returns a Server with /livez, /readyz, /metrics, which shows what is in
// registry, /version, and /openapi.yaml, the service's own description. ready tells
// whether the service can do its work, within the context's deadline.
func New(log *slog.Logger, registry *prometheus.Registry, openapi []byte, ready func(context.Context) error) *Server {
	gin.SetMode(gin.ReleaseMode)
	r := gin.New()
	s := &Server{
		Router: r, router: r, registry: registry, log: log,
		crossOrigin: http.NewCrossOriginProtection(), bodies: map[string]bodies{},
		requests: NewSlots(maxRequests), bulk: NewSlots(maxBulk),
	}
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	s.durations = newDurations(registry)

	r.HandleMethodNotAllowed = true // 405 with Allow
	r.RedirectTrailingSlash = false
	r.UseRawPath = true          // an id may hold an escaped slash
	r.UnescapePathValues = false // gin's way makes "+" a space; see ID
	r.Use(noteRoute, recoverPanic(log), s.door, s.receive, s.admit)
	r.NoRoute(func(c *gin.Context) { Fail(c, NoSuchPath) })
	r.NoMethod(func(c *gin.Context) {
		allowed := strings.Replace(c.Writer.Header().Get("Allow"), http.MethodGet, "GET, HEAD", 1)
		c.Header("Allow", allowed)
		Fail(c, &Failure{Status: http.StatusMethodNotAllowed, Text: "allowed here: " + allowed})
	})

	probe := newReadiness(ready)
	r.GET("/livez", func(c *gin.Context) { c.String(http.StatusOK, "ok") })
	r.GET("/readyz", func(c *gin.Context) {
		err := probe.ask()
		if s.draining.Load() {
			err = errors.New("stopping")
		}
		if err != nil {
			log.Warn("not ready", "error", err)
			Fail(c, &Failure{Status: http.StatusServiceUnavailable, Text: "not ready"})
			return
		}
		c.String(http.StatusOK, "ok")
	})
	// A compressor takes more memory than all else of a scrape.
	metrics := promhttp.HandlerFor(registry, promhttp.HandlerOpts{DisableCompression: true})
	r.GET("/metrics", AtMost(maxScrapes), gin.WrapH(metrics))
	r.GET("/version", showVersion)
	r.GET("/openapi.yaml", func(c *gin.Context) { c.Data(http.StatusOK, "application/yaml", openapi) })
	return s
}

// Run listens on address and serves until ctx is done. Then it stops in order:
// onDrain is called, so that long work comes to an end; no connection is
// accepted any more; requests in flight are answered, for at most grace.
func (s *Server) Run(ctx context.Context, address string, grace time.Duration, onDrain func()) error {
	listener, err := listen(address)
	if err != nil {
		return err
	}
	limited := newConnections(listener, maxConnections, promauto.With(s.registry).NewCounter(prometheus.CounterOpts{
		Name: "http_connections_closed_early_total",
		Help: "Connections without a request that were closed because others wanted in.",
	}))
	defer limited.Close()
	server := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       headerTimeout + AnswerTimeout, // until the exchange sets its own
		WriteTimeout:      AnswerTimeout + sendTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
	}
	if err := sayReady(); err != nil {
		return err
	}
	served := make(chan error, 1)
	go func() { served <- limited.serve(server) }()
	s.log.Info("serving", "address", limited.Addr().String())

	select {
	case err := <-served:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	s.log.Info("stopping", "grace", grace.String())
	s.draining.Store(true)
	onDrain()
	limited.Close()
	<-served
	time.Sleep(drainNotice)
	grace -= drainNotice
	left, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	if err := server.Shutdown(left); err != nil {
		// Ends the contexts of what still runs: whoever closes the database next
		// would wait for it.
		server.Close()
		return fmt.Errorf("requests were still running after %s (SHUTDOWN_TIMEOUT): %w", grace, err)
	}
	s.log.Info("stopped")
	return nil
}

// Routes are those of Router.
func (s *Server) Routes() gin.RoutesInfo { return s.router.Routes() }

// admit waits for one of the slots of requests that are worked on. Probes need
// none: that others wait says nothing about this replica's health.
func (s *Server) admit(c *gin.Context) {
	exchangeOf(c).occupy()
	if path := c.FullPath(); path != "/livez" && path != "/readyz" {
		if err := s.requests.Take(c); err != nil {
			Fail(c, err)
		}
	}
}
