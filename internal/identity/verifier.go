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

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"example.com/invoices/internal/config"
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

// Reason is why a request is refused, as it is logged and counted. The caller is not told: that would only help an
// attacker.
type Reason string

// The reasons.
const (
	NoToken         Reason = "no_token"
	Malformed       Reason = "malformed"
	WrongAlgorithm  Reason = "algorithm"
	UnknownKey      Reason = "unknown_key"
	WrongSignature  Reason = "signature"
	WrongIssuer     Reason = "issuer"
	WrongAudience   Reason = "audience"
	NotYetValid     Reason = "not_yet_valid"
	Expired         Reason = "expired"
	LongLived       Reason = "long_lived"
	WrongAccount    Reason = "account"
	KeysUnavailable Reason = "keys_unavailable"
)

// Reasons lists all of them.
var Reasons = []Reason{
	NoToken, Malformed, WrongAlgorithm, UnknownKey, WrongSignature, WrongIssuer, WrongAudience,
	NotYetValid, Expired, LongLived, WrongAccount, KeysUnavailable,
}

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

// Verifier knows the requests of one account from all others.
type Verifier struct {
	cfg  Config
	keys file[jose.JSONWebKeySet]
}

// NewVerifier returns a Verifier for a complete cfg. The keys need not be there
// yet: until they are, Ready says so and every request is refused. So a rollout
// without keys stops by itself, and goes on by itself when they come.
func NewVerifier(cfg Config, log *slog.Logger) *Verifier {
	v := &Verifier{cfg: cfg, keys: file[jose.JSONWebKeySet]{
		path: cfg.KeysFile,
		parse: func(content []byte) (jose.JSONWebKeySet, error) {
			keys, err := parseKeys(content)
			if err == nil {
				log.Info("callers' keys read", "keys", len(keys.Keys))
			}
			return keys, err
		},
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

// Ready returns why nobody can be verified, or nil.
func (v *Verifier) Ready() error {
	if _, err := v.keys.read(); err != nil {
		return fmt.Errorf("callers' keys cannot be read: %w", err)
	}
	return nil
}

// Refusal is why a request is refused. Detail is for the log, and never the token.
type Refusal struct {
	Reason Reason
	Detail string
}

// Verify returns nil if r carries a valid token of the one account, and otherwise why it is refused. What a token
// says counts only once its signature is verified.
func (v *Verifier) Verify(r *http.Request) *Refusal {
	keys, err := v.keys.read()
	if err != nil {
		return &Refusal{KeysUnavailable, err.Error()}
	}
	scheme, text, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return &Refusal{NoToken, ""}
	}
	token, err := jwt.ParseSigned(text, algorithms)
	var unexpected *jose.ErrUnexpectedSignatureAlgorithm
	switch {
	case errors.As(err, &unexpected):
		return &Refusal{WrongAlgorithm, err.Error()}
	case err != nil:
		return &Refusal{Malformed, err.Error()}
	}
	var claims jwt.Claims
	switch err := token.Claims(keys, &claims); {
	case errors.Is(err, jose.ErrJWKSKidNotFound):
		return &Refusal{UnknownKey, fmt.Sprintf("%.80q", token.Headers[0].KeyID)}
	case errors.Is(err, jose.ErrCryptoFailure):
		return &Refusal{WrongSignature, err.Error()}
	case err != nil:
		return &Refusal{Malformed, err.Error()}
	case claims.Expiry == nil || claims.IssuedAt == nil:
		return &Refusal{Malformed, "without exp or iat"}
	}
	expected := jwt.Expected{Issuer: v.cfg.Issuer, AnyAudience: jwt.Audience{v.cfg.Audience}}
	switch err := claims.ValidateWithLeeway(expected, leeway); {
	case errors.Is(err, jwt.ErrInvalidIssuer):
		return &Refusal{WrongIssuer, claims.Issuer}
	case errors.Is(err, jwt.ErrInvalidAudience):
		return &Refusal{WrongAudience, strings.Join(claims.Audience, ", ")}
	case errors.Is(err, jwt.ErrExpired):
		return &Refusal{Expired, claims.Expiry.Time().UTC().Format(time.RFC3339)}
	case err != nil: // nbf or iat are still to come
		return &Refusal{NotYetValid, err.Error()}
	}
	if lifetime := claims.Expiry.Time().Sub(claims.IssuedAt.Time()); lifetime > maxLifetime {
		return &Refusal{LongLived, lifetime.String()}
	}
	if claims.Subject != v.cfg.Account {
		return &Refusal{WrongAccount, claims.Subject}
	}
	return nil
}
