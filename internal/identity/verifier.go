// Package identity lets a service know which service calls it, in one of two ways.
//
// With tokens, the caller sends a Kubernetes ServiceAccount token that was issued for the called
// service and is valid for minutes. The called service verifies it with the cluster's public keys,
// from a file: that needs no request and no credential, and works for as long as the token is valid
// while the API server is down.
//
// With certificates, both sides of a connection have one of the platform's authority, which also
// encrypts the connection, and which is valid for days.
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
	// maxLifetime limits the time from a token's iat to its exp. It is the shortest lifetime that
	// Kubernetes issues, and the one that a calling pod must request: the token of a deleted pod
	// stays valid that long.
	maxLifetime = 10 * time.Minute
	// leeway is how far the clocks of two machines may differ: a token may have just been issued by
	// a machine whose clock is ahead.
	leeway = 30 * time.Second
)

// algorithms are those that Kubernetes signs with. All are asymmetric, so a published key can
// verify but not sign.
var algorithms = []jose.SignatureAlgorithm{jose.RS256, jose.ES256, jose.ES384, jose.ES512}

// Reason is why a request is refused, for the log and the metric. The caller is not told, since
// that would only help an attacker.
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

	NoCertificate        Reason = "no_certificate"
	CertificateExpired   Reason = "certificate_expired" // or not valid yet
	UntrustedCertificate Reason = "certificate_untrusted"
	WrongName            Reason = "certificate_name"
)

// Reasons lists all reasons.
var Reasons = []Reason{
	NoToken, Malformed, WrongAlgorithm, UnknownKey, WrongSignature, WrongIssuer, WrongAudience,
	NotYetValid, Expired, LongLived, WrongAccount, KeysUnavailable,
	NoCertificate, CertificateExpired, UntrustedCertificate, WrongName,
}

// Callers decides which requests a service accepts.
type Callers interface {
	// Verify returns nil, or why the request is refused.
	Verify(*http.Request) *Refusal
	// Ready returns why nobody can be verified, or nil.
	Ready() error
}

// Config says which account can call. The zero Config accepts everybody.
type Config struct {
	KeysFile string // a JSON Web Key Set: the public keys that tokens are signed with
	Issuer   string // the tokens' iss
	Audience string // the tokens' aud, or one of several
	Account  string // the tokens' sub, as system:serviceaccount:NAMESPACE:NAME
}

// ReadConfig reads the four variables of a Config. Either all or none must be set.
func ReadConfig(s *config.Set) Config {
	cfg := Config{
		KeysFile: s.Text("CALLER_KEYS_FILE", "file with the keys (JWKS) that callers' tokens are signed with; "+
			"if neither these four nor `CALLER_NAMES` are set, anybody can call"),
		Issuer:   s.Text("CALLER_ISSUER", "issuer of callers' tokens"),
		Audience: s.Text("CALLER_AUDIENCE", "audience of callers' tokens: this service"),
		Account:  s.Text("CALLER_ACCOUNT", "the only account that can call, as `system:serviceaccount:NAMESPACE:NAME`"),
	}
	complete := cfg.KeysFile != "" && cfg.Issuer != "" && cfg.Audience != "" && cfg.Account != ""
	s.Require(complete || cfg == Config{}, "CALLER_KEYS_FILE=%q, CALLER_ISSUER=%q, CALLER_AUDIENCE=%q "+
		"and CALLER_ACCOUNT=%q are invalid: must be all set, or all unset",
		cfg.KeysFile, cfg.Issuer, cfg.Audience, cfg.Account)
	return cfg
}

// Verifier accepts the requests of one account. It implements Callers.
type Verifier struct {
	cfg  Config
	keys *files[jose.JSONWebKeySet]
}

// NewVerifier returns a Verifier for a complete cfg. The keys need not exist yet: until they do,
// Ready returns an error and every request is refused. So a rollout without keys pauses, and
// continues when they arrive.
func NewVerifier(cfg Config, log *slog.Logger) *Verifier {
	v := &Verifier{cfg: cfg, keys: one(cfg.KeysFile, func(content []byte) (jose.JSONWebKeySet, error) {
		keys, err := parseKeys(content)
		if err == nil {
			log.Info("callers' keys read", "keys", len(keys.Keys))
		}
		return keys, err
	})}
	if err := v.Ready(); err != nil {
		log.Error("every caller is refused", "error", err)
	}
	return v
}

func parseKeys(content []byte) (keys jose.JSONWebKeySet, err error) {
	if err := json.Unmarshal(content, &keys); err != nil {
		return keys, fmt.Errorf("not a JSON Web Key Set: %w", err)
	}
	if len(keys.Keys) == 0 {
		return keys, errors.New("the key set is empty")
	}
	for _, key := range keys.Keys {
		if !key.IsPublic() {
			return keys, fmt.Errorf("key %q is not a public key", key.KeyID)
		}
	}
	return keys, nil
}

// Ready returns why nobody can be verified, or nil.
func (v *Verifier) Ready() error {
	if _, err := v.keys.read(); err != nil {
		return fmt.Errorf("read callers' keys: %w", err)
	}
	return nil
}

// Refusal is why a request is refused. Detail is for the log, and never contains the token.
type Refusal struct {
	Reason Reason
	Detail string
}

// Verify returns nil if r carries a valid token of the account, and otherwise why it is refused. A
// token's claims count only after its signature is verified.
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
		return &Refusal{Malformed, "exp or iat is missing"}
	}
	expected := jwt.Expected{Issuer: v.cfg.Issuer, AnyAudience: jwt.Audience{v.cfg.Audience}}
	switch err := claims.ValidateWithLeeway(expected, leeway); {
	case errors.Is(err, jwt.ErrInvalidIssuer):
		return &Refusal{WrongIssuer, claims.Issuer}
	case errors.Is(err, jwt.ErrInvalidAudience):
		return &Refusal{WrongAudience, strings.Join(claims.Audience, ", ")}
	case errors.Is(err, jwt.ErrExpired):
		return &Refusal{Expired, claims.Expiry.Time().UTC().Format(time.RFC3339)}
	case err != nil: // nbf or iat is in the future
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
