package credentials

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/workspace/processtest"
	"example.com/invoices/workspace/services"
)

func TestMain(m *testing.M) { processtest.Main(m) }

// object is an object that kubectl reads from its standard input.
type object struct {
	Kind     string
	Metadata struct {
		Name, Namespace, GenerateName string
		Labels                        map[string]string
	}
	StringData map[string]string
	Data       map[string]string
	Spec       struct {
		SignerName        string
		Usages            []string
		ExpirationSeconds int
		Request           []byte
	}
}

func read(t *testing.T, call processtest.Call) (o object) {
	require.NoError(t, json.Unmarshal([]byte(call.Stdin), &o))
	return o
}

func TestPasswords(t *testing.T) {
	var made []object
	kubectl := processtest.Put(t, "kubectl", func(call processtest.Call) processtest.Answer {
		switch line := strings.Join(call.Args, " "); {
		case strings.Contains(line, "--namespace=payments get secret postgres-owner"):
			return processtest.Answer{Stdout: "secret/postgres-owner\n"}
		case strings.Contains(line, " create "):
			made = append(made, read(t, call))
			return processtest.Answer{Stdout: "secret/x created\n"}
		}
		return processtest.Answer{}
	})
	var out bytes.Buffer
	require.NoError(t, Passwords(t.Context(), &out, "the-cluster", "things", []string{"invoicing", "payments"}))

	assert.Equal(t, strings.Repeat("secret/x created\n", 2)+"payments/postgres-owner already exists\nsecret/x created\n",
		out.String())
	require.Len(t, made, 3)
	passwords := map[string]bool{}
	for i, want := range []struct{ namespace, role string }{
		{"invoicing", "owner"}, {"invoicing", "application"}, {"payments", "application"},
	} {
		assert.Equal(t, want.namespace, made[i].Metadata.Namespace)
		assert.Equal(t, "postgres-"+want.role, made[i].Metadata.Name)
		assert.Equal(t, map[string]string{"app.kubernetes.io/name": "postgres", "app.kubernetes.io/part-of": "things"},
			made[i].Metadata.Labels)
		passfile := made[i].StringData["passfile"]
		assert.Regexp(t, `^\*:\*:\*:`+want.role+`:[0-9a-f]{48}\n$`, passfile)
		passwords[passfile[strings.LastIndex(passfile, ":"):]] = true
	}
	assert.Len(t, passwords, 3, "all are different")
	for _, line := range kubectl.Calls() {
		assert.True(t, strings.HasPrefix(line, "--context=the-cluster "), line)
		assert.NotRegexp(t, "[0-9a-f]{48}", line)
	}
	assert.NotRegexp(t, "[0-9a-f]{48}", out.String())
}

// The password of the audit's role reaches the databases on standard input only.
func TestAudit(t *testing.T) {
	var secret string
	var inputs []string
	kubectl := processtest.Put(t, "kubectl", func(call processtest.Call) processtest.Answer {
		line := strings.Join(call.Args, " ")
		switch {
		case strings.Contains(line, " create "):
			made := read(t, call)
			assert.Equal(t, "monitoring", made.Metadata.Namespace)
			assert.Equal(t, "postgres-audit", made.Metadata.Name)
			secret = made.StringData["passfile"]
			return processtest.Answer{Stdout: "secret/x created\n"}
		case strings.Contains(line, "jsonpath"):
			return processtest.Answer{Stdout: base64.StdEncoding.EncodeToString([]byte(secret))}
		case strings.Contains(line, " exec "):
			inputs = append(inputs, call.Stdin)
		}
		return processtest.Answer{}
	})
	var out bytes.Buffer
	require.NoError(t, Audit(t.Context(), &out, "the-cluster", "things", []string{"sales", "money"}))
	assert.Equal(t, "secret/x created\nthe audit can read the database of sales\n"+
		"the audit can read the database of money\n", out.String())
	password := strings.TrimSpace(strings.TrimPrefix(secret, "*:*:*:audit:"))
	assert.Regexp(t, "^[0-9a-f]{48}$", password)
	typed := password + "\n" + password + "\n"
	assert.Equal(t, []string{auditRole, typed, auditRole, typed}, inputs)
	for _, line := range kubectl.Calls() {
		assert.NotContains(t, line, password)
	}
	assert.NotContains(t, out.String()+auditRole, password)
}

