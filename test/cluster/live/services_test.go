package live

import (
	"bufio"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
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
	awaitEverything(t)
	paid := addUnpaid(t)
	call(t, http.MethodPost, "/invoices/pay", nil)
	paid.IsPaid = true
	unpaid := addUnpaid(t)

	replicas := pods(t, "invoicing", "invoice-app")
	require.Len(t, replicas, 3)
	first := throughAPIServer(t, replicas[0], "/invoices")
	assert.Contains(t, decodeInvoices(t, first), paid)
	assert.Contains(t, decodeInvoices(t, first), unpaid)
	for _, replica := range replicas[1:] {
		assert.JSONEq(t, string(first), string(throughAPIServer(t, replica, "/invoices")), replica.Name)
	}
}

func TestNothingIsLostWithThePods(t *testing.T) {
	for name, victims := range map[string][]string{
		"services":   {"invoicing/invoice-app", "payments/payment-provider"},
		"databases":  {"invoicing/postgres", "payments/postgres"},
		"everything": {"invoicing/invoice-app", "payments/payment-provider", "invoicing/postgres", "payments/postgres"},
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
						assert.NotEqual(t, before[pod], uid, "%s is the same pod as before", pod)
					}
				}
			}
			assert.JSONEq(t, string(invoices), string(call(t, http.MethodGet, "/invoices", nil)))
			assert.JSONEq(t, payment, paymentOf(t, paid))
			call(t, http.MethodPost, "/invoices/pay", nil)
		})
	}
}

// paymentOf is what a payment-provider says of an invoice's payment, asked with invoice-app's token.
// It goes through a port-forward, since the API server's proxy keeps that header for itself.
func paymentOf(t *testing.T, paid invoice) string {
	t.Helper()
	provider := pods(t, "payments", "payment-provider")[0]
	forward := command(t, "kubectl", "--context="+kubeContext, "--namespace=payments", "port-forward", provider.Name, ":8082")
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
