// Package loop tests `tilt up` from a developer's point of view: it saves files in a copy of the checkout, and the pods
// of a real cluster must run them. ./deploy.sh has made the cluster, and package target finds it.
package loop

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"example.com/invoices/internal/checkouttest"
	"example.com/invoices/internal/porttest"
	"example.com/invoices/test/cluster/target"
	"example.com/invoices/workspace/services"
)

// enough is a generous limit for everything that must happen. It only ends a test that hangs.
const enough = 5 * time.Minute

const pause = 100 * time.Millisecond // between two checks

// session is a running `tilt up`.
type session struct {
	*testing.T
	kubeContext string
	invoiceApp  string            // its URL, outside the cluster
	deploy      string            // the command that made the cluster
	live        string            // the folder into which Tilt builds
	kubeconfigs string            // the folder of the teams' kubeconfigs
	apiServer   string            // the URL of kubectl proxy
	page        string            // the URL of Tilt's page
	checkout    string            // the copy of the checkout
	versions    map[string]string // the SHA-256 of the delivered programs, by service and version
	log         *log
	end         func() // stops tilt up
}

// log is the output of Tilt.
type log struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// since returns the output after the first n bytes.
func (l *log) since(n int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.text.Bytes()[n:])
}

func (l *log) len() int { return len(l.since(0)) }

// tiltUp starts Tilt with further arguments in a copy of the checkout, and stops it when t ends.
func tiltUp(t *testing.T, arguments ...string) *session {
	s := newSession(t)
	require.NoError(t, checkouttest.Copy("../../..", s.checkout))
	s.start(arguments...)

	// Pods of an earlier session, which are about to be deleted, also run new builds.
	for _, v := range []service{invoiceApp, paymentProvider} {
		if len(arguments) > 0 && !slices.Contains(arguments, v.name) {
			continue
		}
		s.awaitLog(0, "→ "+v.name+":deployment", 1)
		s.kubectl("--namespace", v.namespace, "rollout", "status", "deployment/"+v.name, "--timeout="+enough.String())
	}
	return s
}

// newSession returns a session with an empty folder instead of the checkout.
func newSession(t *testing.T) *session {
	cluster, err := target.FromEnvironment("../../..", "--live")
	require.NoError(t, err)
	s := &session{
		T: t, kubeContext: cluster.Context, invoiceApp: cluster.InvoiceApp, deploy: cluster.Deploy, live: cluster.Live,
		kubeconfigs: cluster.Kubeconfigs, checkout: t.TempDir(), versions: map[string]string{}, log: &log{},
	}
	s.proxyAPIServer()
	return s
}

// start starts Tilt, and stops it when the test ends.
func (s *session) start(arguments ...string) {
	tiltPort := strconv.Itoa(porttest.Free(s.T))
	s.page = "http://127.0.0.1:" + tiltPort
	tilt := exec.Command("tilt",
		append([]string{"up", "--stream", "--context", s.kubeContext, "--port", tiltPort}, arguments...)...)
	tilt.Dir = s.checkout
	tilt.Stdout, tilt.Stderr = s.log, s.log
	tilt.WaitDelay = 10 * time.Second // for child processes that have its output open
	require.NoError(s, tilt.Start())
	s.end = sync.OnceFunc(func() {
		_ = tilt.Process.Signal(os.Interrupt)
		_ = tilt.Wait() // an error, since it was interrupted
	})
	s.Cleanup(func() {
		s.end()
		if s.Failed() {
			s.Logf("output of tilt up:\n%s", s.log.since(0))
		}
	})
}

// long marks a test that -short skips.
func long(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("skipped by -short")
	}
}

// proxyAPIServer makes every pod reachable by its name.
func (s *session) proxyAPIServer() {
	proxy := exec.Command("kubectl", "--context", s.kubeContext, "proxy", "--port=0")
	output, err := proxy.StdoutPipe()
	require.NoError(s, err)
	require.NoError(s, proxy.Start())
	s.Cleanup(func() {
		_ = proxy.Process.Kill()
		_ = proxy.Wait() // an error, since it was killed
	})
	line, err := bufio.NewReader(output).ReadString('\n') // Starting to serve on 127.0.0.1:40123
	require.NoError(s, err, "kubectl proxy")
	s.apiServer = "http://" + strings.TrimSpace(line[strings.LastIndex(line, " "):])
}