// If the cluster does not respond, the Secret may exist, so none is created.
func TestPasswordsOfAClusterThatDoesNotAnswer(t *testing.T) {
	kubectl := processtest.Put(t, "kubectl", func(processtest.Call) processtest.Answer {
		return processtest.Answer{Stderr: "connection refused", Code: 1}
	})
	err := Passwords(t.Context(), &bytes.Buffer{}, "the-cluster", "things", []string{"invoicing"})
	assert.ErrorContains(t, err, "connection refused")
	assert.Len(t, kubectl.Calls(), 1)
}

func TestPublishKeys(t *testing.T) {
	const keys = `{"keys": [{"kty": "RSA", "kid": "it's one"}]}`
	var published []object
	kubectl := processtest.Put(t, "kubectl", func(call processtest.Call) processtest.Answer {
		if call.Stdin == "" {
			return processtest.Answer{Stdout: keys}
		}
		published = append(published, read(t, call))
		return processtest.Answer{Stdout: "configmap/caller-keys serverside-applied\n"}
	})
	list := services.List{Services: []services.Service{
		{Name: "a", Team: "one", Authenticated: true}, {Name: "b", Team: "one", Authenticated: true},
		{Name: "c", Team: "two", Authenticated: true}, {Name: "d", Team: "three"},
	}}
	var out bytes.Buffer
	require.NoError(t, PublishKeys(t.Context(), &out, "the-cluster", list))

	const apply = "--context=the-cluster apply --server-side --force-conflicts --field-manager=publish-keys --filename=-"
	assert.Equal(t, []string{"--context=the-cluster get --raw /openid/v1/jwks", apply, apply}, kubectl.Calls())
	for i, namespace := range []string{"one", "two"} {
		assert.Equal(t, "ConfigMap", published[i].Kind)
		assert.Equal(t, "caller-keys", published[i].Metadata.Name)
		assert.Equal(t, namespace, published[i].Metadata.Namespace)
		assert.Equal(t, map[string]string{"jwks.json": keys}, published[i].Data)
	}
	assert.Equal(t, strings.Repeat("configmap/caller-keys serverside-applied\n", 2), out.String())
}

// Without a key, every caller would be rejected.
func TestNoKeysAreNotPublished(t *testing.T) {
	for _, keys := range []string{"", `{}`, `{"keys": []}`, `{"keys": [{"kty": "RSA"}]}`, `<html>"kid"</html>`} {
		t.Run(keys, func(t *testing.T) {
			kubectl := processtest.Put(t, "kubectl", func(processtest.Call) processtest.Answer {
				return processtest.Answer{Stdout: keys}
			})
			err := PublishKeys(t.Context(), &bytes.Buffer{}, "the-cluster", services.List{})
			assert.ErrorContains(t, err,
				"the-cluster has no key at /openid/v1/jwks, so the published keys are unchanged: "+keys)
			assert.Len(t, kubectl.Calls(), 1)
		})
	}
}

// cluster answers kubectl like a cluster that signs certificates.
type cluster struct {
	t        *testing.T
	lock     sync.Mutex
	key      *ecdsa.PrivateKey
	server   string
	requests []object
	signed   []byte // the latest certificate
	forgot   bool   // the cluster no longer knows the certificate
	fail     string // the call that fails
	failed   func() // called when that call fails
}

func newCluster(t *testing.T) *cluster {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	return &cluster{t: t, key: key, server: "https://127.0.0.1:6443"}
}

