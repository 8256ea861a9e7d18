// Package e2e tests the services and the platform on a real cluster, made by ./deploy.sh. Its tests pay invoices and
// delete pods, so the cluster must be named: see package target.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"example.com/invoices/test/cluster/target"
	"example.com/invoices/workspace/services"
)

// Set by connect and TestMain, and used by all tests.
var (
	client      kubernetes.Interface
	cluster     target.Target
	kubeContext string
	invoiceApp  string        // its URL outside the cluster
	repository  string        // the root of the checkout
	scratch     string        // a folder that is removed after the tests
	list        services.List // the services
)

func TestMain(m *testing.M) {
	if err := connect(); err != nil {
		fmt.Fprintf(os.Stderr, "these tests need a cluster on which ./deploy.sh has run: %v\n", err)
		os.Exit(1)
	}
	var err error
	if scratch, err = os.MkdirTemp("", "live-"); err != nil {
		panic(err)
	}
	code := m.Run()
	_ = os.RemoveAll(scratch)
	os.Exit(code)
}

// long marks a test that -short skips.
func long(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("skipped by -short")
	}
}

// connect connects to the cluster, whose ports may have changed.
func connect() (err error) {
	if repository, err = filepath.Abs("../../.."); err != nil {
		return err
	}
	if list, err = services.Read(repository); err != nil {
		return err
	}
	if cluster, err = target.FromEnvironment(repository); err != nil {
		return err
	}
	kubeContext, invoiceApp = cluster.Context, cluster.InvoiceApp
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(
		clientcmd.NewDefaultClientConfigLoadingRules(),
		&clientcmd.ConfigOverrides{CurrentContext: kubeContext}).ClientConfig()
	if err != nil {
		return err
	}
	config.QPS = -1 // no limit: the cluster is ours
	config.WarningHandler = rest.NoWarnings{}
	if client, err = kubernetes.NewForConfig(config); err != nil {
		return err
	}
	_, err = client.Discovery().ServerVersion()
	return err
}

// namespaceOf returns the namespace of a service.
func namespaceOf(service string) string {
	found, _ := list.Find(service)
	return found.Team
}

// podsOf returns the pods of a service that are not being deleted.
func podsOf(t require.TestingT, service string) []corev1.Pod {
	return pods(t, namespaceOf(service), service)
}

