// Package server is what both services' HTTP side stands on: listening,
// health, draining, logs, metrics, request ids, and the shape of an error.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Limits of every connection. A handler that streams or waits for long extends
// its own write deadline, see ExtendDeadline.
const (
	readTimeout  = 10 * time.Second // the whole request, body included
	writeTimeout = 15 * time.Second // from the end of the request's header
	idleTimeout  = 60 * time.Second // between two requests of a connection
	maxHeader    = 16 << 10         // bytes
	maxBody      = 1 << 20          // bytes
	// drainNotice is how long a stopping server still answers, telling each
	// client to close, before it closes the connections itself. Without it a
	// connection that was accepted but not yet read, or on which the client is
	// just writing, dies unanswered.
	drainNotice = 500 * time.Millisecond
)

// Server is a service's HTTP side. Add routes to Router, then Run it.
type Server struct {
	Router   *gin.Engine
	Registry *prometheus.Registry // a service adds its own metrics here

	log      *slog.Logger
	draining atomic.Bool
}

// New returns a Server with /livez, /readyz, /metrics and, at /openapi.yaml,
// the service's own description. ready tells whether the service can do its
// work, within the context's deadline.
func New(log *slog.Logger, openapi []byte, ready func(context.Context) error) *Server {
	gin.SetMode(gin.ReleaseMode)
	s := &Server{Router: gin.New(), Registry: prometheus.NewRegistry(), log: log}
	s.Registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))

	r := s.Router
	r.HandleMethodNotAllowed = true // 405 with Allow
	r.RedirectTrailingSlash = false
	r.UseRawPath = true          // an id may hold an escaped slash
	r.UnescapePathValues = false // gin's way makes "+" a space; see ID
	r.Use(s.announceDrain, requestID, s.observe(), recoverPanic(log), limitBody)
	r.NoRoute(func(c *gin.Context) { Fail(c, http.StatusNotFound, "", "no such path") })
	r.NoMethod(func(c *gin.Context) {
		Fail(c, http.StatusMethodNotAllowed, "", "allowed here: "+c.Writer.Header().Get("Allow"))
	})

	probe := &readiness{check: ready}
	r.GET("/livez", func(c *gin.Context) { c.String(http.StatusOK, "ok") })
	r.GET("/readyz", func(c *gin.Context) {
		err := probe.ask()
		if s.draining.Load() {
			err = errors.New("stopping")
		}
		if err != nil {
			log.Warn("not ready", "error", err)
			Fail(c, http.StatusServiceUnavailable, "", "not ready")
			return
		}
		c.String(http.StatusOK, "ok")
	})
	r.GET("/metrics", gin.WrapH(promhttp.HandlerFor(s.Registry, promhttp.HandlerOpts{})))
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
	defer listener.Close()
	server := &http.Server{
		Handler:           s.Router,
		ReadTimeout:       readTimeout,
		ReadHeaderTimeout: readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
	}
	if err := sayReady(); err != nil {
		return err
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	s.log.Info("serving", "address", listener.Addr().String())

	select {
	case err := <-served:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	s.log.Info("stopping", "grace", grace.String())
	s.draining.Store(true)
	onDrain()
	listener.Close()
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

// announceDrain tells clients of a stopping server to open no further request
// on their connection.
func (s *Server) announceDrain(c *gin.Context) {
	if s.draining.Load() {
		c.Header("Connection", "close")
	}
}

// ExtendDeadlines gives the handler another d for its answer.
func ExtendDeadlines(c *gin.Context, d time.Duration) {
	connection := http.NewResponseController(c.Writer)
	// These fail only where the writer is not a connection's, as in a test. The
	// read deadline counts too: when it passes, the request's context ends.
	_ = connection.SetReadDeadline(time.Now().Add(d))
	_ = connection.SetWriteDeadline(time.Now().Add(d))
}
