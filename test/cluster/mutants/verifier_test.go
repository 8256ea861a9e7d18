package mutants

import (
	"path/filepath"
	"testing"

	"example.com/invoices/internal/mutation"
)

// A lapse is a check that is missing from the code by which payment-provider knows its caller.
type lapse struct {
	mutation.Mutation
	catcher string // a test of the file's package, as -run takes it
}

const (
	verifier = "internal/identity/verifier.go"
	callers  = "internal/server/callers.go"
)

var lapses = map[string]lapse{
	"no token will do": {mutation.Mutation{File: verifier, Old: `return &Refusal{NoToken, ""}`, New: `return nil`},
		"TestRefusedTokens/^nothing$"},
	"any signature will do": {mutation.Mutation{File: verifier, Old: `token.Claims(keys, &claims)`, New: `func() error { _ = keys; return token.UnsafeClaimsWithoutVerification(&claims) }()`},
		"TestRefusedTokens/another's_key"},
	"a published key can sign": {mutation.Mutation{File: verifier, Old: `jwt.ParseSigned(text, algorithms)`, New: `jwt.ParseSigned(text, append(algorithms, jose.HS256))`},
		"TestRefusedTokens/HMAC"},
	"any issuer will do": {mutation.Mutation{File: verifier, Old: `Issuer: v.cfg.Issuer, AnyAudience`, New: `AnyAudience`},
		"TestRefusedTokens/another_issuer"},
	"any audience will do": {mutation.Mutation{File: verifier, Old: `, AnyAudience: jwt.Audience{v.cfg.Audience}`, New: ``},
		"TestRefusedTokens/another_audience"},
	"an old token will do": {mutation.Mutation{File: verifier, Old: `ValidateWithLeeway(expected, leeway)`, New: `ValidateWithLeeway(expected, 24*time.Hour)`},
		"TestRefusedTokens/expired"},
	"a token may live long": {mutation.Mutation{File: verifier, Old: `lifetime > maxLifetime`, New: `lifetime > 24*time.Hour`},
		"TestRefusedTokens/lives_too_long"},
	"any account will do": {mutation.Mutation{File: verifier, Old: `claims.Subject != v.cfg.Account`, New: `claims.Subject == "nobody"`},
		"TestRefusedTokens/another_account"},
	"without keys anybody is let in": {mutation.Mutation{File: verifier, Old: `return &Refusal{KeysUnavailable, err.Error()}`, New: `return nil`},
		"TestWithoutKeysEveryTokenIsRefused"},
	"nobody is asked who calls": {mutation.Mutation{File: "payment-provider/api/api.go", Old: `payments.Use(s.RequireCaller(callers))`, New: `_ = s.RequireCaller(callers)`},
		"TestPaymentsNeedAToken"},
	"a key that can sign will do": {mutation.Mutation{File: verifier, Old: `!key.IsPublic()`, New: `false`},
		"TestWithoutKeysEveryTokenIsRefused"},
	"a token may live for ever": {mutation.Mutation{File: verifier, Old: `claims.Expiry == nil || claims.IssuedAt == nil`, New: `false`},
		"TestRefusedTokens/lives_for_ever"},
	"a token of tomorrow will do": {mutation.Mutation{File: verifier, Old: `return &Refusal{NotYetValid, err.Error()}`, New: `return nil`},
		"TestRefusedTokens/not_valid_yet"},
	"a refusal is not counted": {mutation.Mutation{File: callers, Old: `refused.WithLabelValues(string(refusal.Reason)).Inc()`, New: ``},
		"TestRefusedCallers/no_token"},
	"who calls is told what is wrong": {mutation.Mutation{File: callers, Old: `"a valid token is required"`, New: `string(refusal.Reason)`},
		"TestRefusedCallers"},
}

// run sees the catcher pass with the code as it is, and fail without the check.
func (l lapse) run(t *testing.T) {
	t.Helper()
	l.RequireCaught(t, "../../..", filepath.Dir(l.File), l.catcher)
}
