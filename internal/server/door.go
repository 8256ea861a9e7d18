package server

import (
	"fmt"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/gin-gonic/gin"
)

// door rejects requests that a foreign web page makes a browser send: otherwise any page that a
// developer opens could add invoices and have them paid. Other clients are not affected.
func (s *Server) door(c *gin.Context) {
	r := c.Request
	if err := s.crossOrigin.Check(r); err != nil {
		Fail(c, &Failure{Status: http.StatusForbidden, Text: "pages of another origin are not allowed to change anything"})
		return
	}
	if fromBrowser(r) && !s.known(r.Host) {
		// If somebody points a name of theirs at this address, their page counts as one of the same
		// origin.
		Fail(c, &Failure{Status: http.StatusMisdirectedRequest, Text: fmt.Sprintf(
			"browsers cannot use the name %.100q; use localhost or an IP address, or add the name to ALLOWED_HOSTS", r.Host)})
	}
}

// fromBrowser reports whether a browser sent r: every browser sends at least one of these headers,
// and a page cannot suppress them.
func fromBrowser(r *http.Request) bool {
	for _, name := range []string{"Origin", "Sec-Fetch-Site", "Accept-Language"} {
		if _, sent := r.Header[name]; sent {
			return true
		}
	}
	return false
}

// known reports whether host is one of AllowedHosts, or a name that nobody else can point at this
// server. A name without a dot is not in public DNS.
func (s *Server) known(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.ToLower(strings.TrimSuffix(strings.Trim(host, "[]"), "."))
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	return !strings.Contains(host, ".") || strings.HasSuffix(host, ".localhost") || slices.Contains(s.AllowedHosts, host)
}

// rightType returns a Failure unless the Content-Type of r is one of types.
func rightType(r *http.Request, types []string) *Failure {
	sent := r.Header.Get("Content-Type")
	media, _, err := mime.ParseMediaType(sent)
	if err == nil && slices.Contains(types, media) {
		return nil
	}
	found := fmt.Sprintf("%.100q", sent)
	if sent == "" {
		found = "missing"
	}
	return &Failure{Status: http.StatusUnsupportedMediaType, Text: fmt.Sprintf(
		"the Content-Type is %s: must be %s", found, strings.Join(types, ", "))}
}
