package identitytest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Authority issues certificates.
type Authority struct {
	t           testing.TB
	key         *ecdsa.PrivateKey
	certificate *x509.Certificate
}

var serial atomic.Int64

// NewAuthority returns an Authority that nobody knows yet.
func NewAuthority(t testing.TB) *Authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	a := &Authority{t: t, key: key}
	number := serial.Add(1)
	a.certificate = a.sign(&x509.Certificate{
		SerialNumber: big.NewInt(number), Subject: pkix.Name{CommonName: fmt.Sprint("authority ", number)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, key)
	return a
}

// sign issues what the template describes; the authority's own certificate if there is none yet.
func (a *Authority) sign(template *x509.Certificate, key *ecdsa.PrivateKey) *x509.Certificate {
	parent := a.certificate
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), a.key)
	require.NoError(a.t, err)
	certificate, err := x509.ParseCertificate(der)
	require.NoError(a.t, err)
	return certificate
}

// PEM returns the authority's certificate.
func (a *Authority) PEM() []byte { return encode("CERTIFICATE", a.certificate.Raw) }

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// Issue returns a certificate for the names, localhost and 127.0.0.1, and its key, in PEM. It is for servers and
// clients, and valid now, unless the changes say otherwise.
func (a *Authority) Issue(names []string, changes ...func(*x509.Certificate)) (certificate, key []byte) {
	a.t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(a.t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial.Add(1)), DNSNames: append([]string{"localhost"}, names...),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore:   time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, change := range changes {
		change(template)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	require.NoError(a.t, err)
	return encode("CERTIFICATE", a.sign(template, private).Raw), encode("PRIVATE KEY", der)
}

// Client returns the settings of a client that trusts the authority and has a certificate of it for the names, or
// none if there are no names.
func (a *Authority) Client(names []string, changes ...func(*x509.Certificate)) *tls.Config {
	a.t.Helper()
	settings := &tls.Config{RootCAs: x509.NewCertPool()}
	settings.RootCAs.AddCert(a.certificate)
	if names != nil {
		pair, err := tls.X509KeyPair(a.Issue(names, changes...))
		require.NoError(a.t, err)
		settings.Certificates = []tls.Certificate{pair}
	}
	return settings
}

// Folder is a folder with certificates, as the kubelet mounts a Secret.
type Folder struct {
	Path string

	t     testing.TB
	turns int
}

// NewFolder returns a Folder that trusts the authorities and has a certificate of the first one.
func NewFolder(t testing.TB, names []string, authorities ...*Authority) *Folder {
	t.Helper()
	f := &Folder{Path: t.TempDir(), t: t}
	f.Renew(names, authorities...)
	return f
}

// Renew replaces the content by a new certificate of the first of the authorities, and all of the authorities.
func (f *Folder) Renew(names []string, authorities ...*Authority) {
	f.t.Helper()
	certificate, key := authorities[0].Issue(names)
	var known [][]byte
	for _, a := range authorities {
		known = append(known, a.PEM())
	}
	f.Replace(map[string][]byte{"tls.crt": certificate, "tls.key": key, "ca.crt": bytes.Join(known, nil)})
}

// Replace replaces all files at once, as the kubelet does: they are links into a folder that is itself a link.
func (f *Folder) Replace(contents map[string][]byte) {
	f.t.Helper()
	f.turns++
	real := filepath.Join(f.Path, fmt.Sprint("..", f.turns))
	require.NoError(f.t, os.Mkdir(real, 0o700))
	for name, content := range contents {
		require.NoError(f.t, os.WriteFile(filepath.Join(real, name), content, 0o600))
	}
	data := filepath.Join(f.Path, "..data")
	old, _ := os.Readlink(data) // none at first
	require.NoError(f.t, os.Symlink(filepath.Base(real), data+"_tmp"))
	require.NoError(f.t, os.Rename(data+"_tmp", data))
	for name := range contents {
		link := filepath.Join(f.Path, name)
		if _, err := os.Lstat(link); err != nil {
			require.NoError(f.t, os.Symlink(filepath.Join("..data", name), link))
		}
	}
	if old != "" {
		require.NoError(f.t, os.RemoveAll(filepath.Join(f.Path, old)))
	}
}
