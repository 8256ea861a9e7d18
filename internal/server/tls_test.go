package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/internal/identity"
	"example.com/invoices/internal/identitytest"
	"example.com/invoices/internal/porttest"
)

const caller = "caller.example.com"

// newSecure returns a server with TLS and the path /door for one caller only.
func newSecure(t *testing.T, folder *identitytest.Folder, logs io.Writer) *Server {
	t.Helper()
	log := slog.New(slog.NewTextHandler(logs, nil))
	certificates, callers, err := identity.TLSConfig{Folder: folder.Path, Callers: []string{caller}}.Open(log)
	require.NoError(t, err)
	s := New(log, prometheus.NewRegistry(), nil, func(context.Context) error { return nil })
	s.Certificates = certificates
	s.Router.Use(s.RequireCaller(callers))
	s.Router.GET("/door", func(c *gin.Context) { c.String(http.StatusOK, "in") })
	return s
}

// serveSecure runs s on a free port, and returns its address.
func serveSecure(t *testing.T, s *Server, settings *tls.Config) (address string, stop func() error) {
	t.Helper()
	address = fmt.Sprint("127.0.0.1:", porttest.Free(t))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx, address, 10*time.Second, func() {}) }()
	require.Eventually(t, func() bool {
		conn, err := tls.Dial("tcp", address, settings)
		return err == nil && conn.Close() == nil
	}, time.Minute, 10*time.Millisecond)
	stop = sync.OnceValue(func() error { cancel(); return <-ended })
	t.Cleanup(func() { _ = stop() })
	return address, stop
}

func TestTLS(t *testing.T) {
	authority := identitytest.NewAuthority(t)
	s := newSecure(t, identitytest.NewFolder(t, nil, authority), io.Discard)
	address, _ := serveSecure(t, s, authority.Client(nil))
	ask := func(settings *tls.Config, path string) (*http.Response, string) {
		transport := &http.Transport{TLSClientConfig: settings, ForceAttemptHTTP2: true}
		defer transport.CloseIdleConnections()
		response, err := (&http.Client{Transport: transport}).Get("https://" + address + path)
		require.NoError(t, err)
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		return response, string(body)
	}
	known, unknown := authority.Client([]string{caller}), authority.Client(nil)
	response, body := ask(known, "/door")
	assert.Equal(t, http.StatusOK, response.StatusCode)
	assert.Equal(t, "in", body)
	assert.Equal(t, "HTTP/1.1", response.Proto, "the limits count on one request per connection")
	for _, path := range []string{"/livez", "/readyz", "/metrics", "/version", "/openapi.yaml"} {
		response, _ = ask(unknown, path)
		assert.Equal(t, http.StatusOK, response.StatusCode, path)
	}
	for name, test := range map[string]struct {
		settings *tls.Config
		status   int
		body     string
		reason   identity.Reason
	}{
		"nobody": {unknown, 401, "a valid client certificate is required", identity.NoCertificate},
		"another": {authority.Client([]string{"x"}), 403, "the name in this certificate is not allowed to call",
			identity.WrongName},
		"another authority": {foreign(t, unknown), 401, "a valid client certificate is required",
			identity.UntrustedCertificate},
	} {
		for _, path := range []string{"/door", "/nowhere"} {
			response, body = ask(test.settings, path)
			assert.Equal(t, test.status, response.StatusCode, name)
			assert.JSONEq(t, `{"error":"`+test.body+`"}`, body)
			assert.Empty(t, response.Header.Get("WWW-Authenticate"))
			assert.Equal(t, test.status == 401, response.Close, "the next one may have a new certificate")
		}
		_, metrics := ask(unknown, "/metrics")
		assert.Contains(t, metrics, `callers_refused_total{reason="`+string(test.reason)+`"} 2`)
	}
	_, metrics := ask(unknown, "/metrics")
	assert.Contains(t, metrics, "tls_certificate_expiry_timestamp_seconds "+
		fmt.Sprintf("%g", float64(s.Certificates.Expires().Unix())))

	old := unknown.Clone()
	old.MinVersion, old.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	_, err := tls.Dial("tcp", address, old)
	assert.ErrorContains(t, err, "protocol version")
	plain, err := http.Get("http://" + address + "/livez")
	require.NoError(t, err)
	defer plain.Body.Close()
	assert.Equal(t, http.StatusBadRequest, plain.StatusCode)
}

// foreign returns settings with a certificate for the caller's name, but from an authority that nobody trusts.
func foreign(t *testing.T, settings *tls.Config) *tls.Config {
	settings = settings.Clone()
	settings.Certificates = identitytest.NewAuthority(t).Client([]string{caller}).Certificates
	return settings
}

