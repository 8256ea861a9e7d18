package identity_test

import (
	"bytes"
	"context"
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
	"sync"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/internal/config"
	"example.com/invoices/internal/identity"
	"example.com/invoices/internal/identitytest"
	"example.com/invoices/internal/server"
)

// newService returns a service that answers GET /door to one account, and its log.
func newService(cfg identity.Config) (*server.Server, *bytes.Buffer) {
	var logs bytes.Buffer
	log := slog.New(slog.NewJSONHandler(&logs, nil))
	verifier := identity.NewVerifier(cfg, log)
	s := server.New(log, nil, func(context.Context) error { return verifier.Ready() })
	s.Registry.MustRegister(verifier.Metrics())
	s.Router.GET("/door", verifier.Require, func(c *gin.Context) { c.String(http.StatusOK, "in") })
	return s, &logs
}

func get(s *server.Server, path, authorization string) *httptest.ResponseRecorder {
	request := httptest.NewRequest(http.MethodGet, path, nil)
	request.Header.Set("Authorization", authorization)
	answer := httptest.NewRecorder()
	s.ServeHTTP(answer, request)
	return answer
}

func from(now time.Duration) *jwt.NumericDate { return jwt.NewNumericDate(time.Now().Add(now)) }

// Each refusal is logged and counted with its reason, and the caller sees the
// same answer whatever the reason is.
func TestWhoIsRefused(t *testing.T) {
	cluster := identitytest.New(t)
	type claims = identitytest.Claims
	type refused struct {
		authorization string
		status        int
		reason        string
	}
	with := func(status int, reason string, change func(*claims)) refused {
		return refused{"Bearer " + cluster.Token(change), status, reason}
	}
	tests := map[string]refused{
		"nothing":               {"", 401, "no_token"},
		"another scheme":        {"Basic aW46aW4=", 401, "no_token"},
		"no token":              {"Bearer ", 401, "malformed"},
		"not a token":           {"Bearer hello", 401, "malformed"},
		"a token and more":      {"Bearer " + cluster.Token() + ".x", 401, "malformed"},
		"another issuer":        with(401, "issuer", func(c *claims) { c.Issuer = "https://elsewhere.example.com" }),
		"no issuer":             with(401, "issuer", func(c *claims) { c.Issuer = "" }),
		"another audience":      with(401, "audience", func(c *claims) { c.Audience = jwt.Audience{"https://cluster.example.com"} }),
		"no audience":           with(401, "audience", func(c *claims) { c.Audience = nil }),
		"expired":               with(401, "expired", func(c *claims) { c.IssuedAt, c.NotBefore, c.Expiry = from(-11*time.Minute), nil, from(-time.Minute) }),
		"not valid yet":         with(401, "not_yet_valid", func(c *claims) { c.NotBefore = from(time.Minute) }),
		"issued in the future":  with(401, "not_yet_valid", func(c *claims) { c.IssuedAt = from(time.Minute) }),
		"lives too long":        with(401, "long_lived", func(c *claims) { c.Expiry = from(time.Hour) }),
		"lives for ever":        with(401, "malformed", func(c *claims) { c.Expiry = nil }),
		"of unknown age":        with(401, "malformed", func(c *claims) { c.IssuedAt = nil }),
		"another account":       with(403, "account", func(c *claims) { c.Subject = "system:serviceaccount:invoicing:default" }),
		"another's namespace":   with(403, "account", func(c *claims) { c.Subject = "system:serviceaccount:stranger:invoice-app" }),
		"no account":            with(403, "account", func(c *claims) { c.Subject = "" }),
		"account and much else": with(401, "audience", func(c *claims) { c.Subject, c.Audience, c.Expiry = "", nil, from(time.Hour) }),
	}
	for name, forgery := range cluster.Forgeries() {
		reason := map[string]string{
			"another's key": "unknown_key", "a key without a name": "unknown_key",
			"alg none": "algorithm", "the public key for an HMAC's key": "algorithm",
		}[name]
		if reason == "" {
			reason = "signature"
		}
		tests[name] = refused{"Bearer " + forgery, 401, reason}
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s, logs := newService(cluster.Config())
			assert.Contains(t, get(s, "/metrics", "").Body.String(), `callers_refused_total{reason="`+test.reason+`"} 0`)
			answer := get(s, "/door", test.authorization)
			assert.Equal(t, test.status, answer.Code)
			if test.status == http.StatusForbidden {
				assert.JSONEq(t, `{"error":"this account may not call"}`, answer.Body.String())
			} else {
				assert.JSONEq(t, `{"error":"a valid token is required"}`, answer.Body.String())
				assert.Equal(t, "Bearer", answer.Header().Get("WWW-Authenticate"))
			}
			assert.Contains(t, logs.String(), `"reason":"`+test.reason+`"`)
			assert.Contains(t, get(s, "/metrics", "").Body.String(), `callers_refused_total{reason="`+test.reason+`"} 1`)
			if _, token, _ := strings.Cut(test.authorization, " "); len(token) > 10 {
				for part := range strings.SplitSeq(token, ".") {
					if len(part) > 1 {
						assert.NotContains(t, logs.String(), part, "a token is a secret")
					}
				}
			}
		})
	}
}

