package identity

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"example.com/invoices/internal/config"
)

// TLSConfig says which certificate a service has, and who can call it with which other. The zero TLSConfig means no
// TLS.
type TLSConfig struct {
	Folder  string
	Callers []string // DNS names; empty: anybody can call
}

// ReadTLSConfig reads the two variables of a TLSConfig.
func ReadTLSConfig(s *config.Set) TLSConfig {
	cfg := TLSConfig{
		Folder: s.Text("TLS_FOLDER", "folder with this service's certificate and key, `tls.crt` and `tls.key`, and the "+
			"authority of its peers, `ca.crt`; if not set, there is no TLS"),
		Callers: s.List("CALLER_NAMES", "DNS names, separated by commas: a caller needs a certificate with one of them; "+
			"requires `TLS_FOLDER`"),
	}
	s.Require(cfg.Folder != "" || len(cfg.Callers) == 0,
		"CALLER_NAMES=%q is invalid without TLS_FOLDER: set TLS_FOLDER, or unset CALLER_NAMES", cfg.Callers)
	return cfg
}

// Open returns the certificates, and who can call with theirs. Either is nil if it is not configured.
func (cfg TLSConfig) Open(log *slog.Logger) (*Certificates, Callers, error) {
	if cfg.Folder == "" {
		return nil, nil, nil
	}
	c, err := OpenCertificates(cfg.Folder, log)
	if err != nil || len(cfg.Callers) == 0 {
		return c, nil, err
	}
	return c, &names{c, cfg.Callers}, nil
}

// Certificates are a service's certificate and key, and the authority of its peers. They are read again when they
// are replaced, for the next connection and the next request.
type Certificates struct {
	files *files[*certificates]
	log   *slog.Logger

	mu     sync.Mutex
	last   *certificates // that could be read
	failed string        // the error that was logged last
}

type certificates struct {
	own       tls.Certificate
	authority *x509.CertPool

	mu       sync.Mutex
	verified map[string]time.Time // by a peer's certificate: when its chain expires
}

// maxVerified is how many peers' certificates are remembered as verified. There are a handful of them: services,
// before and after a renewal.
const maxVerified = 100

// OpenCertificates reads the certificates in folder, which has the files of a Secret of the type kubernetes.io/tls:
// tls.crt, tls.key and ca.crt. Later on, files that cannot be read, or do not fit together, are logged, and those
// read before stay in use.
func OpenCertificates(folder string, log *slog.Logger) (*Certificates, error) {
	c := &Certificates{log: log, files: &files[*certificates]{
		folder: folder, names: []string{"tls.crt", "tls.key", "ca.crt"}, parse: parseCertificates,
	}}
	var err error
	if c.last, err = c.files.read(); err != nil {
		return nil, fmt.Errorf("TLS_FOLDER=%q has no usable certificates: %w; put tls.crt, tls.key and ca.crt there, "+
			"in PEM, or unset TLS_FOLDER to serve without TLS", folder, err)
	}
	c.report(c.last)
	return c, nil
}

func parseCertificates(contents [][]byte) (*certificates, error) {
	own, err := tls.X509KeyPair(contents[0], contents[1])
	if err != nil {
		return nil, fmt.Errorf("tls.crt and tls.key: %w", err)
	}
	c := &certificates{own: own, authority: x509.NewCertPool(), verified: map[string]time.Time{}}
	rest := contents[2]
	for found := 0; len(bytes.TrimSpace(rest)) > 0 || found == 0; found++ {
		// Not AppendCertsFromPEM, which skips what it cannot read: a part of a file must not pass for all of it.
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return nil, errors.New("ca.crt: contains no certificate, or something that is none")
		}
		authority, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("ca.crt: %w", err)
		}
		c.authority.AddCert(authority)
	}
	return c, nil
}

func (c *Certificates) report(now *certificates) {
	c.log.Info("certificates read", "names", now.own.Leaf.DNSNames, "expires", now.own.Leaf.NotAfter)
}

// now returns the certificates to be used.
func (c *Certificates) now() *certificates {
	read, err := c.files.read()
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case err != nil && err.Error() != c.failed:
		c.failed = err.Error()
		c.log.Error("certificates cannot be read, so the last ones stay in use", "error", err,
			"expires", c.last.own.Leaf.NotAfter)
	case err == nil && read != c.last:
		c.last, c.failed = read, ""
		c.report(read)
	}
	return c.last
}

// Expires returns when the certificate of this service expires.
func (c *Certificates) Expires() time.Time { return c.now().own.Leaf.NotAfter }

// settings are those of both sides. Without session tickets, every connection begins with certificates.
func (c *certificates) settings() *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS12,
		NextProtos:             []string{"http/1.1"},
		Certificates:           []tls.Certificate{c.own},
		RootCAs:                c.authority,
		SessionTicketsDisabled: true,
	}
}

// Server returns the settings of a server. A client can send a certificate, and proves that it has the key.
// Whether the certificate is a valid one is checked for each request, see TLSConfig.Open: a probe needs none, and a
// connection may outlive a certificate.
func (c *Certificates) Server() *tls.Config {
	return &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		settings := c.now().settings()
		settings.ClientAuth = tls.RequestClientCert
		return settings, nil
	}}
}

// connectTimeout limits Dial.
const connectTimeout = 10 * time.Second

// Dial connects to a server, which must have a certificate of the authority for the address's host.
func (c *Certificates) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	settings := c.now().settings()
	settings.ServerName = host
	dialer := tls.Dialer{NetDialer: &net.Dialer{Timeout: connectTimeout}, Config: settings}
	return dialer.DialContext(ctx, network, address)
}

// verify returns an error unless the peer's chain of certificates, its own first, is valid now.
func (c *certificates) verify(chain []*x509.Certificate) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if expires, known := c.verified[string(chain[0].Raw)]; known && now.Before(expires) {
		return nil
	}
	options := x509.VerifyOptions{
		Roots: c.authority, Intermediates: x509.NewCertPool(), CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	for _, intermediate := range chain[1:] {
		options.Intermediates.AddCert(intermediate)
	}
	found, err := chain[0].Verify(options)
	if err != nil {
		return err
	}
	expires := found[0][0].NotAfter
	for _, certificate := range found[0] {
		if certificate.NotAfter.Before(expires) {
			expires = certificate.NotAfter
		}
	}
	if len(c.verified) >= maxVerified {
		clear(c.verified)
	}
	c.verified[string(chain[0].Raw)] = expires
	return nil
}

// names accepts the requests of callers whose certificate has one of the names. It implements Callers.
type names struct {
	*Certificates
	names []string // in lower case
}

func (n *names) Verify(r *http.Request) *Refusal {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return &Refusal{NoCertificate, ""}
	}
	err := n.now().verify(r.TLS.PeerCertificates)
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return &Refusal{CertificateExpired, err.Error()}
	case err != nil:
		return &Refusal{UntrustedCertificate, err.Error()}
	}
	for _, name := range r.TLS.PeerCertificates[0].DNSNames {
		if slices.Contains(n.names, strings.ToLower(name)) {
			return nil
		}
	}
	return &Refusal{WrongName, fmt.Sprintf("%.200q", r.TLS.PeerCertificates[0].DNSNames)}
}

// Ready returns nil: the certificates were read at the start.
func (n *names) Ready() error { return nil }