// Certificates and authorities are rotated on both sides, under load. An authority goes in stages: everybody trusts
// the new one, everybody has a certificate of it, and, once no connection is older than that, nobody trusts the old
// one any more.
func TestRotationOfCertificatesFailsNoRequest(t *testing.T) {
	const rotations, callers = 5, 8
	authority := identitytest.NewAuthority(t)
	here, there := identitytest.NewFolder(t, nil, authority), identitytest.NewFolder(t, []string{caller}, authority)
	first := authority
	var logs bytes.Buffer
	s := newSecure(t, here, &logs)
	s.maxAge = 100 * time.Millisecond
	address, stop := serveSecure(t, s, authority.Client(nil))
	own, err := identity.OpenCertificates(there.Path, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	var sent, opened atomic.Int64
	transport := &http.Transport{MaxIdleConnsPerHost: callers,
		DialTLSContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			opened.Add(1)
			return own.Dial(ctx, network, address)
		}}
	client := &http.Client{Transport: transport}
	done := make(chan struct{})
	var calling sync.WaitGroup
	for range callers {
		calling.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				response, err := client.Get("https://" + address + "/door")
				if !assert.NoError(t, err) {
					return
				}
				_, _ = io.Copy(io.Discard, response.Body)
				response.Body.Close()
				if !assert.Equal(t, http.StatusOK, response.StatusCode) {
					return
				}
				sent.Add(1)
			}
		})
	}
	stage := func(authorities ...*identitytest.Authority) {
		here.Renew(nil, authorities...)
		time.Sleep(10 * time.Millisecond) // for some requests between
		there.Renew([]string{caller}, authorities...)
		time.Sleep(5 * s.maxAge)
	}
	for range rotations {
		stage(authority) // only the certificates
		next := identitytest.NewAuthority(t)
		stage(authority, next)
		stage(next, authority)
		stage(next)
		authority = next
	}
	before := sent.Load()
	require.Eventually(t, func() bool { return sent.Load() > before || t.Failed() }, time.Minute, time.Millisecond)
	close(done)
	calling.Wait()
	t.Logf("%d requests on %d connections", sent.Load(), opened.Load())

	transport.CloseIdleConnections()
	_, err = tls.Dial("tcp", address, first.Client(nil))
	require.Error(t, err, "the first authority has gone")
	there.Renew([]string{caller}, authority, first)
	there.Replace(issued(authority, first))
	response, err := client.Get("https://" + address + "/door")
	require.NoError(t, err)
	response.Body.Close()
	assert.Equal(t, http.StatusUnauthorized, response.StatusCode, "a certificate of the first authority")
	require.NoError(t, stop())
	assert.Equal(t, 1, strings.Count(logs.String(), "caller refused"))
}

// issued returns what trusts one authority, with a certificate for the caller of another.
func issued(trusted, issuer *identitytest.Authority) map[string][]byte {
	certificate, key := issuer.Issue([]string{caller})
	return map[string][]byte{"tls.crt": certificate, "tls.key": key, "ca.crt": trusted.PEM()}
}

// What a client does instead of a handshake ends its connection: nothing, one byte now and then, or too many.
func TestHandshakesAreBounded(t *testing.T) {
	var authority *identitytest.Authority
	for name, test := range map[string]struct {
		within time.Duration
		send   func(net.Conn) error
	}{
		"nothing": {headerTimeout, func(net.Conn) error { return nil }},
		"slowly": {headerTimeout * 5 / 4, func(conn net.Conn) error {
			for _, part := range []byte{22, 3, 1, 2, 0, 1} {
				if _, err := conn.Write([]byte{part}); err != nil {
					return err
				}
				time.Sleep(headerTimeout / 4)
			}
			return nil
		}},
		"a certificate without an end": {time.Second, func(conn net.Conn) error {
			settings := authority.Client([]string{caller})
			settings.ServerName = "localhost"
			for range 500 {
				settings.Certificates[0].Certificate = append(settings.Certificates[0].Certificate,
					settings.Certificates[0].Certificate[0])
			}
			return tls.Client(conn, settings).Handshake()
		}},
		"plain HTTP": {time.Second, func(conn net.Conn) error {
			_, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
			return err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				authority = identitytest.NewAuthority(t)
				s := newSecure(t, identitytest.NewFolder(t, nil, authority), io.Discard)
				listener := make(piped, 10)
				defer close(listener)
				limited := newConnections(listener, 3, nil)
				defer limited.Close()
				server := &http.Server{Handler: s, ReadHeaderTimeout: headerTimeout,
					ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
				go func() { _ = limited.serve(server, s.Certificates) }()
				client, conn := net.Pipe()
				defer client.Close()
				listener <- conn
				start := time.Now()
				_ = test.send(client)
				_, _ = io.Copy(io.Discard, client)
				assert.LessOrEqual(t, time.Since(start), test.within)
				synctest.Wait()
				limited.mu.Lock()
				defer limited.mu.Unlock()
				assert.Zero(t, limited.open)
			})
		})
	}
}

// Clients that begin handshakes and do not go on keep nobody out.
func TestUnfinishedHandshakesMakeRoom(t *testing.T) {
	authority := identitytest.NewAuthority(t)
	s := newSecure(t, identitytest.NewFolder(t, nil, authority), io.Discard)
	address, _ := serveSecure(t, s, authority.Client(nil))
	for n := range 2 * maxConnections {
		conn, err := net.Dial("tcp", address)
		require.NoError(t, err)
		defer conn.Close()
		if n%2 == 0 {
			_, err = conn.Write([]byte{22, 3, 1, 2, 0, 1})
			require.NoError(t, err)
		}
	}
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
		TLSClientConfig: authority.Client([]string{caller}), DisableKeepAlives: true}}
	start := time.Now()
	response, err := client.Get("https://" + address + "/door")
	require.NoError(t, err)
	response.Body.Close()
	assert.Equal(t, http.StatusOK, response.StatusCode)
	t.Log("let in after", time.Since(start))
}