func (s *session) kubectl(arguments ...string) string {
	s.Helper()
	output, err := exec.Command("kubectl", append([]string{"--context", s.kubeContext}, arguments...)...).CombinedOutput()
	require.NoError(s, err, "%s", output)
	return string(output)
}

// sql runs a statement in invoice-app's database, as its superuser.
func (s *session) sql(statement string) string {
	s.Helper()
	return strings.TrimSpace(s.kubectl("--namespace", invoiceApp.namespace,
		"exec", "postgres-0", "--container=postgres", "--",
		"psql", "--quiet", "--no-psqlrc", "--tuples-only", "--command="+statement, invoiceApp.namespace))
}

// awaitLog waits until a text occurs count times after the first n bytes of the log.
func (s *session) awaitLog(n int, text string, count int) {
	s.Helper()
	require.Eventually(s, func() bool { return strings.Count(s.log.since(n), text) >= count },
		enough, pause, "%q, %d times, in Tilt's log", text, count)
}

// service is a service of the list.
type service struct{ name, namespace, port string }

var (
	list            = readList()
	invoiceApp      = find("invoice-app")
	paymentProvider = find("payment-provider")
)

func readList() services.List {
	list, err := services.Read("../../..")
	if err != nil {
		panic(err)
	}
	return list
}

func find(name string) service {
	found, _ := list.Find(name)
	return service{found.Name, found.Team, strconv.Itoa(found.Port)}
}

func (s *session) file(name string) string { return filepath.Join(s.checkout, name) }

func (s *session) read(name string) string {
	s.Helper()
	content, err := os.ReadFile(s.file(name))
	require.NoError(s, err)
	return string(content)
}

func (s *session) save(name, content string) {
	s.Helper()
	require.NoError(s, os.WriteFile(s.file(name), []byte(content), 0o644))
}

// routes returns the name of a file of the service's code.
func (v service) routes() string { return v.name + "/api/api.go" }

// message is a text in each service's code. An edit adds a version to it.
var message = regexp.MustCompile(`the database is unavailable, try again( \([^)]*\))?`)

func edited(version string) string { return "the database is unavailable, try again (" + version + ")" }

// saveVersion edits the service's code, so that its program contains the version.
func (s *session) saveVersion(v service, version string) {
	s.Helper()
	file := v.name + "/api/errors.go"
	code := s.read(file)
	require.Len(s, message.FindAllString(code, -1), 1, "%s has the message", file)
	s.save(file, message.ReplaceAllLiteralString(code, edited(version)))
}

// delivered returns the SHA-256 of the latest build, if that contains the version.
func (s *session) delivered(v service, version string) (sum string, ok bool) {
	program, err := os.ReadFile(filepath.Join(s.live, v.name, v.name))
	if err != nil || !bytes.Contains(program, []byte(edited(version))) {
		return "", false
	}
	return fmt.Sprintf("%x", sha256.Sum256(program)), true
}

type pod struct {
	Metadata struct{ Name, UID, DeletionTimestamp string }
	Status   struct {
		Conditions        []struct{ Type, Status string }
		ContainerStatuses []struct{ RestartCount int }
	}
}

func (p pod) ready() bool {
	for _, condition := range p.Status.Conditions {
		if condition.Type == "Ready" {
			return condition.Status == "True"
		}
	}
	return false
}

// pods returns the pods that are not being deleted.
func (s *session) pods(v service) []pod {
	body, err := s.get(s.apiServer + "/api/v1/namespaces/" + v.namespace +
		"/pods?labelSelector=app.kubernetes.io/name=" + v.name)
	require.NoError(s, err)
	var list struct{ Items []pod }
	require.NoError(s, json.Unmarshal(body, &list), "%s", body)
	var staying []pod
	for _, pod := range list.Items {
		if pod.Metadata.DeletionTimestamp == "" {
			staying = append(staying, pod)
		}
	}
	return staying
}

