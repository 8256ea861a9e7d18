package loop

import (
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/test/cluster/target"
)

// in runs a shell command line in the checkout that made the cluster.
func (s *session) in(line string) (string, error) {
	command := exec.Command("sh", "-c", line)
	command.Dir = "../../.."
	said, err := command.CombinedOutput()
	return string(said), err
}

// pays adds an invoice, pays all, and checks that it is paid.
func (s *session) pays() {
	s.Helper()
	id := "mishap-" + time.Now().Format("150405.000000")
	for _, request := range []struct{ path, body string }{
		{"/invoices", `{"InvoiceId":"` + id + `","Value":1,"Currency":"EUR"}`}, {"/invoices/pay", ""},
	} {
		response, err := http.Post(s.invoiceApp+request.path, "application/json", strings.NewReader(request.body))
		require.NoError(s, err)
		text, err := io.ReadAll(response.Body)
		response.Body.Close()
		require.NoError(s, err)
		require.Less(s, response.StatusCode, 300, "%s: %s", request.path, text)
	}
	paid, err := s.get(s.invoiceApp + "/invoices/" + id)
	require.NoError(s, err)
	assert.Contains(s, string(paid), `"IsPaid":true`)
}

// TestMishaps does to the cluster what a developer may do between two sessions of `tilt up`: the next one works.
func TestMishaps(t *testing.T) {
	long(t)
	claim := invoiceApp.name + "-live"
	s := tiltUp(t, invoiceApp.name, paymentProvider.name)
	s.pays()
	for _, mishap := range []struct {
		name  string
		cause func(*session)
		empty bool // it deletes the invoices
	}{
		{"the namespace is deleted", func(s *session) {
			s.kubectl("delete", "namespace", invoiceApp.namespace, "--wait=false") // tilt up finds it half deleted
		}, true},
		{"the claim is deleted while pods use it", func(s *session) {
			s.kubectl("--namespace", invoiceApp.namespace, "delete", "persistentvolumeclaim", claim, "--wait=false")
		}, false},
		{"the claim is deleted", func(s *session) {
			s.kubectl("--namespace", invoiceApp.namespace, "delete", "deployment", invoiceApp.name, "--cascade=foreground")
			s.kubectl("--namespace", invoiceApp.namespace, "delete", "persistentvolumeclaim", claim)
		}, false},
		{"the volume is deleted while pods use it", func(s *session) {
			s.kubectl("delete", "persistentvolume", "live-"+invoiceApp.namespace+"-"+invoiceApp.name, "--wait=false")
		}, false},
		{"the folder that the node sees is removed", func(s *session) {
			require.NoError(s, os.RemoveAll(s.live))
			said, err := s.in("workspace/run describe --live")
			require.Error(s, err)
			assert.Contains(s, said, "run "+s.deploy+" to fix this, no data is lost")
			said, err = s.in(s.deploy)
			require.NoError(s, err, "%s", said)
			assert.Contains(s, said, "restarting the node")
		}, false},
		{"what is in that folder is removed", func(s *session) {
			programs, err := filepath.Glob(filepath.Join(s.live, "*"))
			require.NoError(s, err)
			require.NotEmpty(s, programs)
			for _, program := range programs {
				require.NoError(s, os.RemoveAll(program))
			}
		}, false},
	} {
		t.Log(mishap.name)
		s.end()
		mishap.cause(s)
		s = tiltUp(t, invoiceApp.name, paymentProvider.name)
		s.saveVersion(invoiceApp, mishap.name)
		s.awaitVersion(invoiceApp, 3, mishap.name)
		list, err := s.get(s.invoiceApp + "/invoices")
		require.NoError(t, err)
		assert.Equal(t, mishap.empty, !strings.Contains(string(list), `"mishap-`), "%s", list)
		s.pays()
		said, err := s.in("kubectl --kubeconfig '" + s.kubeconfigs + "/team-" + invoiceApp.namespace + "' get pods")
		require.NoError(t, err, "%s", said)
	}
}

// A pause of the node, as of a machine that sleeps, ends with what was saved meanwhile being live.
func TestPause(t *testing.T) {
	long(t)
	cluster, err := target.FromEnvironment("../../..")
	require.NoError(t, err)
	s := tiltUp(t, invoiceApp.name, paymentProvider.name)
	s.saveVersion(invoiceApp, "before")
	s.awaitVersion(invoiceApp, 3, "before")
	docker := func(verb string) error { return exec.Command("docker", verb, cluster.Node).Run() }
	require.NoError(t, docker("pause"))
	t.Cleanup(func() { _ = docker("unpause") }) // an error, since it is not paused
	s.saveVersion(invoiceApp, "meanwhile")
	require.Eventually(t, func() bool { _, ok := s.delivered(invoiceApp, "meanwhile"); return ok }, enough, pause)
	said, err := s.in("workspace/run describe --live")
	require.Error(t, err)
	assert.Contains(t, said, "is not running (its node is paused): run "+s.deploy+" to start it")
	time.Sleep(15 * time.Second) // longer than requests, probes and claims last
	require.NoError(t, docker("unpause"))
	s.awaitVersion(invoiceApp, 3, "meanwhile")
	s.pays()
}
