package button

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/workspace/processtest"
	"example.com/invoices/workspace/services"
)

func TestMain(m *testing.M) { processtest.Main(m) }

// press presses a button of a board whose invoice-app is the handler.
func press(
	t *testing.T, ctx context.Context, name string, handler http.HandlerFunc, service ...string,
) (out, answers string, err error) {
	t.Helper()
	server := httptest.NewServer(handler)
	defer server.Close()
	var said, answered bytes.Buffer
	list := services.List{Services: []services.Service{
		{Name: "shop", Team: "sales", Calls: []string{"bank", "stock"}, Database: true, Public: true},
		{Name: "bank", Team: "money", Database: true},
		{Name: "stock", Team: "sales", Calls: []string{"bank"}},
	}}
	board := Board{Cluster: "the-cluster", Services: list, URL: server.URL, Out: &said, Answers: &answered}
	found, err := board.Press(ctx, name, service...)
	require.True(t, found)
	return said.String(), answered.String(), err
}

func TestPayAll(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1") // must not be used for localhost
	calls := 0
	out, answers, err := press(t, t.Context(), "pay-all", func(w http.ResponseWriter, r *http.Request) {
		calls++
		assert.Equal(t, "POST /invoices/pay", r.Method+" "+r.URL.Path)
		assert.Equal(t, "application/json", r.Header.Get("Content-Type"))
		if calls < 3 {
			w.WriteHeader(http.StatusAccepted)
		}
		_, _ = io.WriteString(w, "{}")
	})
	require.NoError(t, err)
	assert.Equal(t, 3, calls, "a response of 202 is not the last one")
	assert.Equal(t, "all invoices are settled\n", out)
	assert.Equal(t, "{}\n{}\n{}\n", answers)
}

func TestPayAllThatFails(t *testing.T) {
	out, answers, err := press(t, t.Context(), "pay-all", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, `{"error": "3 are not paid"}`)
	})
	assert.ErrorContains(t, err, "/invoices/pay: 503 Service Unavailable")
	assert.Empty(t, out)
	assert.Contains(t, answers, "3 are not paid")
}

func TestPayAllIsInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	_, _, err := press(t, ctx, "pay-all", func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // the server notices a closed connection only after it has read the body
		cancel()
		<-r.Context().Done()
	})
	assert.ErrorIs(t, err, context.Canceled)
}

func TestAddInvoices(t *testing.T) {
	ids := map[string]bool{}
	for range 2 {
		_, _, err := press(t, t.Context(), "add-invoices", func(_ http.ResponseWriter, r *http.Request) {
			assert.Equal(t, "POST /invoices", r.Method+" "+r.URL.Path)
			var invoices []struct {
				InvoiceID string `json:"InvoiceId"`
				Value     json.Number
				Currency  string
			}
			decoder := json.NewDecoder(http.MaxBytesReader(nil, r.Body, 1<<20))
			assert.NoError(t, decoder.Decode(&invoices))
			if assert.Len(t, invoices, 1000) {
				assert.Equal(t, "1.01", invoices[0].Value.String())
				assert.Equal(t, "1000.00", invoices[999].Value.String())
			}
			for _, invoice := range invoices {
				assert.Equal(t, "EUR", invoice.Currency)
				ids[invoice.InvoiceID] = true
			}
		})
		require.NoError(t, err)
	}
	assert.Len(t, ids, 2000)
}

func TestResetData(t *testing.T) {
	kubectl := processtest.Put(t, "kubectl", func(processtest.Call) processtest.Answer { return processtest.Answer{} })
	out, _, err := press(t, t.Context(), "reset-data", nil)
	require.NoError(t, err)
	assert.Equal(t, "the database of sales is empty\nthe database of money is empty\n", out)
	const psql = " exec postgres-0 --container=postgres -- psql --quiet --no-psqlrc --set=ON_ERROR_STOP=1 "
	assert.Equal(t, []string{
		"--context=the-cluster --namespace=sales" + psql + "--command=" + emptyAll + " sales",
		"--context=the-cluster --namespace=money" + psql + "--command=" + emptyAll + " money",
	}, kubectl.Calls())
}