func (c *cluster) answer(call processtest.Call) processtest.Answer {
	c.lock.Lock()
	defer c.lock.Unlock()
	line := strings.Join(call.Args, " ")
	if c.fail != "" && strings.Contains(line, c.fail) {
		if c.failed != nil {
			c.failed()
		}
		return processtest.Answer{Stderr: "no " + c.fail, Code: 1}
	}
	file, ofFile := strings.CutPrefix(call.Args[0], "--kubeconfig=")
	switch {
	case strings.Contains(line, "config view --minify") && ofFile:
		content, err := os.ReadFile(file)
		require.NoError(c.t, err)
		return processtest.Answer{Stdout: string(content)}
	case strings.Contains(line, "config view --minify"):
		return processtest.Answer{Stdout: `{"clusters": [{"name": "x", "cluster": {"server": "` + c.server + `",
			"certificate-authority-data": "Q0E="}}], "contexts": [{"name": "x"}], "users": [{"name": "admin"}]}`}
	case strings.Contains(line, " create "):
		c.sign(read(c.t, call))
		return processtest.Answer{Stdout: "certificatesigningrequest/x\n"}
	case strings.Contains(line, " get "):
		text, err := json.Marshal(map[string]any{"status": map[string]any{"certificate": c.signed}})
		require.NoError(c.t, err)
		return processtest.Answer{Stdout: string(text)}
	case strings.Contains(line, "auth whoami"):
		if c.forgot {
			return processtest.Answer{Stderr: "error: You must be logged in to the server (Unauthorized)", Code: 1}
		}
		block, _ := pem.Decode(c.signed)
		certificate, err := x509.ParseCertificate(block.Bytes)
		require.NoError(c.t, err)
		who := append([]string{certificate.Subject.CommonName}, certificate.Subject.Organization...)
		return processtest.Answer{Stdout: strings.Join(append(who, "system:authenticated"), " ")}
	}
	return processtest.Answer{}
}

func (c *cluster) sign(request object) {
	c.requests = append(c.requests, request)
	block, _ := pem.Decode(request.Spec.Request)
	require.NotNil(c.t, block)
	parsed, err := x509.ParseCertificateRequest(block.Bytes)
	require.NoError(c.t, err)
	require.NoError(c.t, parsed.CheckSignature())
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: parsed.Subject, NotBefore: time.Now(),
		NotAfter: time.Now().Add(time.Duration(request.Spec.ExpirationSeconds) * time.Second)}
	parent := &x509.Certificate{Subject: pkix.Name{CommonName: "CA"}}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, parsed.PublicKey, c.key)
	require.NoError(c.t, err)
	c.signed = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

var ann = Person{User: "ann", Group: "accountants", Namespace: "invoicing", Lifetime: 7 * 24 * time.Hour}

func TestKubeconfig(t *testing.T) {
	c := newCluster(t)
	kubectl := processtest.Put(t, "kubectl", c.answer)
	file := filepath.Join(t.TempDir(), "a folder & ü", "ann")
	var out bytes.Buffer
	require.NoError(t, Kubeconfig(t.Context(), &out, "the-cluster", file, ann))

	assert.Equal(t, file+" is new\n", out.String())
	info, err := os.Stat(file)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), info.Mode())
	entries, err := os.ReadDir(filepath.Dir(file))
	require.NoError(t, err)
	assert.Len(t, entries, 1, "no other file contains the key")

	require.Len(t, c.requests, 1)
	assert.Equal(t, "ann-", c.requests[0].Metadata.GenerateName)
	assert.Equal(t, "kubernetes.io/kube-apiserver-client", c.requests[0].Spec.SignerName)
	assert.Equal(t, []string{"client auth"}, c.requests[0].Spec.Usages)
	assert.Equal(t, 604800, c.requests[0].Spec.ExpirationSeconds)

	var written config
	content, err := os.ReadFile(file)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(content, &written))
	assert.Equal(t, "ann", written.CurrentContext)
	assert.Equal(t, contextOf{Cluster: "the-cluster", User: "ann", Namespace: "invoicing"}, written.Contexts[0].Context)
	assert.Equal(t, map[string]any{"server": c.server, "certificate-authority-data": "Q0E="}, written.Clusters[0].Cluster)
	pair, err := tls.X509KeyPair(written.Users[0].User.Certificate, written.Users[0].User.Key)
	require.NoError(t, err, "the key matches the certificate")
	assert.Equal(t, "ann", pair.Leaf.Subject.CommonName)
	assert.Equal(t, []string{"accountants"}, pair.Leaf.Subject.Organization)

	calls := kubectl.Calls()
	assert.Contains(t, calls, "--context=the-cluster certificate approve certificatesigningrequest/x")
	assert.Equal(t, "--context=the-cluster delete certificatesigningrequest/x", calls[len(calls)-1])
	block, _ := pem.Decode(written.Users[0].User.Key)
	assert.Equal(t, "PRIVATE KEY", block.Type)
	assert.NotContains(t, out.String()+strings.Join(calls, "\n"), "KEY")
}

