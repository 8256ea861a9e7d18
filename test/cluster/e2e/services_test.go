package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestSixPodsAreReady(t *testing.T) {
	awaitEverything(t)
}

func TestListAndPayFromOutside(t *testing.T) {
	awaitEverything(t)
	added := addUnpaid(t)
	assert.Contains(t, decodeInvoices(t, call(t, http.MethodGet, "/invoices", nil)), added)

	assert.JSONEq(t, `{}`, string(call(t, http.MethodPost, "/invoices/pay", nil)))

	added.IsPaid = true
	assert.Contains(t, decodeInvoices(t, call(t, http.MethodGet, "/invoices", nil)), added)
}

func TestEveryReplicaSaysTheSame(t *testing.T) {
	long(t)
	awaitEverything(t)
	paid := addUnpaid(t)
	call(t, http.MethodPost, "/invoices/pay", nil)
	paid.IsPaid = true
	unpaid := addUnpaid(t)

	replicas := podsOf(t, "invoice-app")
	require.Len(t, replicas, 3)
	first := throughAPIServer(t, replicas[0], "/invoices")
	assert.Contains(t, decodeInvoices(t, first), paid)
	assert.Contains(t, decodeInvoices(t, first), unpaid)
	for _, replica := range replicas[1:] {
		assert.JSONEq(t, string(first), string(throughAPIServer(t, replica, "/invoices")), replica.Name)
	}
}

func TestNothingIsLostWithThePods(t *testing.T) {
	long(t)
	var programs, databases []string // as namespace/application
	for _, service := range list.Services {
		programs = append(programs, service.Team+"/"+service.Name)
		if service.Database {
			databases = append(databases, service.Team+"/postgres")
		}
	}
	for name, victims := range map[string][]string{
		"services": programs, "databases": databases, "everything": slices.Concat(programs, databases),
	} {
		t.Run(name, func(t *testing.T) {
			awaitEverything(t)
			paid := addUnpaid(t)
			call(t, http.MethodPost, "/invoices/pay", nil)
			addUnpaid(t)
			payment := paymentOf(t, paid)
			invoices := call(t, http.MethodGet, "/invoices", nil)
			before := uids(t)

			for _, victim := range victims {
				deleteAll(t, victim)
			}
			awaitEverything(t)

			for pod, uid := range uids(t) {
				for _, victim := range victims {
					if strings.HasPrefix(pod, victim+"-") {
						assert.NotEqual(t, before[pod], uid, "%s was not replaced", pod)
					}
				}
			}
			assert.JSONEq(t, string(invoices), string(call(t, http.MethodGet, "/invoices", nil)))
			assert.JSONEq(t, payment, paymentOf(t, paid))
			call(t, http.MethodPost, "/invoices/pay", nil)
		})
	}
}

// A new kube-proxy reads the rules that the last one left in the node's kernel, as each one does every hour. It must
// recognize all of them, otherwise it breaks the Services.
func TestServicesOutliveKubeProxy(t *testing.T) {
	long(t)
	awaitEverything(t)
	proxies := client.CoreV1().Pods("kube-system")
	labelled := metav1.ListOptions{LabelSelector: "k8s-app=kube-proxy"}
	before, err := proxies.List(t.Context(), labelled)
	require.NoError(t, err)
	require.NotEmpty(t, before.Items)

	for _, proxy := range before.Items {
		require.NoError(t, proxies.Delete(t.Context(), proxy.Name, metav1.DeleteOptions{}))
	}
	for _, old := range before.Items {
		require.Eventually(t, func() bool {
			_, err := proxies.Get(context.Background(), old.Name, metav1.GetOptions{})
			return apierrors.IsNotFound(err)
		}, 2*time.Minute, 100*time.Millisecond, "%s is gone", old.Name)
	}
	require.Eventually(t, func() bool {
		now, err := proxies.List(context.Background(), labelled)
		if err != nil || len(now.Items) != len(before.Items) {
			return false
		}
		for _, proxy := range now.Items {
			var health struct{ Status map[string]any } // not empty once rules have been written to the kernel
			answer, err := proxies.ProxyGet("http", proxy.Name, "10256", "/healthz", nil).DoRaw(context.Background())
			if err != nil || json.Unmarshal(answer, &health) != nil || len(health.Status) == 0 {
				return false
			}
		}
		return true
	}, 2*time.Minute, 100*time.Millisecond, "the new ones have written their rules")

	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(500 * time.Millisecond) {
		http.DefaultClient.CloseIdleConnections() // an open connection no longer needs the rules
		status, answer, err := ask(http.MethodGet, "/livez", nil)
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, status, "%s", answer)
	}
}

// paymentOf returns payment-provider's response for an invoice's payment, using a token of invoice-app. The request
// goes through a port-forward, since the API server's proxy does not pass on the Authorization header.
func paymentOf(t *testing.T, paid invoice) string {
	t.Helper()
	provider := podsOf(t, "payment-provider")[0]
	forward := command(t, "kubectl", "--context="+kubeContext, "--namespace="+provider.Namespace,
		"port-forward", provider.Name, ":8082")
	output, err := forward.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, forward.Start())
	defer func() {
		_ = forward.Process.Kill()
		_ = forward.Wait()
	}()
	line, err := bufio.NewReader(output).ReadString('\n')
	require.NoError(t, err)
	address := regexp.MustCompile(`127\.0\.0\.1:\d+`).FindString(line)

	request, err := http.NewRequest(http.MethodGet, "http://"+address+"/payments/"+paid.InvoiceId, nil)
	require.NoError(t, err)
	request.Header.Set("Authorization", "Bearer "+tokenOf(t, "invoice-app", providerAudience, tokenLifetime))
	request.Close = true
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, response.StatusCode, "%s", body)
	return string(body)
}

// deleteAll deletes every pod of an application, given as namespace/application, at once.
func deleteAll(t *testing.T, application string) {
	t.Helper()
	namespace, name, _ := strings.Cut(application, "/")
	require.NoError(t, client.CoreV1().Pods(namespace).DeleteCollection(t.Context(), metav1.DeleteOptions{},
		metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=" + name}))
}
