package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"example.com/invoices/internal/identitytest"
)

const (
	issuer           = "https://kubernetes.default.svc.cluster.local"
	providerAudience = "payment-provider"
	tokenLifetime    = 10 * time.Minute
)

// tokenOf returns a token that the cluster issues to an account of invoice-app's namespace.
func tokenOf(t *testing.T, account, audience string, lifetime time.Duration) string {
	t.Helper()
	seconds := int64(lifetime.Seconds())
	issued, err := client.CoreV1().ServiceAccounts(namespaceOf("invoice-app")).CreateToken(t.Context(), account,
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
			Audiences: []string{audience}, ExpirationSeconds: &seconds}}, metav1.CreateOptions{})
	require.NoError(t, err)
	return issued.Status.Token
}

func claimsOf(t *testing.T, token string) (claims jwt.Claims) {
	t.Helper()
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.RS256, jose.ES256})
	require.NoError(t, err)
	require.NoError(t, parsed.UnsafeClaimsWithoutVerification(&claims))
	return claims
}

// caller is a pod in invoice-app's namespace with the labels of invoice-app, so that the network policies admit it, but
// with another ServiceAccount.
type caller struct {
	pod       *corev1.Pod
	providers []string // the addresses of all replicas
}

func newCaller(t *testing.T) *caller {
	t.Helper()
	c := &caller{pod: runPod(t, shellPod(t, namespaceOf("invoice-app"), "invoice-app", "sleep infinity"))}
	for _, provider := range podsOf(t, "payment-provider") {
		c.providers = append(c.providers, provider.Status.PodIP)
	}
	require.Eventually(t, func() bool {
		for _, provider := range c.providers {
			if status, _, err := c.call(provider, http.MethodGet, "/livez", "", ""); err != nil || status != http.StatusOK {
				return false
			}
		}
		return true
	}, 2*time.Minute, time.Second, "the network policies admit the caller")
	return c
}

// call sends a request from inside the pod, with nothing between the pod and the provider.
func (c *caller) call(provider, method, path, token, body string) (status int, answer string, err error) {
	request, err := http.NewRequest(method, "http://"+provider+":8082"+path, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	request.Close = true
	request.Header.Set("Content-Type", "application/json")
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	var sent bytes.Buffer
	if err := request.Write(&sent); err != nil {
		return 0, "", err
	}
	shell := exec.Command("kubectl", "--context="+kubeContext, "--namespace="+c.pod.Namespace,
		"exec", "--stdin", c.pod.Name, "--",
		"timeout", "10", "bash", "-c", "exec 3<>/dev/tcp/"+provider+"/8082 && cat >&3 && cat <&3")
	shell.Stdin = &sent
	received, err := shell.Output()
	if err != nil {
		return 0, "", err
	}
	response, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(received)), request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return response.StatusCode, string(text), err
}

func (c *caller) mustCall(t *testing.T, provider, method, path, token, body string) (status int, answer string) {
	t.Helper()
	status, answer, err := c.call(provider, method, path, token, body)
	require.NoError(t, err)
	return status, answer
}

// metric returns the sums of a counter over all replicas of a service, by one of its labels.
func metric(t *testing.T, service, name, label string) map[string]int {
	t.Helper()
	line := regexp.MustCompile(`(?m)^` + name + `\{` + label + `="([^"]*)"\} (\d+)$`)
	sums := map[string]int{}
	for _, pod := range podsOf(t, service) {
		if !ready(pod) { // a caller, which only has the labels
			continue
		}
		for _, found := range line.FindAllStringSubmatch(string(throughAPIServer(t, pod, "/metrics")), -1) {
			value, err := strconv.Atoi(found[2])
			require.NoError(t, err)
			sums[found[1]] += value
		}
	}
	return sums
}

