// Package identity lets a service know which other one calls it. The caller
// shows a Kubernetes ServiceAccount token that was made for the one it calls
// and lives for minutes. That one verifies it with the keys that the cluster
// has published, in a file: it asks nobody, and needs no credential of its own.
// While the API server is down, it goes on for as long as the token lives.
package identity

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/prometheus/client_golang/prometheus"

	"example.com/invoices/internal/config"
	"example.com/invoices/internal/server"
)

const (
	// maxLifetime is from a token's iat to its exp. It is the least that
	// Kubernetes gives, and what a calling pod is to ask for: the token of a
	// deleted pod lives as long.
	maxLifetime = 10 * time.Minute
	// leeway is how far the clocks of two machines may be apart: a token may
	// have been issued a moment ago by one that is ahead.
	leeway = 30 * time.Second
)

// algorithms are those that Kubernetes signs with: all asymmetric, so that a
// published key can verify and not sign.
var algorithms = []jose.SignatureAlgorithm{jose.RS256, jose.ES256, jose.ES384, jose.ES512}

// Why a request is refused, as it is logged and counted. A caller is not told:
// it would help nobody but whoever tries.
const (
	noToken         = "no_token"
	malformed       = "malformed"
	algorithm       = "algorithm"
	unknownKey      = "unknown_key"
	signature       = "signature"
	issuer          = "issuer"
	audience        = "audience"
	notYetValid     = "not_yet_valid"
	expired         = "expired"
	longLived       = "long_lived"
	account         = "account"
	keysUnavailable = "keys_unavailable"
)

var reasons = []string{noToken, malformed, algorithm, unknownKey, signature, issuer, audience, notYetValid, expired, longLived, account, keysUnavailable}

// Config says who may call. The zero Config stands for anybody.
type Config struct {
	KeysFile string // a JSON Web Key Set: the public keys that tokens are signed with
	Issuer   string // the tokens' iss
	Audience string // the tokens' aud, or one of several
	Account  string // the tokens' sub, as system:serviceaccount:NAMESPACE:NAME
}

// ReadConfig reads the four variables of a Config. To set some of them, and not
// all, is refused.
func ReadConfig(s *config.Set) Config {
	cfg := Config{
		KeysFile: s.Text("CALLER_KEYS_FILE", "file with the keys (JWKS) that callers' tokens are signed with; with none of these four set, anybody may call"),
		Issuer:   s.Text("CALLER_ISSUER", "who issues callers' tokens"),
		Audience: s.Text("CALLER_AUDIENCE", "whom callers' tokens are made for: this service"),
		Account:  s.Text("CALLER_ACCOUNT", "the one account that may call, as `system:serviceaccount:NAMESPACE:NAME`"),
	}
	complete := cfg.KeysFile != "" && cfg.Issuer != "" && cfg.Audience != "" && cfg.Account != ""
	s.Require(complete || cfg == Config{}, "CALLER_KEYS_FILE=%q, CALLER_ISSUER=%q, CALLER_AUDIENCE=%q and CALLER_ACCOUNT=%q are refused: allowed is to set all four, or none of them",
		cfg.KeysFile, cfg.Issuer, cfg.Audience, cfg.Account)
	return cfg
}

// Verifier lets the requests of one account through, and refuses all others.
type Verifier struct {
	cfg     Config
	log     *slog.Logger
	keys    file[jose.JSONWebKeySet]
	refused *prometheus.CounterVec
}

// NewVerifier returns a Verifier for a complete cfg. The keys need not be there
// yet: until they are, Ready says so and every request is refused. So a rollout
// without keys stops by itself, and goes on by itself when they come.
func NewVerifier(cfg Config, log *slog.Logger) *Verifier {
	v := &Verifier{cfg: cfg, log: log, refused: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "callers_refused_total",
		Help: "Requests refused because of who called, by reason.",
	}, []string{"reason"})}
	for _, reason := range reasons {
		v.refused.WithLabelValues(reason) // there from the start, as 0
	}
	v.keys = file[jose.JSONWebKeySet]{path: cfg.KeysFile, parse: func(content []byte) (jose.JSONWebKeySet, error) {
		keys, err := parseKeys(content)
		if err == nil {
			log.Info("callers' keys read", "keys", len(keys.Keys))
		}
		return keys, err
	}}
	if err := v.Ready(); err != nil {
		log.Error("every caller is refused", "error", err)
	}
	return v
}