// pods returns the pods of an application that are not being deleted.
func pods(t require.TestingT, namespace, application string) []corev1.Pod {
	list, err := client.CoreV1().Pods(namespace).List(context.Background(),
		metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=" + application})
	require.NoError(t, err)
	var staying []corev1.Pod
	for _, pod := range list.Items {
		if pod.DeletionTimestamp == nil {
			staying = append(staying, pod)
		}
	}
	return staying
}

// registry returns the address of the cluster's registry, as localhost:port.
func registry(t *testing.T) string {
	t.Helper()
	address, _, _ := strings.Cut(podsOf(t, "invoice-app")[0].Spec.Containers[0].Image, "/")
	return address
}

func ready(pod corev1.Pod) bool {
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}

// awaitEverything waits until there are exactly three pods of each service and one of each database, and all are Ready.
func awaitEverything(t *testing.T) {
	t.Helper()
	require.Eventually(t, func() bool {
		for _, service := range list.Services {
			want := map[string]int{service.Name: 3}
			if service.Database {
				want["postgres"] = 1
			}
			for application, count := range want {
				found := pods(t, service.Team, application)
				if len(found) != count {
					return false
				}
				for _, pod := range found {
					if !ready(pod) {
						return false
					}
				}
			}
		}
		return true
	}, 5*time.Minute, 500*time.Millisecond, "three Ready pods of each service, and their databases")
}

// uids returns the UIDs of all pods, by namespace and name.
func uids(t *testing.T) map[string]types.UID {
	t.Helper()
	found := map[string]types.UID{}
	for _, team := range list.Teams() {
		for _, application := range append(list.Names(), "postgres") {
			for _, pod := range pods(t, team.Name, application) {
				found[pod.Namespace+"/"+pod.Name] = pod.UID
			}
		}
	}
	return found
}

// throughAPIServer sends a GET request to a pod, and returns the body of the response. Network policies do not apply,
// since the API server runs on the pod's node.
func throughAPIServer(t *testing.T, pod corev1.Pod, path string) []byte {
	t.Helper()
	port := fmt.Sprint(pod.Spec.Containers[0].Ports[0].ContainerPort)
	body, err := client.CoreV1().Pods(pod.Namespace).
		ProxyGet("http", pod.Name, port, path, nil).DoRaw(context.Background())
	require.NoError(t, err, "%s of %s", path, pod.Name)
	return body
}

type invoice struct {
	InvoiceId string
	Value     json.Number
	Currency  string
	IsPaid    bool
}

func decodeInvoices(t *testing.T, body []byte) []invoice {
	t.Helper()
	var list []invoice
	require.NoError(t, json.Unmarshal(body, &list), "%s", body)
	return list
}

// call sends a request from outside the cluster, to the port that the cluster's definition maps, and returns the body
// of the response. Like any client it retries for a while if there is no response, or 503, which is safe. There is no
// response from a pod that is Ready while the network policies do not admit connections yet.
func call(t *testing.T, method, path string, body any) []byte {
	t.Helper()
	sent, err := json.Marshal(body)
	require.NoError(t, err)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Second) {
		status, answer, err := ask(method, path, sent)
		if time.Now().Before(deadline) && (err != nil || status == http.StatusServiceUnavailable) {
			continue
		}
		require.NoError(t, err)
		require.Less(t, status, 300, "%s %s: %s", method, path, answer)
		return answer
	}
}

func ask(method, path string, body []byte) (status int, answer []byte, err error) {
	request, err := http.NewRequest(method, invoiceApp+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := (&http.Client{Timeout: time.Minute}).Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	answer, err = io.ReadAll(response.Body)
	return response.StatusCode, answer, err
}

// addUnpaid adds a new invoice.
func addUnpaid(t *testing.T) invoice {
	t.Helper()
	added := invoice{InvoiceId: fmt.Sprintf("live-%d", time.Now().UnixNano()), Value: "12.34", Currency: "EUR"}
	call(t, http.MethodPost, "/invoices", map[string]any{
		"InvoiceId": added.InvoiceId, "Value": added.Value, "Currency": added.Currency})
	return added
}

// command returns a command that runs in the checkout.
func command(t *testing.T, name string, arguments ...string) *exec.Cmd {
	t.Helper()
	command := exec.CommandContext(t.Context(), name, arguments...)
	command.Dir = repository
	return command
}

// mustRun runs a command and returns its output, which is shown if the command fails.
func mustRun(t *testing.T, command *exec.Cmd) string {
	t.Helper()
	output, err := command.CombinedOutput()
	require.NoError(t, err, "%v:\n%s", command.Args, output)
	return string(output)
}

// newNamespace creates a namespace that belongs to no team, and is deleted when the test ends.
func newNamespace(t *testing.T) string {
	t.Helper()
	namespace, err := client.CoreV1().Namespaces().Create(t.Context(),
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "stranger-"}}, metav1.CreateOptions{})
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = client.CoreV1().Namespaces().Delete(context.Background(), namespace.Name, metav1.DeleteOptions{})
	})
	return namespace.Name
}

// runPod starts a pod that is deleted when the test ends.
func runPod(t *testing.T, pod *corev1.Pod) *corev1.Pod {
	t.Helper()
	created, err := client.CoreV1().Pods(pod.Namespace).Create(t.Context(), pod, metav1.CreateOptions{})
	require.NoError(t, err)
	t.Cleanup(func() {
		now := int64(0)
		_ = client.CoreV1().Pods(pod.Namespace).Delete(context.Background(), created.Name,
			metav1.DeleteOptions{GracePeriodSeconds: &now})
	})
	return created
}
