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

// door refuses what a web page of somebody else makes a browser send: anybody
// whose page a developer opens could otherwise add invoices and have them paid.
// Programs that are no browser notice nothing of it.
func (s *Server) door(c *gin.Context) {
	r := c.Request
	if err := s.crossOrigin.Check(r); err != nil {
		Fail(c, &Failure{Status: http.StatusForbidden, Text: "a page of another origin may not change anything here"})
		return
	}
	if fromBrowser(r) && !s.known(r.Host) {
		// A name that somebody points at this address makes his page one of the same origin.
		Fail(c, &Failure{Status: http.StatusMisdirectedRequest, Text: fmt.Sprintf(
			"browsers may not reach this as %.100q; use localhost or an IP address, or add the name to ALLOWED_HOSTS", r.Host)})
	}
}

// fromBrowser reports whether a browser sent r: each of them sends at least one
// of these, which a page cannot leave out.
func fromBrowser(r *http.Request) bool {
	for _, name := range []string{"Origin", "Sec-Fetch-Site", "Accept-Language"} {
		if _, sent := r.Header[name]; sent {
			return true
		}
	}
	return false
}

// known reports whether nobody else can point host at this server, or whether
// it is one of AllowedHosts. A name without a dot is in no public DNS.
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

// rightType refuses a body that is of none of types.
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
	return &Failure{Status: http.StatusUnsupportedMediaType, Text: fmt.Sprintf("the Content-Type is %s; send %s", found, strings.Join(types, ", "))}
}