// payment-provider accepts only valid tokens of invoice-app. Expired tokens and those of another issuer are in
// TestKeysRotateWhilePaymentsGoOn, since this cluster does not issue any and the test has to sign them.
func TestWhoMayCallPaymentProvider(t *testing.T) {
	long(t)
	awaitEverything(t)
	invoice := addUnpaid(t)
	inside := newCaller(t)
	before := metric(t, "payment-provider", "callers_refused_total", "reason")

	good := tokenOf(t, "invoice-app", providerAudience, tokenLifetime)
	parts := strings.Split(good, ".")
	parsed, err := jwt.ParseSigned(good, []jose.SignatureAlgorithm{jose.RS256, jose.ES256})
	require.NoError(t, err)
	kid := parsed.Headers[0].KeyID
	cases := map[string]struct {
		token  string
		status int
		reason string
	}{
		"no token":         {"", 401, "no_token"},
		"another audience": {tokenOf(t, "invoice-app", issuer, tokenLifetime), 401, "audience"},
		"long-lived":       {tokenOf(t, "invoice-app", providerAudience, time.Hour), 401, "long_lived"},
		"another account":  {tokenOf(t, "default", providerAudience, tokenLifetime), 403, "account"},
		"forged": {identitytest.Sign(t, jose.ES256, identitytest.NewKey(t, kid), claimsOf(t, good)),
			401, "signature"},
		"another's key": {identitytest.Sign(t, jose.ES256, identitytest.NewKey(t, "another"), claimsOf(t, good)),
			401, "unknown_key"},
		"alg none": {base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + parts[1] + ".",
			401, "algorithm"},
		"not a token": {"hello", 401, "malformed"},
	}
	body := fmt.Sprintf(`{"id":%q,"value":%s,"currency":%q}`, invoice.InvoiceId, invoice.Value, invoice.Currency)
	generic := map[int]string{
		401: `{"error":"a valid token is required"}`, 403: `{"error":"this account is not allowed to call"}`,
	}
	t.Run("refused", func(t *testing.T) {
		for name, refused := range cases {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				status, answer := inside.mustCall(t, inside.providers[0], http.MethodPost, "/payments/pay", refused.token, body)
				assert.Equal(t, refused.status, status)
				assert.JSONEq(t, generic[refused.status], answer)
				status, _ = inside.mustCall(t, inside.providers[0],
					http.MethodGet, "/payments/"+invoice.InvoiceId, refused.token, "")
				assert.Equal(t, refused.status, status)
			})
		}
	})
	after := metric(t, "payment-provider", "callers_refused_total", "reason")
	for name, refused := range cases {
		assert.Equal(t, before[refused.reason]+2, after[refused.reason], name)
	}

	for path, open := range map[string]bool{
		"/readyz": true, "/metrics": true, "/openapi.yaml": true, "/payments/" + invoice.InvoiceId: false,
	} {
		status, _ := inside.mustCall(t, inside.providers[0], http.MethodGet, path, "", "")
		assert.Equal(t, open, status == http.StatusOK, "%s: %d", path, status)
	}

	// The same pod on the same route succeeds with a valid token, so the token was the reason.
	path := "/payments/" + invoice.InvoiceId
	status, answer := inside.mustCall(t, inside.providers[0], http.MethodGet, path, good, "")
	assert.Equal(t, http.StatusNotFound, status, "no payment was taken: %s", answer)
	call(t, http.MethodPost, "/invoices/pay", nil) // by the real invoice-app
	status, answer = inside.mustCall(t, inside.providers[0], http.MethodGet, path, good, "")
	assert.Equal(t, http.StatusOK, status, answer)
	status, answer = inside.mustCall(t, inside.providers[0], http.MethodPost, "/payments/pay", good, body)
	assert.Equal(t, http.StatusOK, status, answer)
}

// The tokens of pods have the lifetime that docs/security.md states for the token of a deleted pod.
func TestPodTokensLiveForTenMinutes(t *testing.T) {
	long(t)
	awaitEverything(t)
	for _, pod := range podsOf(t, "invoice-app") {
		token := mustRun(t, command(t, "docker", "exec", cluster.Node, "cat",
			"/var/lib/kubelet/pods/"+string(pod.UID)+"/volumes/kubernetes.io~projected/payment-provider/..data/token"))
		claims := claimsOf(t, token)
		assert.Equal(t, issuer, claims.Issuer)
		assert.Equal(t, jwt.Audience{providerAudience}, claims.Audience)
		assert.Equal(t, "system:serviceaccount:"+namespaceOf("invoice-app")+":invoice-app", claims.Subject)
		assert.Equal(t, tokenLifetime, claims.Expiry.Time().Sub(claims.IssuedAt.Time()))
		assert.Positive(t, time.Until(claims.Expiry.Time()), "the kubelet renews it in time")
	}
}

