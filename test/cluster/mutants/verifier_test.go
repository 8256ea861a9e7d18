package mutants

import (
	"path/filepath"
	"testing"

	"example.com/invoices/internal/mutation"
)

// A lapse is a missing check in the code with which payment-provider verifies its callers.
type lapse struct {
	mutation.Mutation
	catcher string // the test of the file's package that must fail, as a pattern for -run
}

const (
	verifier = "internal/identity/verifier.go"
	callers  = "internal/server/callers.go"
)

var lapses = map[string]lapse{
	"a request without a token is accepted": {mutation.Mutation{File: verifier,
		Old: `return &Refusal{NoToken, ""}`, New: `return nil`},
		"TestRefusedTokens/^nothing$"},
	"any signature is accepted": {mutation.Mutation{File: verifier,
		Old: `token.Claims(keys, &claims)`,
		New: `func() error { _ = keys; return token.UnsafeClaimsWithoutVerification(&claims) }()`},
		"TestRefusedTokens/another's_key"},
	"a published key can sign": {mutation.Mutation{File: verifier,
		Old: `jwt.ParseSigned(text, algorithms)`, New: `jwt.ParseSigned(text, append(algorithms, jose.HS256))`},
		"TestRefusedTokens/HMAC"},
	"any issuer is accepted": {mutation.Mutation{File: verifier,
		Old: `Issuer: v.cfg.Issuer, AnyAudience`, New: `AnyAudience`},
		"TestRefusedTokens/another_issuer"},
	"any audience is accepted": {mutation.Mutation{File: verifier,
		Old: `, AnyAudience: jwt.Audience{v.cfg.Audience}`, New: ``},
		"TestRefusedTokens/another_audience"},
	"an expired token is accepted": {mutation.Mutation{File: verifier,
		Old: `ValidateWithLeeway(expected, leeway)`, New: `ValidateWithLeeway(expected, 24*time.Hour)`},
		"TestRefusedTokens/expired"},
	"a long-lived token is accepted": {mutation.Mutation{File: verifier,
		Old: `lifetime > maxLifetime`, New: `lifetime > 24*time.Hour`},
		"TestRefusedTokens/lives_too_long"},
	"any account is accepted": {mutation.Mutation{File: verifier,
		Old: `claims.Subject != v.cfg.Account`, New: `claims.Subject == "nobody"`},
		"TestRefusedTokens/another_account"},
	"without keys any caller is accepted": {mutation.Mutation{File: verifier,
		Old: `return &Refusal{KeysUnavailable, err.Error()}`, New: `return nil`},
		"TestWithoutKeysEveryTokenIsRefused"},
	"callers are not verified": {mutation.Mutation{File: "payment-provider/api/api.go",
		Old: `payments.Use(s.RequireCaller(callers))`, New: `_ = s.RequireCaller(callers)`},
		"TestPaymentsNeedAToken"},
	"a private key is accepted as a public one": {mutation.Mutation{File: verifier,
		Old: `!key.IsPublic()`, New: `false`},
		"TestWithoutKeysEveryTokenIsRefused"},
	"a token without an expiry is accepted": {mutation.Mutation{File: verifier,
		Old: `claims.Expiry == nil || claims.IssuedAt == nil`, New: `false`},
		"TestRefusedTokens/lives_for_ever"},
	"a token is accepted before it is valid": {mutation.Mutation{File: verifier,
		Old: `return &Refusal{NotYetValid, err.Error()}`, New: `return nil`},
		"TestRefusedTokens/not_valid_yet"},
	"a refusal is not counted": {mutation.Mutation{File: callers,
		Old: `refused.WithLabelValues(string(refusal.Reason)).Inc()`, New: ``},
		"TestRefusedCallers/no_token"},
	"a caller is told why it is refused": {mutation.Mutation{File: callers,
		Old: `"a valid token is required"`, New: `string(refusal.Reason)`},
		"TestRefusedCallers"},
}

// run expects the catcher to pass with the original code, and to fail without the check.
func (l lapse) run(t *testing.T) {
	t.Helper()
	l.RequireCaught(t, "../../..", filepath.Dir(l.File), l.catcher)
}
