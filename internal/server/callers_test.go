package server

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/internal/identity"
	"example.com/invoices/internal/identitytest"
)

// newDoor returns a server with an endpoint for one account only, and its log.
func newDoor(cfg identity.Config) (*Server, *bytes.Buffer) {
	var logs bytes.Buffer
	log := slog.New(slog.NewJSONHandler(&logs, nil))
	verifier := identity.NewVerifier(cfg, log)
	s := New(log, prometheus.NewRegistry(), nil, func(context.Context) error { return verifier.Ready() })
	s.Router.GET("/door", s.RequireCaller(verifier), func(c *gin.Context) { c.String(http.StatusOK, "in") })
	return s, &logs
}

func knock(s *Server, authorization string) *httptest.ResponseRecorder {
	request := httptest.NewRequest(http.MethodGet, "/door", nil)
	request.Header.Set("Authorization", authorization)
	response := httptest.NewRecorder()
	s.ServeHTTP(response, request)
	return response
}

// Each refusal is logged and counted with its reason, which the caller does not see.
func TestRefusedCallers(t *testing.T) {
	cluster := identitytest.New(t)
	noKeys := cluster.Config()
	noKeys.KeysFile = filepath.Join(t.TempDir(), "jwks.json")
	for name, test := range map[string]struct {
		cfg           identity.Config
		authorization string
		reason        identity.Reason
		status        int
		body          string
	}{
		"no token": {cluster.Config(), "", identity.NoToken, 401, `{"error":"a valid token is required"}`},
		"a forged token": {cluster.Config(), "Bearer " + cluster.Forgeries()["another payload"],
			identity.WrongSignature, 401, `{"error":"a valid token is required"}`},
		"another account": {cluster.Config(),
			"Bearer " + cluster.Token(func(c *identitytest.Claims) { c.Subject = "another" }),
			identity.WrongAccount, 403, `{"error":"this account is not allowed to call"}`},
		"no keys": {noKeys, "Bearer " + cluster.Token(), identity.KeysUnavailable,
			503, `{"error":"callers cannot be verified, try again"}`},
	} {
		t.Run(name, func(t *testing.T) {
			s, logs := newDoor(test.cfg)
			counter := `callers_refused_total{reason="` + string(test.reason) + `"} `
			assert.Contains(t, get(s, "/metrics").Body.String(), counter+"0")
			response := knock(s, test.authorization)
			assert.Equal(t, test.status, response.Code)
			assert.JSONEq(t, test.body, response.Body.String())
			if test.status == http.StatusUnauthorized {
				assert.Equal(t, "Bearer", response.Header().Get("WWW-Authenticate"))
			}
			assert.Contains(t, logs.String(), `"reason":"`+string(test.reason)+`"`)
			assert.Contains(t, get(s, "/metrics").Body.String(), counter+"1")
			for part := range strings.SplitSeq(strings.TrimPrefix(test.authorization, "Bearer "), ".") {
				if part != "" {
					assert.NotContains(t, logs.String(), part, "a token is a secret")
				}
			}
		})
	}
}

func TestAcceptedCaller(t *testing.T) {
	cluster := identitytest.New(t)
	s, logs := newDoor(cluster.Config())
	response := knock(s, "Bearer "+cluster.Token())
	assert.Equal(t, http.StatusOK, response.Code)
	assert.Equal(t, "in", response.Body.String())
	assert.NotContains(t, logs.String(), "caller refused")
}

// A server without keys is not ready, and becomes ready when there are keys.
func TestReadinessFollowsTheKeys(t *testing.T) {
	cluster := identitytest.New(t)
	keys, err := os.ReadFile(cluster.Config().KeysFile)
	require.NoError(t, err)
	cfg := cluster.Config()
	cfg.KeysFile = filepath.Join(t.TempDir(), "jwks.json")
	synctest.Test(t, func(t *testing.T) {
		s, _ := newDoor(cfg)
		assert.Equal(t, http.StatusServiceUnavailable, get(s, "/readyz").Code)
		assert.Equal(t, http.StatusOK, get(s, "/livez").Code)
		require.NoError(t, os.WriteFile(cfg.KeysFile, keys, 0o600))
		time.Sleep(readyEvery)
		assert.Equal(t, http.StatusOK, get(s, "/readyz").Code)
	})
}

// Keys are rotated and tokens renewed as in a cluster, while several callers send requests without
// a pause: the new key is published, then it signs, and the old one is withdrawn when no token
// signed by it is in use any more.
func TestRotationFailsNoCall(t *testing.T) {
	const rotations, callers = 50, 8
	cluster := identitytest.New(t)
	s, logs := newDoor(cluster.Config())
	door := httptest.NewServer(s)
	defer door.Close()
	token := identity.NewTokenFile(cluster.TokenFile(cluster.Token()))

	var calling sync.WaitGroup
	var inUse sync.RWMutex // held while a token is in use
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
		time.Sleep(10 * time.Millisecond) // for some requests with both
		inUse.Lock()
		cluster.RemoveKey()
		inUse.Unlock()
	}
	close(stop)
	calling.Wait()
	door.Close() // the log is complete then
	assert.NotContains(t, logs.String(), "caller refused")
	assert.Equal(t, http.StatusUnauthorized, knock(s, "Bearer "+first).Code, "its key is withdrawn")
}
