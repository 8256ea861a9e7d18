// Package e2e tests what ./deploy.sh has put on a real cluster, with that cluster. It pays
// invoices and deletes pods, so it wants the cluster named, as package target says.
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

// What every test works with.
var (
	client      kubernetes.Interface
	cluster     target.Target
	kubeContext string
	invoiceApp  string        // its URL outside the cluster
	repository  string        // the root of the checkout
	scratch     string        // a folder that goes with the tests
	list        services.List // of the services
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

// long marks a test that -short leaves out.
func long(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("left out by -short")
	}
}

// connect finds the cluster as it is now.
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
	config.QPS = -1 // as fast as it answers: the cluster is ours
	config.WarningHandler = rest.NoWarnings{}
	if client, err = kubernetes.NewForConfig(config); err != nil {
		return err
	}
	_, err = client.Discovery().ServerVersion()
	return err
}

// namespaceOf is the namespace of a service.
func namespaceOf(service string) string {
	found, _ := list.Find(service)
	return found.Team
}

// podsOf are the pods of a service that have not been told to go.
func podsOf(t require.TestingT, service string) []corev1.Pod {
	return pods(t, namespaceOf(service), service)
}

// pods are the pods of an application that have not been told to go.
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

// registry is where the cluster's images are, as localhost:port.
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

// awaitEverything waits until three pods of each service and the databases are Ready, and no
// others are there.
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

// uids are the identities of all pods, by namespace and name.
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

// throughAPIServer sends GET to one pod, whatever the network policies say: the API server runs on
// the pod's own node.
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

// call is a request from outside the cluster, by the port that its definition maps. Like any client
// it tries again for a while when it gets no answer, or 503: nothing is lost by that. No answer is
// what a pod gives that is Ready, and that the network's policies have not let anybody in to yet.
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

// addUnpaid adds an invoice that nobody has seen before.
func addUnpaid(t *testing.T) invoice {
	t.Helper()
	added := invoice{InvoiceId: fmt.Sprintf("live-%d", time.Now().UnixNano()), Value: "12.34", Currency: "EUR"}
	call(t, http.MethodPost, "/invoices", map[string]any{
		"InvoiceId": added.InvoiceId, "Value": added.Value, "Currency": added.Currency})
	return added
}

// command is a program run in the checkout. What it says is shown when it fails.
func command(t *testing.T, name string, arguments ...string) *exec.Cmd {
	t.Helper()
	command := exec.CommandContext(t.Context(), name, arguments...)
	command.Dir = repository
	return command
}

func mustRun(t *testing.T, command *exec.Cmd) string {
	t.Helper()
	output, err := command.CombinedOutput()
	require.NoError(t, err, "%v:\n%s", command.Args, output)
	return string(output)
}

// newNamespace belongs to none of the teams, and to the test alone.
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