func TestWhoIsLetIn(t *testing.T) {
	cluster := identitytest.New(t)
	s, logs := newService(cluster.Config())
	type claims = identitytest.Claims
	for name, token := range map[string]string{
		"as Kubernetes makes it":   cluster.Token(),
		"for others, too":          cluster.Token(func(c *claims) { c.Audience = append(jwt.Audience{"another"}, c.Audience...) }),
		"by a clock that is ahead": cluster.Token(func(c *claims) { c.IssuedAt, c.NotBefore = from(20*time.Second), from(20*time.Second) }),
		"by a clock that is behind": cluster.Token(func(c *claims) {
			c.IssuedAt, c.NotBefore, c.Expiry = from(-610*time.Second), nil, from(-10*time.Second)
		}),
		"that ends before it has to":  cluster.Token(func(c *claims) { c.Expiry = from(time.Minute) }),
		"without saying from when on": cluster.Token(func(c *claims) { c.NotBefore = nil }),
	} {
		answer := get(s, "/door", "Bearer "+token)
		assert.Equal(t, http.StatusOK, answer.Code, "%s: %s", name, logs)
		assert.Equal(t, "in", answer.Body.String())
	}
	assert.Equal(t, http.StatusOK, get(s, "/door", "bearer "+cluster.Token()).Code, "the scheme's case does not matter")
	assert.NotContains(t, logs.String(), "caller refused")
}

// Without keys nobody is let in, the service says that it is not ready, and
// both end by themselves when there are keys.
func TestWithoutKeysNobodyIsLetIn(t *testing.T) {
	cluster := identitytest.New(t)
	cfg := cluster.Config()
	good, err := os.ReadFile(cfg.KeysFile)
	require.NoError(t, err)
	cfg.KeysFile = filepath.Join(t.TempDir(), "jwks.json")
	s, logs := newService(cfg)
	assert.Contains(t, logs.String(), "every caller is refused", "at the start")

	put := func(content []byte) {
		t.Helper()
		require.NoError(t, os.WriteFile(cfg.KeysFile+".new", content, 0o600))
		require.NoError(t, os.Rename(cfg.KeysFile+".new", cfg.KeysFile))
	}
	ready := func(status int) {
		t.Helper()
		time.Sleep(time.Second) // for so long the last answer is kept
		assert.Equal(t, status, get(s, "/readyz", "").Code)
		assert.Equal(t, http.StatusOK, get(s, "/livez", "").Code)
	}
	closed := func(name string) {
		t.Helper()
		answer := get(s, "/door", "Bearer "+cluster.Token())
		assert.Equal(t, http.StatusServiceUnavailable, answer.Code, name)
		assert.JSONEq(t, `{"error":"callers cannot be verified, try again"}`, answer.Body.String(), name)
	}
	open := func() {
		t.Helper()
		put(good)
		assert.Equal(t, http.StatusOK, get(s, "/door", "Bearer "+cluster.Token()).Code)
	}

	closed("no file")
	ready(http.StatusServiceUnavailable)
	open()
	ready(http.StatusOK)
	require.NoError(t, os.Remove(cfg.KeysFile))
	closed("removed")
	ready(http.StatusServiceUnavailable)
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
	assert.Contains(t, get(s, "/metrics", "").Body.String(), `callers_refused_total{reason="keys_unavailable"} 8`)
}

// Keys are rotated and tokens renewed as a cluster does it, while several
// callers call without a pause: the new key is published, then signs, and the
// old one is withdrawn when no token of it is in use any more.
func TestRotationFailsNoCall(t *testing.T) {
	const rotations, callers = 50, 8
	cluster := identitytest.New(t)
	s, logs := newService(cluster.Config())
	door := httptest.NewServer(s)
	defer door.Close()
	token := identity.NewTokenFile(cluster.TokenFile(cluster.Token()))

	var calling sync.WaitGroup
	var inUse sync.RWMutex // held while a token is
	stop := make(chan struct{})
	for range callers {
		calling.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				request, err := http.NewRequest(http.MethodGet, door.URL+"/door", nil)
				if !assert.NoError(t, err) {
					return
				}
				inUse.RLock()
				err = token.Authorize(request)
				if !assert.NoError(t, err) {
					inUse.RUnlock()
					return
				}
				response, err := http.DefaultClient.Do(request)
				inUse.RUnlock()
				if !assert.NoError(t, err) {
					return
				}
				response.Body.Close()
				if !assert.Equal(t, http.StatusOK, response.StatusCode) {
					return
				}
			}
		})
	}
	first := cluster.Token()
	for range rotations {
		cluster.AddKey()
		cluster.TokenFile(cluster.Token())
		time.Sleep(10 * time.Millisecond) // for some calls with both
		inUse.Lock()
		cluster.RemoveKey()
		inUse.Unlock()
	}
	close(stop)
	calling.Wait()
	door.Close() // the log is complete then
	assert.NotContains(t, logs.String(), "caller refused")
	assert.Equal(t, http.StatusUnauthorized, get(s, "/door", "Bearer "+first).Code, "its key is withdrawn")
}

func TestATokenFileThatIsOfNoUse(t *testing.T) {
	cluster := identitytest.New(t)
	path := cluster.TokenFile("")
	token := identity.NewTokenFile(path)
	request := httptest.NewRequest(http.MethodGet, "/", nil)
	assert.ErrorContains(t, token.Authorize(request), "there is no token in it")
	cluster.TokenFile("one")
	require.NoError(t, token.Authorize(request))
	assert.Equal(t, "Bearer one", request.Header.Get("Authorization"))
	require.NoError(t, os.Remove(path))
	assert.ErrorIs(t, token.Authorize(request), os.ErrNotExist)
	cluster.TokenFile("two")
	require.NoError(t, token.Authorize(request))
	assert.Equal(t, "Bearer two", request.Header.Get("Authorization"), "one header, not two")
}

func TestConfigIsCompleteOrEmpty(t *testing.T) {
	t.Chdir(t.TempDir())
	all := map[string]string{"CALLER_KEYS_FILE": "/keys", "CALLER_ISSUER": "me", "CALLER_AUDIENCE": "you", "CALLER_ACCOUNT": "them"}
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
			assert.ErrorContains(t, err, "allowed is to set all four, or none of them")
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