// A second key, created by the test, is published and withdrawn while invoices are paid without a pause.
func TestKeysRotateWhilePaymentsGoOn(t *testing.T) {
	long(t)
	awaitEverything(t)
	calls := metric(t, "invoice-app", "provider_payments_total", "outcome")
	stop := payWithoutPause(t)
	inside := newCaller(t)
	publish := func() string { return mustRun(t, command(t, "workspace/run", "publish-keys", kubeContext)) }
	t.Cleanup(func() { // after t.Context is done
		_ = exec.Command(repository+"/workspace/run", "publish-keys", kubeContext).Run()
	})

	key := identitytest.NewKey(t, "test")
	issued := jwt.NewNumericDate(time.Now())
	with := func(change func(*jwt.Claims)) string {
		claims := jwt.Claims{Issuer: issuer, Audience: jwt.Audience{providerAudience},
			Subject:  "system:serviceaccount:" + namespaceOf("invoice-app") + ":invoice-app",
			IssuedAt: issued, Expiry: jwt.NewNumericDate(issued.Time().Add(tokenLifetime))}
		change(&claims)
		return identitytest.Sign(t, jose.ES256, key, claims)
	}
	token := with(func(*jwt.Claims) {})
	everywhere := func(token string, want int) bool {
		for _, provider := range inside.providers {
			if status, _, err := inside.call(
				provider, http.MethodGet, "/payments/none", token, "",
			); err != nil || status != want {
				return false
			}
		}
		return true
	}
	require.True(t, everywhere(token, http.StatusUnauthorized), "refused before the key is published")

	configMaps := client.CoreV1().ConfigMaps(namespaceOf("payment-provider"))
	published, err := configMaps.Get(t.Context(), "caller-keys", metav1.GetOptions{})
	require.NoError(t, err)
	var keys jose.JSONWebKeySet
	require.NoError(t, json.Unmarshal([]byte(published.Data["jwks.json"]), &keys))
	keys.Keys = append(keys.Keys, key.Public())
	both, err := json.Marshal(keys)
	require.NoError(t, err)
	published.Data["jwks.json"] = string(both)
	_, err = configMaps.Update(t.Context(), published, metav1.UpdateOptions{})
	require.NoError(t, err)
	touch(t)
	require.Eventually(t, func() bool { return everywhere(token, http.StatusNotFound) },
		2*time.Minute, time.Second, "accepted")

	before := metric(t, "payment-provider", "callers_refused_total", "reason")
	for reason, token := range map[string]string{
		"expired": with(func(c *jwt.Claims) { c.Expiry = jwt.NewNumericDate(issued.Time().Add(-time.Minute)) }),
		"issuer":  with(func(c *jwt.Claims) { c.Issuer = "https://kubernetes.example.com" }),
	} {
		status, _ := inside.mustCall(t, inside.providers[0], http.MethodGet, "/payments/none", token, "")
		assert.Equal(t, http.StatusUnauthorized, status)
		assert.Equal(t, before[reason]+1, metric(t, "payment-provider", "callers_refused_total", "reason")[reason], reason)
	}

	publish()
	touch(t)
	require.Eventually(t, func() bool { return everywhere(token, http.StatusUnauthorized) },
		2*time.Minute, time.Second, "refused again")
	publish() // again, with nothing to change
	require.True(t, everywhere(tokenOf(t, "invoice-app", providerAudience, tokenLifetime), http.StatusNotFound),
		"the cluster's own key remains")

	paid := stop()
	assert.Positive(t, paid)
	now := metric(t, "invoice-app", "provider_payments_total", "outcome")
	assert.GreaterOrEqual(t, now["paid"], calls["paid"]+paid)
	assert.Equal(t, calls["failed"], now["failed"], "no call to payment-provider failed")
}

// touch changes payment-provider's pods, so that the kubelet updates their volumes now and not within a minute or two.
func touch(t *testing.T) {
	t.Helper()
	patch := fmt.Sprintf(`{"metadata":{"annotations":{"example.com/touched":"%d"}}}`, time.Now().UnixNano())
	for _, pod := range podsOf(t, "payment-provider") {
		_, err := client.CoreV1().Pods(pod.Namespace).Patch(t.Context(), pod.Name,
			types.MergePatchType, []byte(patch), metav1.PatchOptions{})
		require.NoError(t, err)
	}
}

// payWithoutPause adds and pays invoices until stop is called, which returns their number. No request may fail.
func payWithoutPause(t *testing.T) (stop func() (paid int)) {
	t.Helper()
	var paying sync.WaitGroup
	done, paid := make(chan struct{}), 0
	paying.Go(func() {
		for ; ; paid++ {
			select {
			case <-done:
				return
			case <-time.After(50 * time.Millisecond):
			}
			body := fmt.Sprintf(`{"InvoiceId":"rotation-%d","Value":1,"Currency":"EUR"}`, time.Now().UnixNano())
			for _, request := range []struct{ path, body string }{{"/invoices", body}, {"/invoices/pay", ""}} {
				status, answer, err := ask(http.MethodPost, request.path, []byte(request.body))
				if !assert.NoError(t, err) || !assert.Less(t, status, 300, "%s: %s", request.path, answer) {
					return
				}
			}
		}
	})
	stop = sync.OnceValue(func() int { close(done); paying.Wait(); return paid })
	t.Cleanup(func() { stop() })
	return stop
}

// Tokens are verified offline: payments continue while the API server is down.
func TestPayingWhileTheAPIServerIsDown(t *testing.T) {
	long(t)
	awaitEverything(t)
	signal := func(name string) error {
		return exec.Command("docker", "exec", cluster.Node, "pkill", "--signal="+name, "--exact", "kube-apiserver").Run()
	}
	answers := func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		return client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error() == nil
	}
	require.True(t, answers())
	t.Cleanup(func() { _ = signal("CONT") })
	require.NoError(t, signal("STOP"))
	// Its threads stop one by one. All of this takes less than the 10 s after which the controllers
	// would lose their leases.
	require.Eventually(t, func() bool { return !answers() }, time.Minute, 10*time.Millisecond, "the API server is down")
	added := addUnpaid(t)
	call(t, http.MethodPost, "/invoices/pay", nil)
	added.IsPaid = true
	assert.Contains(t, decodeInvoices(t, call(t, http.MethodGet, "/invoices", nil)), added)
	require.False(t, answers(), "the API server was down all the time")
	require.NoError(t, signal("CONT"))
	require.Eventually(t, answers, time.Minute, time.Second)
	awaitEverything(t)
}
