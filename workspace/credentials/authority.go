package credentials

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
	"net"
	"slices"
	"time"
)

const (
	authorityLifetime = 10 * 365 * 24 * time.Hour
	// backdated is how long before its creation a certificate becomes valid, for machines whose clock is behind.
	backdated = time.Hour
)

// Rotation is a step in the replacement of an authority, or empty.
type Rotation string

// The steps of a rotation, in this order. Each can be repeated.
const (
	Add    Rotation = "add"    // trust a new authority beside the old one
	Use    Rotation = "use"    // issue all certificates with the new authority
	Remove Rotation = "remove" // trust only the new authority
)

// authority issues certificates. It is stored as the data of a Secret: the pair tls.crt and tls.key issues; ca.crt is
// what everybody trusts; between the steps add and use, next.crt and next.key are the new authority.
type authority map[string][]byte

// newAuthority returns an authority with this name.
func newAuthority(name string, now time.Time) (authority, error) {
	certificate, key, err := newPair(name, now)
	if err != nil {
		return nil, err
	}
	return authority{"tls.crt": certificate, "tls.key": key, "ca.crt": certificate}, nil
}

// newPair returns a self-signed certificate and its key, in PEM. The subject contains the time, so two authorities of
// one name have different subjects.
func newPair(name string, now time.Time) (certificate, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		Subject:   pkix.Name{CommonName: name + " " + now.UTC().Format(time.RFC3339)},
		NotBefore: now.Add(-backdated), NotAfter: now.Add(authorityLifetime),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	return encode(template, template, private, private)
}

// rotate changes the authority by one step, if it is the next one, and reports whether it did. settled returns the time
// at which every pod uses what the step before has made.
func (a authority) rotate(step Rotation, name string, now time.Time, settled func() (time.Time, error)) (
	changed bool, err error,
) {
	added, used := a.next() == Use, a.next() == Remove
	switch {
	case step == Add && added, step == Use && used, step == Remove && !added && !used:
		return false, nil // a repetition
	case step == Add && used:
		return false, fmt.Errorf("the last rotation is not finished: %s first", Remove)
	case step == Use && !added:
		return false, fmt.Errorf("there is no new authority to use: %s first", Add)
	case step == Remove && added:
		return false, fmt.Errorf("the new authority is not used yet: %s first", Use)
	}
	if step != Add {
		at, err := settled()
		if err != nil {
			return false, err
		}
		if now.Before(at) {
			return false, fmt.Errorf("some pods do not have the last step's files yet: try again after %s",
				at.Local().Format(time.TimeOnly))
		}
	}
	switch step {
	case Add:
		a["next.crt"], a["next.key"], err = newPair(name, now)
		a["ca.crt"] = slices.Concat(a["ca.crt"], a["next.crt"])
	case Use:
		a["tls.crt"], a["tls.key"] = a["next.crt"], a["next.key"]
		delete(a, "next.crt")
		delete(a, "next.key")
	case Remove:
		a["ca.crt"] = a["tls.crt"]
	}
	return true, err
}

// next returns the step of a rotation that comes next, or nothing if there is no rotation.
func (a authority) next() Rotation {
	switch {
	case a["next.crt"] != nil:
		return Use
	case !bytes.Equal(a["ca.crt"], a["tls.crt"]):
		return Remove
	}
	return ""
}

// subject is what a certificate is for.
type subject struct {
	name     string   // the common name
	hosts    []string // DNS names and IP addresses
	usage    []x509.ExtKeyUsage
	lifetime time.Duration
}

// issue returns a certificate and its key, in PEM.
func (a authority) issue(s subject, now time.Time) (certificate, key []byte, err error) {
	pair, err := tls.X509KeyPair(a["tls.crt"], a["tls.key"])
	if err != nil {
		return nil, nil, err
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	names, addresses := s.sorted()
	until := now.Add(s.lifetime)
	if until.After(pair.Leaf.NotAfter) {
		until = pair.Leaf.NotAfter
	}
	return encode(&x509.Certificate{
		Subject: pkix.Name{CommonName: s.name}, DNSNames: names, IPAddresses: addresses,
		NotBefore: now.Add(-backdated), NotAfter: until,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: s.usage,
	}, pair.Leaf, private, pair.PrivateKey)
}

// sorted returns the DNS names and the IP addresses.
func (s subject) sorted() (names []string, addresses []net.IP) {
	for _, host := range s.hosts {
		if address := net.ParseIP(host); address != nil {
			addresses = append(addresses, address)
		} else {
			names = append(names, host)
		}
	}
	return names, addresses
}

// issued reports whether the pair is for the subject and issued by the authority, and will be valid for the given time.
func (a authority) issued(certificate, key []byte, s subject, now time.Time, left time.Duration) bool {
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return false
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(a["tls.crt"])
	names, addresses := s.sorted()
	_, err = pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	return err == nil && pair.Leaf.NotAfter.Sub(now) > left && pair.Leaf.Subject.CommonName == s.name &&
		slices.Equal(pair.Leaf.DNSNames, names) && slices.Equal(pair.Leaf.ExtKeyUsage, s.usage) &&
		slices.EqualFunc(pair.Leaf.IPAddresses, addresses, net.IP.Equal)
}

// encode signs a certificate, and returns it with its key, in PEM.
func encode(template, parent *x509.Certificate, key *ecdsa.PrivateKey, signer any) ([]byte, []byte, error) {
	certificate, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		return nil, nil, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), err
}

// parse returns the certificates in a PEM file.
func parse(text []byte) (certificates []*x509.Certificate, err error) {
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return certificates, nil
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		certificates = append(certificates, certificate)
	}
}
