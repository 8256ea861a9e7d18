// Package contracttest compares a service's handlers with its OpenAPI document, in both
// directions, so that neither can drift.
package contracttest

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/internal/requestid"
	"example.com/invoices/internal/server"
)

// Contract checks every request that is made through it.
type Contract struct {
	Authorization string // the header of every request from now on

	t      testing.TB
	server *server.Server
	doc    *openapi3.T
	router routers.Router
	seen   map[string]bool          // "GET /path 200"
	gets   map[string]*http.Request // by target and authorization
}

// New returns a Contract between s and the document that s serves at /openapi.yaml. Both must have
// the same paths and methods.
func New(t testing.TB, s *server.Server) *Contract {
	t.Helper()
	answer := httptest.NewRecorder()
	s.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/openapi.yaml", nil))
	require.Equal(t, http.StatusOK, answer.Code)
	doc, err := openapi3.NewLoader().LoadFromData(answer.Body.Bytes())
	require.NoError(t, err)
	require.NoError(t, doc.Validate(t.Context()))

	var served, documented []string
	parameter := regexp.MustCompile(`:(\w+)`)
	for _, route := range s.Routes() {
		served = append(served, route.Method+" "+parameter.ReplaceAllString(route.Path, "{$1}"))
	}
	for path, item := range doc.Paths.Map() {
		for method := range item.Operations() {
			documented = append(documented, method+" "+path)
		}
	}
	assert.ElementsMatch(t, served, documented, "the served and the documented operations differ")

	found, err := gorillamux.NewRouter(doc)
	require.NoError(t, err)
	return &Contract{t: t, server: s, doc: doc, router: found, seen: map[string]bool{}, gets: map[string]*http.Request{}}
}

// Do sends a request to the handlers and returns the response, which the document must allow for
// this operation.
func (c *Contract) Do(t testing.TB, method, target, body string) *httptest.ResponseRecorder {
	t.Helper()
	request := httptest.NewRequest(method, target, strings.NewReader(body))
	request.Header.Set("Content-Type", "application/json")
	if method == http.MethodGet {
		c.gets[target+" "+c.Authorization] = request.Clone(t.Context())
	}
	return c.Send(t, request)
}

// Send is Do for any request.
func (c *Contract) Send(t testing.TB, request *http.Request) *httptest.ResponseRecorder {
	t.Helper()
	if c.Authorization != "" {
		request.Header.Set("Authorization", c.Authorization)
	}
	answer := httptest.NewRecorder()
	c.server.ServeHTTP(answer, request)

	route, parameters, err := c.router.FindRoute(request)
	if err != nil { // wrong path or method: only the shape of the error is documented
		assert.Regexp(t, `^\{"error":"[^"]+"\}$`, answer.Body.String())
		return answer
	}
	c.seen[fmt.Sprintf("%s %s %d", request.Method, route.Path, answer.Code)] = true
	require.NoError(t, openapi3filter.ValidateResponse(t.Context(), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{
			Request: request, PathParams: parameters, Route: route,
		},
		Status:  answer.Code,
		Header:  answer.Header(),
		Body:    io.NopCloser(bytes.NewReader(answer.Body.Bytes())),
		Options: &openapi3filter.Options{IncludeResponseStatus: true},
	}), "the response to %s %s is %d %s", request.Method, request.URL, answer.Code, answer.Body)
	return answer
}

// RequireSecurity fails unless the operations that reject a request without a token are those with
// a security requirement in the document.
func (c *Contract) RequireSecurity(t testing.TB) {
	t.Helper()
	anonymous := *c
	anonymous.Authorization = ""
	for path, item := range c.doc.Paths.Map() {
		for method, operation := range item.Operations() {
			answer := anonymous.Do(t, method, path, "")
			assert.Equal(t, operation.Security != nil, answer.Code == http.StatusUnauthorized,
				"the response to %s %s is %d", method, path, answer.Code)
		}
	}
}

