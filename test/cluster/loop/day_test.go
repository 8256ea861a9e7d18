package loop

import (
	"encoding/json"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/internal/checkouttest"
)

// A program with the race detector runs in the same restricted pods, and its log reports a race.
func TestRace(t *testing.T) {
	long(t)
	s := tiltUp(t, invoiceApp.name, paymentProvider.name, "--", "--race", invoiceApp.name)
	s.saveVersion(invoiceApp, "raced")
	s.awaitVersion(invoiceApp, 3, "raced")
	n := s.log.len()
	s.save("invoice-app/api/raced.go", "package api\n\nvar raced int\n\nfunc init() {\n"+
		"\tfor range 100 {\n\t\tgo func() { raced++ }()\n\t}\n}\n")
	s.saveVersion(invoiceApp, "racing")
	s.awaitVersion(invoiceApp, 3, "racing") // a race does not stop the program
	s.awaitLog(n, "WARNING: DATA RACE", 1)  // the detector does not see every race
	s.awaitLog(n, "example.com/invoices/invoice-app/api/raced.go:7", 1)
	for _, pod := range s.pods(invoiceApp) {
		assert.Zero(t, pod.Status.ContainerStatuses[0].RestartCount, "it has enough memory")
	}
}

// Each link of a service works on this machine, also after the program was replaced.
func TestLinks(t *testing.T) {
	long(t)
	s := tiltUp(t)
	s.saveVersion(invoiceApp, "first") // when this is live everywhere, all pods have started
	s.awaitVersion(invoiceApp, 3, "first")
	for service, names := range map[string][]string{
		invoiceApp.name:      {"invoices", "metrics", "openapi.yaml", "pprof"},
		paymentProvider.name: {"openapi.yaml", "pprof", "metrics"},
	} {
		var found []string
		for name, url := range s.links(service) {
			found = append(found, name)
			s.awaitStatus(url, http.StatusOK)
		}
		assert.ElementsMatch(t, names, found, service)
	}

	n := s.log.len()
	s.saveVersion(invoiceApp, "second")
	s.awaitVersion(invoiceApp, 3, "second")
	s.awaitLog(n, "msg=stopped", 3) // the old processes, which had the port
	profiles := s.links(invoiceApp.name)["pprof"]
	s.awaitStatus(profiles+"heap", http.StatusOK)
	body, err := s.get(profiles + "goroutine?debug=2")
	require.NoError(t, err)
	assert.Contains(t, string(body), "example.com/invoices/internal/server.(*Server).Run")
	assert.NotContains(t, s.log.since(n), "address already in use")
}

// links returns the URLs of a resource's links, by name.
func (s *session) links(resource string) map[string]string {
	s.Helper()
	port := s.page[strings.LastIndex(s.page, ":")+1:]
	output, err := exec.Command("tilt", "get", "uiresource", resource, "--port="+port, "--output=json").Output()
	require.NoError(s, err)
	var found struct {
		Status struct {
			EndpointLinks []struct{ Name, URL string }
		}
	}
	require.NoError(s, json.Unmarshal(output, &found))
	links := map[string]string{}
	for _, link := range found.Status.EndpointLinks {
		links[link.Name] = link.URL
	}
	return links
}

func (s *session) awaitStatus(url string, status int) {
	s.Helper()
	client := &http.Client{Timeout: 10 * time.Second}
	require.Eventually(s, func() bool {
		response, err := client.Get(url)
		if err != nil {
			return false
		}
		response.Body.Close()
		return response.StatusCode == status
	}, enough, pause, "%s responds with %d", url, status)
}

// A developer's own files change what runs, and how.
func TestOwnSettings(t *testing.T) {
	long(t)
	s := newSession(t)
	require.NoError(t, checkouttest.Copy("../../..", s.checkout))
	const settings, own = "tilt_config.json", "Tiltfile.local"
	good := `{"resources": ["payment-provider", "mine"], "env": {"payment-provider": {"LOG_LEVEL": "debug"}}}`
	s.save(settings, good)
	s.save(own, "local_resource('mine', 'echo my own resource')\n")
	s.start()
	s.awaitLog(0, "my own resource", 1)
	s.awaitLog(0, "level=DEBUG msg=request", 1) // probes are logged at this level only
	assert.NotContains(t, s.log.since(0), "invoice-app is delivered to its pods")

	const services = "must be one of invoice-app, payment-provider"
	for wrong, want := range map[string]string{
		`{"rase": "invoice-app"}`:                          "tilt_config.json specified unknown setting name 'rase'",
		`{"race": "invoiceapp"}`:                           "race: there is no service invoiceapp: " + services,
		`{"env": {"nobody": {}}}`:                          "env: there is no service nobody: " + services,
		`{"env": {"invoice-app": {"PAY_CONCURRENCY": 2}}}`: "env is invalid: must be",
		`{"resources": ["nothing"]}`:                       "could not be found",
	} {
		n := s.log.len()
		s.save(settings, wrong)
		s.awaitLog(n, want, 1)
	}
	n := s.log.len()
	s.save(settings, good)
	s.awaitLog(n, "Successfully loaded Tiltfile", 1)
	n = s.log.len()
	s.save(own, "local_resource('mine', 'echo my changed resource')\n")
	s.awaitLog(n, "my changed resource", 1)
}
