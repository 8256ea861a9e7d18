package server

import (
	"net/http"

	"github.com/gin-gonic/gin"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"example.com/invoices/internal/identity"
	"example.com/invoices/internal/requestid"
)

// RequireCaller returns a middleware that rejects every request that callers do not accept: with
// 401 if it has no valid token or certificate, 403 if that is valid but another's, and 503 if the
// keys cannot be read.
func (s *Server) RequireCaller(callers identity.Callers) gin.HandlerFunc {
	refused := promauto.With(s.registry).NewCounterVec(prometheus.CounterOpts{
		Name: "callers_refused_total",
		Help: "Requests refused because of their caller, by reason.",
	}, []string{"reason"})
	for _, reason := range identity.Reasons {
		refused.WithLabelValues(string(reason)) // exported as 0 from the start
	}
	return func(c *gin.Context) {
		refusal := callers.Verify(c.Request)
		if refusal == nil {
			return
		}
		refused.WithLabelValues(string(refusal.Reason)).Inc()
		s.log.Warn("caller refused", "reason", refusal.Reason, "detail", refusal.Detail,
			"from", c.Request.RemoteAddr, "request_id", requestid.From(c.Request.Context()))
		switch refusal.Reason {
		case identity.KeysUnavailable:
			Fail(c, &Failure{Status: http.StatusServiceUnavailable, Text: "callers cannot be verified, try again"})
		case identity.WrongAccount:
			Fail(c, &Failure{Status: http.StatusForbidden, Text: "this account is not allowed to call"})
		case identity.WrongName:
			Fail(c, &Failure{Status: http.StatusForbidden, Text: "the name in this certificate is not allowed to call"})
		case identity.NoCertificate, identity.CertificateExpired, identity.UntrustedCertificate:
			c.Header("Connection", "close") // the next one may have a new certificate
			Fail(c, &Failure{Status: http.StatusUnauthorized, Text: "a valid client certificate is required"})
		default:
			c.Header("WWW-Authenticate", "Bearer")
			Fail(c, &Failure{Status: http.StatusUnauthorized, Text: "a valid token is required"})
		}
	}
}