func TestKubeconfigIsRenewedWhenItMust(t *testing.T) {
	for name, change := range map[string]func(*cluster, *Person){
		"another server":                     func(c *cluster, _ *Person) { c.server = "https://localhost:6443" },
		"another namespace":                  func(_ *cluster, p *Person) { p.Namespace = "payments" },
		"another user":                       func(_ *cluster, p *Person) { p.User = "bob" },
		"another group":                      func(_ *cluster, p *Person) { p.Group = "" },
		"a cluster that does not know it":    func(c *cluster, _ *Person) { c.forgot = true },
		"a cluster that cannot read it":      func(c *cluster, _ *Person) { c.fail = "--kubeconfig=" },
		"nothing":                            nil,
		"a certificate of less than one day": func(_ *cluster, p *Person) { p.Lifetime = 23 * time.Hour },
	} {
		t.Run(name, func(t *testing.T) {
			c, p := newCluster(t), ann
			processtest.Put(t, "kubectl", c.answer)
			file := filepath.Join(t.TempDir(), "ann")
			if name == "a certificate of less than one day" {
				change(c, &p)
			}
			require.NoError(t, Kubeconfig(t.Context(), &bytes.Buffer{}, "the-cluster", file, p))
			require.NoError(t, os.Chmod(file, 0o644))
			before, err := os.ReadFile(file)
			require.NoError(t, err)
			if change != nil {
				c.lock.Lock()
				change(c, &p)
				c.lock.Unlock()
			}
			var out bytes.Buffer
			require.NoError(t, Kubeconfig(t.Context(), &out, "the-cluster", file, p))

			after, err := os.ReadFile(file)
			require.NoError(t, err)
			assert.Equal(t, change == nil, bytes.Equal(before, after))
			assert.Equal(t, change == nil, strings.HasSuffix(out.String(), " is still valid\n"), out.String())
			info, err := os.Stat(file)
			require.NoError(t, err)
			assert.Equal(t, os.FileMode(0o600), info.Mode())
		})
	}
}

// After a failure or an interrupt in any step, there is neither a half-written file nor a request in the cluster.
func TestKubeconfigThatCannotBeMade(t *testing.T) {
	for _, step := range []string{"config view", " create ", " approve ", " wait ", " get ", " delete "} {
		for _, interrupted := range []bool{false, true} {
			t.Run(step, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				c := newCluster(t)
				c.fail = step
				if interrupted {
					c.failed = cancel
				}
				kubectl := processtest.Put(t, "kubectl", c.answer)
				file := filepath.Join(t.TempDir(), "ann")
				err := Kubeconfig(ctx, &bytes.Buffer{}, "the-cluster", file, ann)

				require.Error(t, err)
				if !interrupted {
					assert.ErrorContains(t, err, strings.TrimSpace("no "+step))
				}
				entries, err := os.ReadDir(filepath.Dir(file))
				require.NoError(t, err)
				assert.Empty(t, entries)
				asked := strings.Join(kubectl.Calls(), "\n")
				assert.Equal(t, step != "config view" && step != " create ", strings.Contains(asked, " delete "), asked)
			})
		}
	}
}

func TestAFileThatCannotBeReplaced(t *testing.T) {
	folder := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(folder, "ann", "is a folder"), 0o755))
	assert.Error(t, replace(filepath.Join(folder, "ann"), []byte("x")))
	entries, err := os.ReadDir(folder)
	require.NoError(t, err)
	assert.Len(t, entries, 1, "the temporary file is removed")
	assert.Error(t, replace(filepath.Join("/dev/null", "x", "ann"), nil))
}