func parseKeys(content []byte) (keys jose.JSONWebKeySet, err error) {
	if err := json.Unmarshal(content, &keys); err != nil {
		return keys, fmt.Errorf("no JSON Web Key Set: %w", err)
	}
	if len(keys.Keys) == 0 {
		return keys, errors.New("there is no key in it")
	}
	for _, key := range keys.Keys {
		if !key.IsPublic() {
			return keys, fmt.Errorf("key %q is not a public one", key.KeyID)
		}
	}
	return keys, nil
}

// Metrics counts what is refused, by reason.
func (v *Verifier) Metrics() prometheus.Collector { return v.refused }

// Ready returns why nobody can be verified, or nil.
func (v *Verifier) Ready() error {
	if _, err := v.keys.read(); err != nil {
		return fmt.Errorf("callers' keys cannot be read: %w", err)
	}
	return nil
}

// Require is the middleware: it ends every request whose caller is not the one
// account. 401 stands for no valid token, 403 for a valid one of another
// account, and 503 for keys that cannot be read, so that nothing can be told.
func (v *Verifier) Require(c *gin.Context) {
	refused := v.check(c.Request)
	if refused == nil {
		return
	}
	v.refused.WithLabelValues(refused.reason).Inc()
	v.log.Warn("caller refused", "reason", refused.reason, "detail", refused.detail,
		"from", c.Request.RemoteAddr, "request_id", server.RequestID(c.Request.Context()))
	switch refused.reason {
	case keysUnavailable:
		server.Fail(c, &server.Failure{Status: http.StatusServiceUnavailable, Text: "callers cannot be verified, try again"})
	case account:
		server.Fail(c, &server.Failure{Status: http.StatusForbidden, Text: "this account may not call"})
	default:
		c.Header("WWW-Authenticate", "Bearer")
		server.Fail(c, &server.Failure{Status: http.StatusUnauthorized, Text: "a valid token is required"})
	}
}

// refusal is one of the reasons, and a detail for the log: never the token.
type refusal struct{ reason, detail string }

// check returns why r is refused, or nil. What a token says counts only once
// its signature does.
func (v *Verifier) check(r *http.Request) *refusal {
	keys, err := v.keys.read()
	if err != nil {
		return &refusal{keysUnavailable, err.Error()}
	}
	scheme, text, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return &refusal{noToken, ""}
	}
	token, err := jwt.ParseSigned(text, algorithms)
	var unexpected *jose.ErrUnexpectedSignatureAlgorithm
	switch {
	case errors.As(err, &unexpected):
		return &refusal{algorithm, err.Error()}
	case err != nil:
		return &refusal{malformed, err.Error()}
	}
	var claims jwt.Claims
	switch err := token.Claims(keys, &claims); {
	case errors.Is(err, jose.ErrJWKSKidNotFound):
		return &refusal{unknownKey, fmt.Sprintf("%.80q", token.Headers[0].KeyID)}
	case errors.Is(err, jose.ErrCryptoFailure):
		return &refusal{signature, err.Error()}
	case err != nil:
		return &refusal{malformed, err.Error()}
	case claims.Expiry == nil || claims.IssuedAt == nil:
		return &refusal{malformed, "without exp or iat"}
	}
	expected := jwt.Expected{Issuer: v.cfg.Issuer, AnyAudience: jwt.Audience{v.cfg.Audience}}
	switch err := claims.ValidateWithLeeway(expected, leeway); {
	case errors.Is(err, jwt.ErrInvalidIssuer):
		return &refusal{issuer, claims.Issuer}
	case errors.Is(err, jwt.ErrInvalidAudience):
		return &refusal{audience, strings.Join(claims.Audience, ", ")}
	case errors.Is(err, jwt.ErrExpired):
		return &refusal{expired, claims.Expiry.Time().UTC().Format(time.RFC3339)}
	case err != nil: // nbf or iat are still to come
		return &refusal{notYetValid, err.Error()}
	}
	if lifetime := claims.Expiry.Time().Sub(claims.IssuedAt.Time()); lifetime > maxLifetime {
		return &refusal{longLived, lifetime.String()}
	}
	if claims.Subject != v.cfg.Account {
		return &refusal{account, claims.Subject}
	}
	return nil
}
