package server

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestForeignPagesAreRejected(t *testing.T) {
	s := newServer(io.Discard)
	s.AllowedHosts = []string{"invoices.example.com"}
	s.Router.GET("/", func(*gin.Context) {})
	s.Router.POST("/", func(*gin.Context) {})
	type header = map[string]string
	for name, test := range map[string]struct {
		method, host string
		header       header
		want         int
	}{
		"a program":              {http.MethodPost, "localhost:8081", nil, 200},
		"a program, by any name": {http.MethodPost, "invoice-app.invoicing.svc.cluster.local:8081", nil, 200},
		"a browser's address bar": {http.MethodGet, "localhost:8081",
			header{"Sec-Fetch-Site": "none", "Accept-Language": "en"}, 200},
		"a page of this origin": {http.MethodPost, "localhost:8081",
			header{"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost:8081"}, 200},
		"of an IP address": {http.MethodPost, "172.18.0.2:30081",
			header{"Sec-Fetch-Site": "same-origin"}, 200},
		"of an IPv6 address":                {http.MethodPost, "[::1]:8081", header{"Origin": "http://[::1]:8081"}, 200},
		"of an IPv6 address without a port": {http.MethodPost, "[::1]", header{"Origin": "http://[::1]"}, 200},
		"of a name below localhost": {http.MethodPost, "invoices.localhost",
			header{"Origin": "http://invoices.localhost"}, 200},
		"of a name that no public DNS has": {http.MethodPost, "invoice-app:8081",
			header{"Origin": "http://invoice-app:8081"}, 200},
		"of an allowed name": {http.MethodPost, "Invoices.Example.com.",
			header{"Sec-Fetch-Site": "same-origin"}, 200},
		"another site's form": {http.MethodPost, "localhost:8081",
			header{"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}, 403},
		"another port of localhost": {http.MethodPost, "localhost:8081",
			header{"Sec-Fetch-Site": "same-site", "Origin": "http://localhost:3000"}, 403},
		"another site, in an old browser": {http.MethodPost, "localhost:8081", header{"Origin": "https://evil.example"}, 403},
		"a page without an origin":        {http.MethodPost, "localhost:8081", header{"Origin": "null"}, 403},
		"another site's link":             {http.MethodGet, "localhost:8081", header{"Sec-Fetch-Site": "cross-site"}, 200},
		"a rebound name, writing": {http.MethodPost, "evil.example:8081",
			header{"Origin": "http://evil.example:8081"}, 421},
		"a rebound name, reading": {http.MethodGet, "evil.example:8081", header{"Accept-Language": "en"}, 421},
		"a rebound name, with all headers": {http.MethodPost, "evil.example",
			header{"Sec-Fetch-Site": "same-origin", "Origin": "http://evil.example"}, 421},
		"a rebound name that ends like ours": {http.MethodPost, "evilinvoices.example.com",
			header{"Origin": "http://evilinvoices.example.com"}, 421},
		"a rebound name that begins like ours": {http.MethodPost, "localhost.evil.example",
			header{"Origin": "http://localhost.evil.example"}, 421},
		"a rebound name that looks like an IP": {http.MethodPost, "127.0.0.1.evil.example",
			header{"Origin": "http://127.0.0.1.evil.example"}, 421},
		"a HEAD from a rebound name": {http.MethodHead, "evil.example", header{"Accept-Language": "en"}, 421},
	} {
		t.Run(name, func(t *testing.T) {
			request := httptest.NewRequest(test.method, "/", nil)
			request.Host = test.host
			for key, value := range test.header {
				request.Header.Set(key, value)
			}
			answer, _ := do(s, request)
			assert.Equal(t, test.want, answer.Code, answer.Body)
		})
	}
}

func TestHead(t *testing.T) {
	s := newServer(io.Discard)
	parts := 0
	s.Router.GET("/short", func(c *gin.Context) { c.Header("Link", "<x>"); c.String(http.StatusOK, "text") })
	s.Router.GET("/endless", func(c *gin.Context) {
		for {
			if _, err := c.Writer.Write(make([]byte, 1<<10)); err != nil {
				return
			}
			parts++
		}
	})
	url, _ := serve(t, s, func() {})
	head := func(path string) *http.Response {
		response, err := http.Head(url + path)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		return response
	}
	short := head("/short")
	assert.Equal(t, http.StatusOK, short.StatusCode)
	assert.Equal(t, "<x>", short.Header.Get("Link"))
	assert.EqualValues(t, 4, short.ContentLength)
	assert.Equal(t, http.StatusOK, head("/endless").StatusCode)
	assert.LessOrEqual(t, parts, 5, "the rest need not be made")
	assert.Equal(t, http.StatusNotFound, head("/nowhere").StatusCode)
	assert.Contains(t, scrape(t, s, "/endless"),
		`http_request_duration_seconds_count{method="HEAD",route="/endless",status="200"} 1`)

	wrong, _ := do(s, httptest.NewRequest(http.MethodPut, "/short", nil))
	assert.Equal(t, "GET, HEAD", wrong.Header().Get("Allow"))
	wrong, _ = do(s, httptest.NewRequest(http.MethodHead, "/nothing", nil))
	assert.Equal(t, http.StatusNotFound, wrong.Code)
}
