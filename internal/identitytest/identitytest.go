// Package identitytest plays the cluster in tests of service identity: like its API server it
// signs tokens and publishes keys, and like its kubelet it puts both into files.
package identitytest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/stretchr/testify/require"

	"example.com/invoices/internal/identity"
)

// Cluster has keys that sign tokens. Its methods are safe for concurrent use.
type Cluster struct {
	t      testing.TB
	folder string

	mu    sync.Mutex
	kids  int
	keys  []jose.JSONWebKey // private; the newest signs
	turns int               // calls of replace
}

// New returns a Cluster that has published one key.
func New(t testing.TB) *Cluster {
	t.Helper()
	c := &Cluster{t: t, folder: t.TempDir()}
	c.AddKey()
	return c
}

// Config returns a Config that accepts the tokens that Token returns, with the published keys.
func (c *Cluster) Config() identity.Config {
	return identity.Config{
		KeysFile: filepath.Join(c.folder, "jwks.json"),
		Issuer:   "https://cluster.example.com",
		Audience: "payment-provider",
		Account:  "system:serviceaccount:invoicing:invoice-app",
	}
}

// AddKey publishes another key, and signs with it from now on.
func (c *Cluster) AddKey() {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kids++
	c.keys = append(c.keys, NewKey(c.t, fmt.Sprint("key-", c.kids)))
	c.publish()
}

// RemoveKey withdraws the oldest key.
func (c *Cluster) RemoveKey() {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keys = slices.Delete(c.keys, 0, 1)
	c.publish()
}

// NewKey returns a private key to sign tokens with.
func NewKey(t testing.TB, kid string) jose.JSONWebKey {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	return jose.JSONWebKey{Key: private, KeyID: kid, Algorithm: string(jose.ES256), Use: "sig"}
}

func (c *Cluster) publish() {
	var published jose.JSONWebKeySet
	for _, key := range c.keys {
		published.Keys = append(published.Keys, key.Public())
	}
	text, err := json.Marshal(published)
	require.NoError(c.t, err)
	c.replace(c.Config().KeysFile, text)
}

// replace swaps a symbolic link, as the kubelet does.
func (c *Cluster) replace(path string, content []byte) {
	c.turns++
	real := fmt.Sprintf("%s.%d", path, c.turns)
	require.NoError(c.t, os.WriteFile(real, content, 0o600))
	old, err := os.Readlink(path)
	link := path + ".link"
	require.NoError(c.t, os.Symlink(real, link))
	require.NoError(c.t, os.Rename(link, path))
	if err == nil {
		require.NoError(c.t, os.Remove(old))
	}
}

// TokenFile replaces the file with the token by one with this content, which may be anything, and
// returns its path.
func (c *Cluster) TokenFile(content string) string {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	path := filepath.Join(c.folder, "token")
	c.replace(path, []byte(content+"\n"))
	return path
}

// Claims are the claims of a token.
type Claims = jwt.Claims

// Token returns a token that Config accepts, unless the changes make it invalid.
func (c *Cluster) Token(changes ...func(*Claims)) string {
	c.t.Helper()
	c.mu.Lock()
	key := c.keys[len(c.keys)-1]
	c.mu.Unlock()
	return c.sign(jose.ES256, key, changes)
}

// Forgeries returns tokens with the claims of Token's that no key of this cluster has signed, by
// what is wrong with them.
func (c *Cluster) Forgeries() map[string]string {
	c.t.Helper()
	c.mu.Lock()
	own := c.keys[len(c.keys)-1]
	c.mu.Unlock()
	public, err := json.Marshal(own.Public())
	require.NoError(c.t, err)
	part := base64.RawURLEncoding.EncodeToString

	good := strings.Split(c.Token(), ".")
	other := strings.Split(c.Token(func(claims *Claims) { claims.ID = "another" }), ".")
	return map[string]string{
		"another's key of the same name":   c.sign(jose.ES256, NewKey(c.t, own.KeyID), nil),
		"another's key":                    c.sign(jose.ES256, NewKey(c.t, "another"), nil),
		"a key without a name":             c.sign(jose.ES256, NewKey(c.t, ""), nil),
		"the signature of another token":   good[0] + "." + good[1] + "." + other[2],
		"another payload":                  good[0] + "." + other[1] + "." + good[2],
		"no signature":                     good[0] + "." + good[1] + ".",
		"alg none":                         part([]byte(`{"alg":"none"}`)) + "." + good[1] + ".",
		"the public key for an HMAC's key": c.sign(jose.HS256, jose.JSONWebKey{Key: public, KeyID: own.KeyID}, nil),
	}
}

func (c *Cluster) sign(algorithm jose.SignatureAlgorithm, key jose.JSONWebKey, changes []func(*Claims)) string {
	c.t.Helper()
	now, cfg := time.Now(), c.Config()
	claims := Claims{
		Issuer: cfg.Issuer, Audience: jwt.Audience{cfg.Audience}, Subject: cfg.Account,
		IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now),
		Expiry: jwt.NewNumericDate(now.Add(10 * time.Minute)),
	}
	for _, change := range changes {
		change(&claims)
	}
	return Sign(c.t, algorithm, key, claims)
}

// Sign returns a token with these claims.
func Sign(t testing.TB, algorithm jose.SignatureAlgorithm, key jose.JSONWebKey, claims Claims) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: algorithm, Key: key}, nil)
	require.NoError(t, err)
	token, err := jwt.Signed(signer).Claims(claims).Serialize()
	require.NoError(t, err)
	return token
}
