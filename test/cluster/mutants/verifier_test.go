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
	old, new string // once in the file
	catcher  string // a test of internal/identity, as -run takes it
}

const verifier = "internal/identity/verifier.go"

var lapses = map[string]lapse{
	"no token will do":                {`return &refusal{noToken, ""}`, `return nil`, "TestWhoIsRefused/^nothing$"},
	"any signature will do":           {`token.Claims(keys, &claims)`, `func() error { _ = keys; return token.UnsafeClaimsWithoutVerification(&claims) }()`, "TestWhoIsRefused/another's_key"},
	"a published key can sign":        {`jwt.ParseSigned(text, algorithms)`, `jwt.ParseSigned(text, append(algorithms, jose.HS256))`, "TestWhoIsRefused/HMAC"},
	"any issuer will do":              {`Issuer: v.cfg.Issuer, AnyAudience`, `AnyAudience`, "TestWhoIsRefused/another_issuer"},
	"any audience will do":            {`, AnyAudience: jwt.Audience{v.cfg.Audience}`, ``, "TestWhoIsRefused/another_audience"},
	"an old token will do":            {`ValidateWithLeeway(expected, leeway)`, `ValidateWithLeeway(expected, 24*time.Hour)`, "TestWhoIsRefused/expired"},
	"a token may live long":           {`lifetime > maxLifetime`, `lifetime > 24*time.Hour`, "TestWhoIsRefused/lives_too_long"},
	"any account will do":             {`claims.Subject != v.cfg.Account`, `claims.Subject == "nobody"`, "TestWhoIsRefused/another_account"},
	"without keys anybody is let in":  {`return &refusal{keysUnavailable, err.Error()}`, `return nil`, "TestWithoutKeysNobodyIsLetIn"},
	"who calls is told what is wrong": {`"a valid token is required"`, `refused.reason`, "TestWhoIsRefused"},
}

// run sees the catcher pass with the code as it is, and fail without the check.
func (l lapse) run(t *testing.T) {
	t.Helper()
	repository, err := filepath.Abs("../../..")
	require.NoError(t, err)
	original := filepath.Join(repository, verifier)
	source, err := os.ReadFile(original)
	require.NoError(t, err)
	require.Equal(t, 1, strings.Count(string(source), l.old), "%s must have exactly once:\n%s", verifier, l.old)

	folder := t.TempDir()
	mutated, overlay := filepath.Join(folder, "verifier.go"), filepath.Join(folder, "overlay.json")
	require.NoError(t, os.WriteFile(mutated, []byte(strings.Replace(string(source), l.old, l.new, 1)), 0o600))
	replace, err := json.Marshal(map[string]any{"Replace": map[string]string{original: mutated}})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(overlay, replace, 0o600))

	test := func(flags ...string) (string, error) {
		command := exec.Command("go", append(append([]string{"test", "-v", "-run=" + l.catcher}, flags...), "./internal/identity")...)
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