// RequireLimits checks how every operation with a request body responds to a body that is too
// large, of the wrong type, late or cut off, and to a web page of another origin.
func (c *Contract) RequireLimits(t testing.TB) {
	t.Helper()
	for path, item := range c.doc.Paths.Map() {
		if item.Post == nil {
			continue
		}
		for status, body := range map[int]io.Reader{
			http.StatusRequestEntityTooLarge: strings.NewReader(strings.Repeat(" ", 80<<20)),
			http.StatusUnsupportedMediaType:  strings.NewReader("a=b"),
			http.StatusRequestTimeout:        iotest.ErrReader(os.ErrDeadlineExceeded),
			http.StatusBadRequest:            iotest.ErrReader(io.ErrUnexpectedEOF),
		} {
			request := httptest.NewRequest(http.MethodPost, path, body)
			request.Header.Set("Content-Type", "application/json")
			if status == http.StatusUnsupportedMediaType {
				request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			}
			assert.Equal(t, status, c.Send(t, request).Code, path)
		}
		request := httptest.NewRequest(http.MethodPost, path, nil)
		request.Header.Set("Sec-Fetch-Site", "cross-site")
		assert.Equal(t, http.StatusForbidden, c.Send(t, request).Code, path)
	}
	for path, item := range c.doc.Paths.Map() {
		for method := range item.Operations() {
			request := httptest.NewRequest(method, path, nil)
			request.Host = "evil.example"
			request.Header.Set("Accept-Language", "en")
			assert.Equal(t, http.StatusMisdirectedRequest, c.Send(t, request).Code, path)
		}
	}
}

// RequireFull checks how every operation except the probes responds while the server handles as
// many requests as it can: requests for fill, which must not get a response yet. It runs in a
// synctest bubble.
func (c *Contract) RequireFull(t testing.TB, fill string) {
	t.Helper()
	const more = 1000 // more than any server handles
	for range more {
		go func() {
			defer func() { // net/http would cut the connection of a request that times out in the middle of its response
				if cause := recover(); cause != nil && cause != http.ErrAbortHandler {
					panic(cause)
				}
			}()
			c.server.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, fill, nil))
		}()
	}
	synctest.Wait()
	for path, item := range c.doc.Paths.Map() {
		for method := range item.Operations() {
			want := http.StatusServiceUnavailable
			if path == "/livez" {
				want = http.StatusOK
			}
			assert.Equal(t, want, c.Do(t, method, path, "").Code, "%s %s", method, path)
		}
	}
}

// RequireHeads repeats each GET that was made, as a GET and as a HEAD, and fails unless both have
// the same status and header.
func (c *Contract) RequireHeads(t testing.TB) {
	t.Helper()
	site := httptest.NewServer(c.server)
	defer site.Close()
	header := func(get *http.Request, method string) http.Header {
		request, err := http.NewRequestWithContext(t.Context(), method, site.URL+get.URL.RequestURI(), nil)
		require.NoError(t, err)
		request.Header = get.Header.Clone()
		request.Header.Set(requestid.Header, "same")
		request.Header.Set("Accept-Encoding", "identity")
		response, err := http.DefaultTransport.RoundTrip(request)
		require.NoError(t, err, "%s %s", method, get.URL)
		defer response.Body.Close()
		response.Header.Set("status", response.Status)
		response.Header.Del("Date")
		if get.URL.Path == "/metrics" || response.ContentLength < 0 || len(response.TransferEncoding) > 0 {
			response.Header.Del("Content-Length") // it changes from one to the next, and is unknown for a long GET
		}
		body, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		assert.Equal(t, method == http.MethodGet, len(body) > 0, "%s %s", method, get.URL)
		return response.Header
	}
	for target, get := range c.gets {
		assert.Equal(t, header(get, http.MethodGet), header(get, http.MethodHead), "HEAD %s", target)
	}
}

// RequireAllSeen fails if the document has a response that no request got, neither through c nor
// through others of the same document.
func (c *Contract) RequireAllSeen(others ...*Contract) {
	c.t.Helper()
	for _, other := range others {
		maps.Copy(c.seen, other.seen)
	}
	var unseen []string
	for path, item := range c.doc.Paths.Map() {
		for method, operation := range item.Operations() {
			for status := range operation.Responses.Map() {
				if answer := method + " " + path + " " + status; !c.seen[answer] {
					unseen = append(unseen, answer)
				}
			}
		}
	}
	slices.Sort(unseen)
	require.Empty(c.t, unseen, "documented, but never seen")
}
