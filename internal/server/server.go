// Package server provides the HTTP server that both services share: listening, health, draining,
// logs, metrics, request IDs and error responses.
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

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/gin-gonic/gin"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"example.com/invoices/internal/identity"
)

// drainNotice is how long a stopping server still responds, asking each client to close its
// connection, before it closes the connections itself. Without it, a connection that has just been
// accepted, or on which the client is just writing, would be cut without a response.
const drainNotice = 500 * time.Millisecond

// Server is a service's HTTP server. Add routes to Router, then call Run. Each request gets a
// response within AnswerTimeout, unless its handler extends that: after that time it is a 503,
// whatever the handler does.
type Server struct {
	Router       gin.IRouter
	AllowedHosts []string               // names, in lower case, that browsers can use besides localhost
	Certificates *identity.Certificates // nil: no TLS

	router      *gin.Engine
	registry    *prometheus.Registry
	log         *slog.Logger
	durations   *prometheus.HistogramVec
	crossOrigin *http.CrossOriginProtection
	bodies      map[string]bodies // by method and path
	requests    Slots
	bulk        Slots
	maxAge      time.Duration
	draining    atomic.Bool
}

// New returns a Server with /livez, /readyz, /metrics (for what is in registry), /version and
// /openapi.yaml. ready reports within its context's deadline whether the service can work.
func New(log *slog.Logger, registry *prometheus.Registry, openapi []byte, ready func(context.Context) error) *Server {
	gin.SetMode(gin.ReleaseMode)
	r := gin.New()
	s := &Server{
		Router: r, router: r, registry: registry, log: log,
		crossOrigin: http.NewCrossOriginProtection(), bodies: map[string]bodies{},
		requests: NewSlots(maxRequests), bulk: NewSlots(maxBulk), maxAge: maxAge,
	}
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	s.durations = newDurations(registry)

	r.HandleMethodNotAllowed = true // 405 with Allow
	r.RedirectTrailingSlash = false
	r.UseRawPath = true          // an ID can contain an escaped slash
	r.UnescapePathValues = false // gin would turn "+" into a space; see ID
	r.Use(noteRoute, recoverPanic(log), s.door, s.receive, s.admit)
	r.NoRoute(func(c *gin.Context) { Fail(c, NoSuchPath) })
	r.NoMethod(func(c *gin.Context) {
		allowed := strings.Replace(c.Writer.Header().Get("Allow"), http.MethodGet, "GET, HEAD", 1)
		c.Header("Allow", allowed)
		Fail(c, &Failure{Status: http.StatusMethodNotAllowed, Text: "allowed methods: " + allowed})
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
	// A compressor takes more memory than the rest of a scrape.
	metrics := promhttp.HandlerFor(registry, promhttp.HandlerOpts{DisableCompression: true})
	r.GET("/metrics", AtMost(maxScrapes), gin.WrapH(metrics))
	r.GET("/version", showVersion)
	r.GET("/openapi.yaml", func(c *gin.Context) { c.Data(http.StatusOK, "application/yaml", openapi) })
	return s
}

// Run listens on address and serves until ctx is done. Then it stops in order: it calls onDrain,
// so that long operations end, accepts no more connections, and finishes the requests in flight
// within grace.
func (s *Server) Run(ctx context.Context, address string, grace time.Duration, onDrain func()) error {
	listener, err := listen(address)
	if err != nil {
		return err
	}
	limited := newConnections(listener, maxConnections, promauto.With(s.registry).NewCounter(prometheus.CounterOpts{
		Name: "http_connections_closed_early_total",
		Help: "Connections without a request that were closed to make room for others.",
	}))
	limited.maxAge = s.maxAge
	defer limited.Close()
	if s.Certificates != nil {
		promauto.With(s.registry).NewGaugeFunc(prometheus.GaugeOpts{
			Name: "tls_certificate_expiry_timestamp_seconds",
			Help: "When this service's certificate expires.",
		}, func() float64 { return float64(s.Certificates.Expires().Unix()) })
	}
	var http1 http.Protocols // the limits above are about connections with one request at a time
	http1.SetHTTP1(true)
	server := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       headerTimeout + AnswerTimeout, // until the exchange sets its own
		WriteTimeout:      AnswerTimeout + sendTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		Protocols:         &http1,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
	}
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		s.log.Warn("nobody hears that this service is ready", "error", err)
	}
	served := make(chan error, 1)
	go func() { served <- limited.serve(server, s.Certificates) }()
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
		// This ends the contexts of the handlers that still run, or closing the database would wait
		// for them.
		server.Close()
		return fmt.Errorf("requests were still running after %s (SHUTDOWN_TIMEOUT): %w", grace, err)
	}
	s.log.Info("stopped")
	return nil
}

// Routes returns the routes of Router.
func (s *Server) Routes() gin.RoutesInfo { return s.router.Routes() }

// admit waits for a slot for the request. Probes need none: other requests that wait say nothing
// about this replica's health.
func (s *Server) admit(c *gin.Context) {
	exchangeOf(c).occupy()
	if path := c.FullPath(); path != "/livez" && path != "/readyz" {
		if err := s.requests.Take(c); err != nil {
			Fail(c, err)
		}
	}
}
