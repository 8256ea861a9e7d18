package live

import (
	"net/http"
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
			provider := pods(t, "payments", "payment-provider")[0]
			payment := throughAPIServer(t, provider, "/payments/"+paid.InvoiceId)
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
			provider = pods(t, "payments", "payment-provider")[0]
			assert.JSONEq(t, string(payment), string(throughAPIServer(t, provider, "/payments/"+paid.InvoiceId)))
			call(t, http.MethodPost, "/invoices/pay", nil)
		})
	}
}

// deleteAll deletes every pod of an application, given as namespace/application, at once.
func deleteAll(t *testing.T, application string) {
	t.Helper()
	namespace, name, _ := strings.Cut(application, "/")
	require.NoError(t, client.CoreV1().Pods(namespace).DeleteCollection(t.Context(), metav1.DeleteOptions{},
		metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=" + name}))
}
