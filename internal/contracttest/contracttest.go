// Package contracttest holds a service's handlers against its OpenAPI document,
// in both directions, so that neither can drift.
package contracttest

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"
	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Contract checks every call that is made through it.
type Contract struct {
	Authorization string // the header of every call from now on

	t       testing.TB
	handler http.Handler
	doc     *openapi3.T
	router  routers.Router
	seen    map[string]bool // "GET /path 200"
}

// New returns a Contract between router and the document that it serves at
// /openapi.yaml. Paths and methods must be the same in both.
func New(t testing.TB, router *gin.Engine) *Contract {
	t.Helper()
	answer := httptest.NewRecorder()
	router.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/openapi.yaml", nil))
	require.Equal(t, http.StatusOK, answer.Code)
	doc, err := openapi3.NewLoader().LoadFromData(answer.Body.Bytes())
	require.NoError(t, err)
	require.NoError(t, doc.Validate(t.Context()))

	var served, documented []string
	parameter := regexp.MustCompile(`:(\w+)`)
	for _, route := range router.Routes() {
		served = append(served, route.Method+" "+parameter.ReplaceAllString(route.Path, "{$1}"))
	}
	for path, item := range doc.Paths.Map() {
		for method := range item.Operations() {
			documented = append(documented, method+" "+path)
		}
	}
	assert.ElementsMatch(t, served, documented, "what is served is not what is documented")

	found, err := gorillamux.NewRouter(doc)
	require.NoError(t, err)
	return &Contract{t: t, handler: router, doc: doc, router: found, seen: map[string]bool{}}
}

// Do sends a request to the handlers and returns the answer, which must be one
// that the document has for this operation.
func (c *Contract) Do(t testing.TB, method, target, body string) *httptest.ResponseRecorder {
	t.Helper()
	request := httptest.NewRequest(method, target, strings.NewReader(body))
	request.Header.Set("Content-Type", "application/json")
	if c.Authorization != "" {
		request.Header.Set("Authorization", c.Authorization)
	}
	answer := httptest.NewRecorder()
	c.handler.ServeHTTP(answer, request)

	route, parameters, err := c.router.FindRoute(request)
	if err != nil { // wrong path or method: only the shape of the error is promised
		assert.Regexp(t, `^\{"error":"[^"]+"\}$`, answer.Body.String())
		return answer
	}
	c.seen[fmt.Sprintf("%s %s %d", method, route.Path, answer.Code)] = true
	require.NoError(t, openapi3filter.ValidateResponse(t.Context(), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: request, PathParams: parameters, Route: route},
		Status:                 answer.Code,
		Header:                 answer.Header(),
		Body:                   io.NopCloser(bytes.NewReader(answer.Body.Bytes())),
		Options:                &openapi3filter.Options{IncludeResponseStatus: true},
	}), "%s %s answered %d %s", method, target, answer.Code, answer.Body)
	return answer
}

// RequireSecurity fails unless the operations that refuse a call without a
// token are those that the document has a security requirement for.
func (c *Contract) RequireSecurity(t testing.TB) {
	t.Helper()
	anonymous := *c
	anonymous.Authorization = ""
	for path, item := range c.doc.Paths.Map() {
		for method, operation := range item.Operations() {
			answer := anonymous.Do(t, method, path, "")
			assert.Equal(t, operation.Security != nil, answer.Code == http.StatusUnauthorized, "%s %s answers %d", method, path, answer.Code)
		}
	}
}

// RequireAllSeen fails if the document promises an answer that no call got,
// neither through c nor through others of the same document.
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
	require.Empty(c.t, unseen, "documented, and never seen")
}
