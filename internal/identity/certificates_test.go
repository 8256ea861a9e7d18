package identity_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/internal/config"
	"example.com/invoices/internal/identity"
	"example.com/invoices/internal/identitytest"
)

func TestRefusedCertificates(t *testing.T) {
	authority, foreign := identitytest.NewAuthority(t), identitytest.NewAuthority(t)
	folder := identitytest.NewFolder(t, []string{"server.example.com"}, authority)
	cfg := identity.TLSConfig{Folder: folder.Path, Callers: []string{"caller.example.com", "other.example.com"}}
	_, callers, err := cfg.Open(slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	require.NoError(t, callers.Ready())
	caller := []string{"caller.example.com"}
	for name, test := range map[string]struct {
		client *tls.Config
		reason identity.Reason
	}{
		"the caller":           {authority.Client(caller), ""},
		"another of the names": {authority.Client([]string{"first.example.com", "OTHER.example.com"}), ""},
		"no certificate":       {authority.Client(nil), identity.NoCertificate},
		"another name":         {authority.Client([]string{"acaller.example.com"}), identity.WrongName},
		"the name as a common name": {authority.Client([]string{}, func(c *x509.Certificate) {
			c.Subject.CommonName = "caller.example.com"
		}), identity.WrongName},
		"a wildcard":        {authority.Client([]string{"*.example.com"}), identity.WrongName},
		"another authority": {foreign.Client(caller), identity.UntrustedCertificate},
		"only for servers": {authority.Client(caller, func(c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		}), identity.UntrustedCertificate},
		"expired": {authority.Client(caller, func(c *x509.Certificate) {
			c.NotAfter = time.Now().Add(-time.Second)
		}), identity.CertificateExpired},
		"not valid yet": {authority.Client(caller, func(c *x509.Certificate) {
			c.NotBefore = time.Now().Add(time.Minute)
		}), identity.CertificateExpired},
	} {
		t.Run(name, func(t *testing.T) {
			request := httptest.NewRequest(http.MethodGet, "https://server.example.com/", nil)
			request.TLS.PeerCertificates = nil
			for _, pair := range test.client.Certificates {
				request.TLS.PeerCertificates = append(request.TLS.PeerCertificates, pair.Leaf)
			}
			for range 2 { // what was verified before is remembered
				refusal := callers.Verify(request)
				if test.reason == "" {
					assert.Nil(t, refusal)
					continue
				}
				require.NotNil(t, refusal)
				assert.Equal(t, test.reason, refusal.Reason)
				assert.Contains(t, identity.Reasons, refusal.Reason)
			}
		})
	}
	plain := httptest.NewRequest(http.MethodGet, "http://server.example.com/", nil)
	assert.Equal(t, identity.NoCertificate, callers.Verify(plain).Reason)

	// A connection may outlive its certificate, and the authority of that.
	brief := httptest.NewRequest(http.MethodGet, "https://server.example.com/", nil)
	brief.TLS.PeerCertificates = []*x509.Certificate{authority.Client(caller, func(c *x509.Certificate) {
		c.NotAfter = time.Now().Add(2 * time.Second)
	}).Certificates[0].Leaf}
	require.Nil(t, callers.Verify(brief))
	require.Eventually(t, func() bool { return callers.Verify(brief) != nil }, time.Minute, 100*time.Millisecond)
	assert.Equal(t, identity.CertificateExpired, callers.Verify(brief).Reason)
	long := httptest.NewRequest(http.MethodGet, "https://server.example.com/", nil)
	long.TLS.PeerCertificates = []*x509.Certificate{authority.Client(caller).Certificates[0].Leaf}
	require.Nil(t, callers.Verify(long))
	folder.Renew([]string{"server.example.com"}, foreign)
	assert.Equal(t, identity.UntrustedCertificate, callers.Verify(long).Reason)
}

func TestCertificatesMustBeThereAtTheStart(t *testing.T) {
	authority := identitytest.NewAuthority(t)
	certificate, key := authority.Issue(nil)
	_, other := authority.Issue(nil)
	good := map[string][]byte{"tls.crt": certificate, "tls.key": key, "ca.crt": authority.PEM()}
	for name, change := range map[string]map[string][]byte{
		"no key":                {"tls.key": nil},
		"another key":           {"tls.key": other},
		"half a certificate":    {"tls.crt": certificate[:len(certificate)/2]},
		"half an authority":     {"ca.crt": good["ca.crt"][:len(good["ca.crt"])/2]},
		"an empty authority":    {"ca.crt": []byte("\n")},
		"a cut second one":      {"ca.crt": append(bytes.Clone(good["ca.crt"]), good["ca.crt"][:99]...)},
		"a key as an authority": {"ca.crt": key},
	} {
		t.Run(name, func(t *testing.T) {
			folder := t.TempDir()
			for file, content := range good {
				if replaced, ok := change[file]; ok {
					content = replaced
				}
				if content != nil {
					require.NoError(t, os.WriteFile(filepath.Join(folder, file), content, 0o600))
				}
			}
			_, err := identity.OpenCertificates(folder, slog.New(slog.DiscardHandler))
			require.ErrorContains(t, err, "put tls.crt, tls.key and ca.crt there")
			assert.ErrorContains(t, err, folder)
		})
	}
}

// Whatever replaces the files, the last ones that fit together stay in use, and one error is logged for each change.
func TestUnusableCertificatesAreNotUsed(t *testing.T) {
	var logs bytes.Buffer
	authority := identitytest.NewAuthority(t)
	folder := identitytest.NewFolder(t, []string{"first"}, authority)
	c, err := identity.OpenCertificates(folder.Path, slog.New(slog.NewTextHandler(&logs, nil)))
	require.NoError(t, err)
	expires := c.Expires()
	certificate, key := authority.Issue([]string{"second"}, func(c *x509.Certificate) {
		c.NotAfter = expires.Add(time.Minute)
	})
	_, other := authority.Issue(nil)
	folder.Replace(map[string][]byte{"tls.crt": certificate, "tls.key": other, "ca.crt": authority.PEM()})
	for range 3 {
		assert.Equal(t, expires, c.Expires())
	}
	assert.Equal(t, 1, bytes.Count(logs.Bytes(), []byte("the last ones stay in use")), logs.String())
	folder.Replace(map[string][]byte{"tls.crt": certificate, "ca.crt": authority.PEM()})
	assert.Equal(t, expires, c.Expires())
	assert.Equal(t, 2, bytes.Count(logs.Bytes(), []byte("the last ones stay in use")), logs.String())
	folder.Replace(map[string][]byte{"tls.crt": certificate, "tls.key": key, "ca.crt": authority.PEM()})
	assert.Equal(t, expires.Add(time.Minute), c.Expires())
	assert.NotContains(t, logs.String(), "PRIVATE")
}

func TestReadTLSConfig(t *testing.T) {
	read := func(folder, names string) (identity.TLSConfig, error) {
		t.Setenv("TLS_FOLDER", folder)
		t.Setenv("CALLER_NAMES", names)
		s := config.New("test")
		return identity.ReadTLSConfig(s), s.Err()
	}
	cfg, err := read("", "")
	require.NoError(t, err)
	certificates, callers, err := cfg.Open(slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	assert.Nil(t, certificates)
	assert.Nil(t, callers)
	cfg, err = read("/run/secrets/tls", "A.example, b.example")
	require.NoError(t, err)
	assert.Equal(t, identity.TLSConfig{Folder: "/run/secrets/tls", Callers: []string{"a.example", "b.example"}}, cfg)
	_, err = read("", "a.example")
	assert.ErrorContains(t, err, "set TLS_FOLDER")
}
