package identity_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/internal/config"
	"example.com/invoices/internal/identity"
	"example.com/invoices/internal/identitytest"
)

// newVerifier returns a Verifier, and its log.
func newVerifier(cfg identity.Config) (*identity.Verifier, *bytes.Buffer) {
	var logs bytes.Buffer
	return identity.NewVerifier(cfg, slog.New(slog.NewJSONHandler(&logs, nil))), &logs
}

func verify(v *identity.Verifier, authorization string) *identity.Refusal {
	request := httptest.NewRequest(http.MethodGet, "/", nil)
	request.Header.Set("Authorization", authorization)
	return v.Verify(request)
}

func from(now time.Duration) *jwt.NumericDate { return jwt.NewNumericDate(time.Now().Add(now)) }

func TestRefusedTokens(t *testing.T) {
	cluster := identitytest.New(t)
	type claims = identitytest.Claims
	type refused struct {
		authorization string
		reason        identity.Reason
	}
	with := func(reason identity.Reason, change func(*claims)) refused {
		return refused{"Bearer " + cluster.Token(change), reason}
	}
	tests := map[string]refused{
		"nothing":          {"", identity.NoToken},
		"another scheme":   {"Basic aW46aW4=", identity.NoToken},
		"no token":         {"Bearer ", identity.Malformed},
		"not a token":      {"Bearer hello", identity.Malformed},
		"a token and more": {"Bearer " + cluster.Token() + ".x", identity.Malformed},
		"another issuer":   with(identity.WrongIssuer, func(c *claims) { c.Issuer = "https://elsewhere.example.com" }),
		"no issuer":        with(identity.WrongIssuer, func(c *claims) { c.Issuer = "" }),
		"another audience": with(identity.WrongAudience,
			func(c *claims) { c.Audience = jwt.Audience{"https://cluster.example.com"} }),
		"no audience": with(identity.WrongAudience, func(c *claims) { c.Audience = nil }),
		"expired": with(identity.Expired,
			func(c *claims) { c.IssuedAt, c.NotBefore, c.Expiry = from(-11*time.Minute), nil, from(-time.Minute) }),
		"not valid yet":        with(identity.NotYetValid, func(c *claims) { c.NotBefore = from(time.Minute) }),
		"issued in the future": with(identity.NotYetValid, func(c *claims) { c.IssuedAt = from(time.Minute) }),
		"lives too long":       with(identity.LongLived, func(c *claims) { c.Expiry = from(time.Hour) }),
		"lives for ever":       with(identity.Malformed, func(c *claims) { c.Expiry = nil }),
		"of unknown age":       with(identity.Malformed, func(c *claims) { c.IssuedAt = nil }),
		"another account": with(identity.WrongAccount,
			func(c *claims) { c.Subject = "system:serviceaccount:invoicing:default" }),
		"another's namespace": with(identity.WrongAccount,
			func(c *claims) { c.Subject = "system:serviceaccount:stranger:invoice-app" }),
		"no account": with(identity.WrongAccount, func(c *claims) { c.Subject = "" }),
		"account and much else": with(identity.WrongAudience,
			func(c *claims) { c.Subject, c.Audience, c.Expiry = "", nil, from(time.Hour) }),
	}
	for name, forgery := range cluster.Forgeries() {
		reason := map[string]identity.Reason{
			"another's key": identity.UnknownKey, "a key without a name": identity.UnknownKey,
			"alg none": identity.WrongAlgorithm, "the public key for an HMAC's key": identity.WrongAlgorithm,
		}[name]
		if reason == "" {
			reason = identity.WrongSignature
		}
		tests[name] = refused{"Bearer " + forgery, reason}
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			v, _ := newVerifier(cluster.Config())
			refusal := verify(v, test.authorization)
			require.NotNil(t, refusal)
			assert.Equal(t, test.reason, refusal.Reason)
			assert.Contains(t, identity.Reasons, refusal.Reason)
			if _, token, _ := strings.Cut(test.authorization, " "); len(token) > 10 {
				for part := range strings.SplitSeq(token, ".") {
					if len(part) > 1 {
						assert.NotContains(t, refusal.Detail, part, "a token is a secret")
					}
				}
			}
		})
	}
}

func TestAcceptedTokens(t *testing.T) {
	cluster := identitytest.New(t)
	v, _ := newVerifier(cluster.Config())
	type claims = identitytest.Claims
	for name, token := range map[string]string{
		"as Kubernetes makes it": cluster.Token(),
		"for others, too": cluster.Token(
			func(c *claims) { c.Audience = append(jwt.Audience{"another"}, c.Audience...) }),
		"by a clock that is ahead": cluster.Token(func(c *claims) {
			c.IssuedAt, c.NotBefore = from(20*time.Second), from(20*time.Second)
		}),
		"by a clock that is behind": cluster.Token(func(c *claims) {
			c.IssuedAt, c.NotBefore, c.Expiry = from(-610*time.Second), nil, from(-10*time.Second)
		}),
		"that ends before it has to":  cluster.Token(func(c *claims) { c.Expiry = from(time.Minute) }),
		"without saying from when on": cluster.Token(func(c *claims) { c.NotBefore = nil }),
	} {
		assert.Nil(t, verify(v, "Bearer "+token), name)
	}
	assert.Nil(t, verify(v, "bearer "+cluster.Token()), "the scheme's case does not matter")
}