// url returns the URL of one pod, through the API server.
func (s *session) url(v service, p pod) string {
	return s.apiServer + "/api/v1/namespaces/" + v.namespace + "/pods/" + p.Metadata.Name + ":" + v.port + "/proxy"
}

func (s *session) get(url string) ([]byte, error) {
	response, err := (&http.Client{Timeout: 10 * time.Second}).Get(url)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	return io.ReadAll(response.Body)
}

// running returns the SHA-256 of the program that responds at url.
func (s *session) running(url string) string {
	body, err := s.get(url + "/version")
	var version struct{ SHA256 string }
	if err != nil || json.Unmarshal(body, &version) != nil {
		return ""
	}
	return version.SHA256
}

// everywhere reports whether there are exactly this many pods, and all are Ready and run the program that was delivered
// with that version.
func (s *session) everywhere(v service, replicas int, version string) bool {
	want := s.versions[v.name+" "+version]
	require.NotEmpty(s, want, "version %s of %s was never live", version, v.name)
	pods := s.pods(v)
	if len(pods) != replicas {
		return false
	}
	for _, pod := range pods {
		if !pod.ready() || s.running(s.url(v, pod)) != want {
			return false
		}
	}
	return true
}

// newest reports whether the latest build contains the version, and exactly this many pods run it.
func (s *session) newest(v service, replicas int, version string) bool {
	sum, ok := s.delivered(v, version)
	if !ok {
		return false
	}
	s.versions[v.name+" "+version] = sum
	return s.everywhere(v, replicas, version)
}

func (s *session) awaitVersion(v service, replicas int, version string) {
	s.Helper()
	require.Eventually(s, func() bool { return s.newest(v, replicas, version) },
		enough, pause, "%d replicas of %s run the program with version %s", replicas, v.name, version)
}

// awaitOthers waits until all three pods of invoice-app have been replaced, and run the newest
// program.
func (s *session) awaitOthers(before map[string]string, version string) {
	s.Helper()
	require.Eventually(s, func() bool {
		for _, pod := range s.pods(invoiceApp) {
			if _, old := before[pod.Metadata.UID]; old {
				return false
			}
		}
		return s.newest(invoiceApp, 3, version)
	}, enough, pause, "three new pods of invoice-app run the program with version %s", version)
}

// processes returns the start time of each pod's process, by the pod's UID.
func (s *session) processes(v service) map[string]string {
	s.Helper()
	found := map[string]string{}
	for _, pod := range s.pods(v) {
		metrics, err := s.get(s.url(v, pod) + "/metrics")
		require.NoError(s, err)
		for line := range strings.Lines(string(metrics)) {
			if strings.HasPrefix(line, "process_start_time_seconds ") {
				found[pod.Metadata.UID] = line
			}
		}
	}
	require.Len(s, found, 3)
	return found
}

// underLoad calls do while requests go to invoice-app's public port, some of them on new
// connections, and fails if one of them gets no response. Only one worker needs the database: on a
// machine that is busy with a build, a new database connection may take longer than the service
// waits for it.
func (s *session) underLoad(do func()) {
	s.Helper()
	stop := make(chan struct{})
	var load sync.WaitGroup
	var mu sync.Mutex
	var sent int
	var failed []string
	for worker := range 4 {
		path := "/none"
		if worker == 0 {
			path = "/invoices/none/retry"
		}
		load.Go(func() {
			client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: worker%2 == 0}}
			for {
				select {
				case <-stop:
					return
				case <-time.After(50 * time.Millisecond):
				}
				// Nothing exists there. The client does not repeat a POST on its own.
				response, err := client.Post(s.invoiceApp+path, "application/json", nil)
				problem := ""
				if err != nil {
					problem = err.Error()
				} else {
					_, _ = io.Copy(io.Discard, response.Body)
					response.Body.Close()
					if response.StatusCode != http.StatusNotFound {
						problem = response.Status
					}
				}
				mu.Lock()
				sent++
				if problem != "" {
					failed = append(failed, time.Now().Format(time.TimeOnly)+" "+problem)
				}
				mu.Unlock()
			}
		})
	}
	do()
	close(stop)
	load.Wait()
	s.Logf("%d requests, %d failed", sent, len(failed))
	require.Empty(s, failed)
	require.Greater(s, sent, 100)
}