// While the invoices exist, the payments must not be deleted, or the invoices would be paid again.
func TestPaymentsAreKeptWhileThereAreInvoices(t *testing.T) {
	kubectl := processtest.Put(t, "kubectl", func(processtest.Call) processtest.Answer {
		return processtest.Answer{Stderr: "the table is locked", Code: 1}
	})
	_, _, err := press(t, t.Context(), "reset-data", nil)
	assert.ErrorContains(t, err, "the table is locked")
	assert.Len(t, kubectl.Calls(), 1)
}

func TestRebuildSchema(t *testing.T) {
	kubectl := processtest.Put(t, "kubectl", func(call processtest.Call) processtest.Answer {
		if call.Args[2] == "rollout" {
			return processtest.Answer{Stdout: "deployment.apps/bank restarted\n"}
		}
		return processtest.Answer{}
	})
	const psql = " exec postgres-0 --container=postgres -- psql --quiet --no-psqlrc --set=ON_ERROR_STOP=1 "
	out, _, err := press(t, t.Context(), "rebuild-schema", nil, "bank")
	require.NoError(t, err)
	assert.Equal(t, "the database of sales is empty\n"+
		"the schema of bank is deleted: its pods restart, and migrate before they serve\n"+
		"deployment.apps/bank restarted\n", out)
	assert.Equal(t, []string{
		"--context=the-cluster --namespace=sales" + psql + "--command=" + emptyAll + " sales",
		"--context=the-cluster --namespace=money" + psql + "--command=" + newSchema + " money",
		"--context=the-cluster --namespace=money rollout restart deployment/bank",
	}, kubectl.Calls())
	out, _, err = press(t, t.Context(), "rebuild-schema", nil, "shop")
	require.NoError(t, err)
	assert.NotContains(t, out, "money", "the callee keeps its data")

	for _, name := range []string{"stock", "none"} { // neither has a database
		before := len(kubectl.Calls())
		_, _, err = press(t, t.Context(), "rebuild-schema", nil, name)
		assert.EqualError(t, err, `"`+name+`" is not a service with a database`)
		assert.Len(t, kubectl.Calls(), before)
	}
}

func TestKillPod(t *testing.T) {
	kubectl := processtest.Put(t, "kubectl", func(call processtest.Call) processtest.Answer {
		if call.Args[2] == "get" {
			assert.Contains(t, strings.Join(call.Args, " "), "deletionTimestamp")
			return processtest.Answer{Stdout: "shop-a\nshop-b\n"}
		}
		return processtest.Answer{Stdout: "pod \"shop-a\" deleted\n"}
	})
	out, _, err := press(t, t.Context(), "kill-pod", nil)
	require.NoError(t, err)
	assert.Equal(t, "pod \"shop-a\" deleted\n", out)
	assert.Equal(t, "--context=the-cluster --namespace=sales delete pod shop-a --wait=false",
		strings.Join(kubectl.Last().Args, " "))
}

func TestThereIsNoPodToKill(t *testing.T) {
	kubectl := processtest.Put(t, "kubectl", func(processtest.Call) processtest.Answer { return processtest.Answer{} })
	_, _, err := press(t, t.Context(), "kill-pod", nil)
	assert.ErrorContains(t, err, "shop has no pod")
	assert.Len(t, kubectl.Calls(), 1)
}

func TestThereIsNoSuchButton(t *testing.T) {
	for _, words := range [][]string{{"pay-none"}, {"rebuild-schema"}, {"reset-data", "bank"}} {
		found, err := Board{}.Press(t.Context(), words[0], words[1:]...)
		assert.False(t, found, words)
		assert.NoError(t, err)
	}
}