// Without keys every caller is refused and the verifier is not ready, until there are keys.
func TestWithoutKeysEveryTokenIsRefused(t *testing.T) {
	cluster := identitytest.New(t)
	cfg := cluster.Config()
	good, err := os.ReadFile(cfg.KeysFile)
	require.NoError(t, err)
	cfg.KeysFile = filepath.Join(t.TempDir(), "jwks.json")
	v, logs := newVerifier(cfg)
	assert.Contains(t, logs.String(), "every caller is refused", "at the start")

	put := func(content []byte) {
		t.Helper()
		require.NoError(t, os.WriteFile(cfg.KeysFile+".new", content, 0o600))
		require.NoError(t, os.Rename(cfg.KeysFile+".new", cfg.KeysFile))
	}
	closed := func(name string) {
		t.Helper()
		refusal := verify(v, "Bearer "+cluster.Token())
		require.NotNil(t, refusal, name)
		assert.Equal(t, identity.KeysUnavailable, refusal.Reason, name)
		assert.Error(t, v.Ready(), name)
	}
	open := func() {
		t.Helper()
		put(good)
		assert.Nil(t, verify(v, "Bearer "+cluster.Token()))
		assert.NoError(t, v.Ready())
	}

	closed("no file")
	open()
	require.NoError(t, os.Remove(cfg.KeysFile))
	closed("removed")
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	for name, key := range map[string]any{"a private key": private, "a secret": []byte("secret")} {
		content, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key, KeyID: "key-1"}}})
		require.NoError(t, err)
		put(content)
		closed(name)
	}
	for _, content := range []string{"", "<html>", "{}", `{"keys":[]}`} {
		put([]byte(content))
		closed(content)
	}
	open()
}

func TestUnusableTokenFile(t *testing.T) {
	cluster := identitytest.New(t)
	path := cluster.TokenFile("")
	token := identity.NewTokenFile(path)
	request := httptest.NewRequest(http.MethodGet, "/", nil)
	assert.ErrorContains(t, token.Authorize(request), "the file is empty")
	cluster.TokenFile("one")
	require.NoError(t, token.Authorize(request))
	assert.Equal(t, "Bearer one", request.Header.Get("Authorization"))
	require.NoError(t, os.Remove(path))
	assert.ErrorIs(t, token.Authorize(request), os.ErrNotExist)
	cluster.TokenFile("two")
	require.NoError(t, token.Authorize(request))
	assert.Equal(t, "Bearer two", request.Header.Get("Authorization"), "one header, not two")
}

// A laptop sleeps for an hour, and its clock jumps: a token that the kubelet has renewed is accepted at
// once, and until then the reason is said.
func TestTokensAndClocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := identitytest.New(t)
		v, _ := newVerifier(cluster.Config())
		own := identity.NewTokenFile(cluster.TokenFile(cluster.Token()))
		ask := func() *identity.Refusal {
			request := httptest.NewRequest(http.MethodGet, "/", nil)
			require.NoError(t, own.Authorize(request))
			return v.Verify(request)
		}
		good := func() {
			t.Helper()
			assert.Nil(t, ask())
			assert.Empty(t, own.Trouble())
		}
		good()
		time.Sleep(10 * time.Minute)
		good()

		time.Sleep(time.Hour)
		refusal := ask()
		require.NotNil(t, refusal)
		assert.Equal(t, identity.Expired, refusal.Reason)
		assert.Equal(t, "this service's token expired 1h0m0s ago; the kubelet replaces it within two minutes "+
			"after a machine was suspended", own.Trouble())
		cluster.TokenFile(cluster.Token())
		good()

		const day = 24 * time.Hour // the clock was ahead by it
		cluster.TokenFile(cluster.Token(func(c *identitytest.Claims) {
			c.IssuedAt, c.NotBefore, c.Expiry = from(day), from(day), from(day+10*time.Minute)
		}))
		refusal = ask()
		require.NotNil(t, refusal)
		assert.Equal(t, identity.NotYetValid, refusal.Reason)
		assert.Equal(t, "this service's token was issued by a clock that was 24h0m0s ahead; "+
			"delete this pod, and the next one gets a valid token", own.Trouble())
		cluster.TokenFile(cluster.Token())
		good()

		for _, other := range []string{"", "hello", cluster.Token(func(c *identitytest.Claims) { c.Expiry = nil })} {
			cluster.TokenFile(other)
			assert.Empty(t, own.Trouble(), "that is not about time")
		}
	})
}

func TestConfigIsCompleteOrEmpty(t *testing.T) {
	t.Chdir(t.TempDir())
	all := map[string]string{"CALLER_KEYS_FILE": "/keys",
		"CALLER_ISSUER": "me", "CALLER_AUDIENCE": "you", "CALLER_ACCOUNT": "them"}
	read := func(t *testing.T, without string) (identity.Config, error) {
		for name, value := range all {
			if name != without {
				t.Setenv(name, value)
			}
		}
		s := config.New("service")
		return identity.ReadConfig(s), s.Err()
	}
	for name := range all {
		t.Run("without "+name, func(t *testing.T) {
			_, err := read(t, name)
			assert.ErrorContains(t, err, name+`=""`)
			assert.ErrorContains(t, err, "must be all set, or all unset")
		})
	}
	cfg, err := read(t, "")
	require.NoError(t, err)
	assert.Equal(t, identity.Config{KeysFile: "/keys", Issuer: "me", Audience: "you", Account: "them"}, cfg)
	for name := range all {
		t.Setenv(name, "")
	}
	s := config.New("service")
	assert.Equal(t, identity.Config{}, identity.ReadConfig(s))
	assert.NoError(t, s.Err())
}
