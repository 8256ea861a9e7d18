package mutants

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A lapse is a check that is missing from the code by which payment-provider knows its caller.
type lapse struct {
	file     string
	old, new string // once in the file
	catcher  string // a test of its package, as -run takes it
}

const verifier = "internal/identity/verifier.go"

var lapses = map[string]lapse{
	"no token will do":                {verifier, `return &refusal{noToken, ""}`, `return nil`, "TestWhoIsRefused/^nothing$"},
	"any signature will do":           {verifier, `token.Claims(keys, &claims)`, `func() error { _ = keys; return token.UnsafeClaimsWithoutVerification(&claims) }()`, "TestWhoIsRefused/another's_key"},
	"a published key can sign":        {verifier, `jwt.ParseSigned(text, algorithms)`, `jwt.ParseSigned(text, append(algorithms, jose.HS256))`, "TestWhoIsRefused/HMAC"},
	"any issuer will do":              {verifier, `Issuer: v.cfg.Issuer, AnyAudience`, `AnyAudience`, "TestWhoIsRefused/another_issuer"},
	"any audience will do":            {verifier, `, AnyAudience: jwt.Audience{v.cfg.Audience}`, ``, "TestWhoIsRefused/another_audience"},
	"an old token will do":            {verifier, `ValidateWithLeeway(expected, leeway)`, `ValidateWithLeeway(expected, 24*time.Hour)`, "TestWhoIsRefused/expired"},
	"a token may live long":           {verifier, `lifetime > maxLifetime`, `lifetime > 24*time.Hour`, "TestWhoIsRefused/lives_too_long"},
	"any account will do":             {verifier, `claims.Subject != v.cfg.Account`, `claims.Subject == "nobody"`, "TestWhoIsRefused/another_account"},
	"without keys anybody is let in":  {verifier, `return &refusal{keysUnavailable, err.Error()}`, `return nil`, "TestWithoutKeysNobodyIsLetIn"},
	"nobody is asked who calls":       {"payment-provider/api/api.go", `payments.Use(callers.Require)`, `_ = callers.Require`, "TestWhatIsUnderPaymentsNeedsAToken"},
	"a key that can sign will do":     {verifier, `!key.IsPublic()`, `false`, "TestWithoutKeysNobodyIsLetIn"},
	"a token may live for ever":       {verifier, `claims.Expiry == nil || claims.IssuedAt == nil`, `false`, "TestWhoIsRefused/lives_for_ever"},
	"a token of tomorrow will do":     {verifier, `return &refusal{notYetValid, err.Error()}`, `return nil`, "TestWhoIsRefused/not_valid_yet"},
	"a refusal is not counted":        {verifier, `v.refused.WithLabelValues(refused.reason).Inc()`, ``, "TestWhoIsRefused/nothing"},
	"who calls is told what is wrong": {verifier, `"a valid token is required"`, `refused.reason`, "TestWhoIsRefused"},
}

// run sees the catcher pass with the code as it is, and fail without the check.
func (l lapse) run(t *testing.T) {
	t.Helper()
	repository, err := filepath.Abs("../../..")
	require.NoError(t, err)
	original := filepath.Join(repository, l.file)
	source, err := os.ReadFile(original)
	require.NoError(t, err)
	require.Equal(t, 1, strings.Count(string(source), l.old), "%s must have exactly once:\n%s", l.file, l.old)

	folder := t.TempDir()
	mutated, overlay := filepath.Join(folder, "mutated.go"), filepath.Join(folder, "overlay.json")
	require.NoError(t, os.WriteFile(mutated, []byte(strings.Replace(string(source), l.old, l.new, 1)), 0o600))
	replace, err := json.Marshal(map[string]any{"Replace": map[string]string{original: mutated}})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(overlay, replace, 0o600))

	test := func(flags ...string) (string, error) {
		command := exec.Command("go", append(append([]string{"test", "-v", "-run=" + l.catcher}, flags...), "./"+filepath.Dir(l.file))...)
		command.Dir = repository
		output, err := command.CombinedOutput()
		return string(output), err
	}
	output, err := test()
	require.NoError(t, err, "%s", output)
	require.Contains(t, output, "--- PASS", "there is no test %s", l.catcher)
	output, err = test("-overlay=" + overlay)
	require.Error(t, err, "%s has not noticed", l.catcher)
	require.Contains(t, output, "--- FAIL", "it does not compile")
}
