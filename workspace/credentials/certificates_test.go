package credentials

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/workspace/processtest"
	"example.com/invoices/workspace/services"
)

// vault answers kubectl like a cluster that keeps Secrets, and runs the entry once it has pods.
type vault struct {
	t       *testing.T
	now     time.Time
	secrets map[string]*stored // by namespace/name
	entry   string             // the annotation of the entry's pods; "none" if there is no entry
	fail    string             // the call that fails
	shell   *processtest.Program
}

type stored struct {
	object
	version  int
	modified time.Time
	manager  string
}

func newVault(t *testing.T) *vault {
	v := &vault{t: t, now: time.Now(), secrets: map[string]*stored{}, entry: "none"}
	v.shell = processtest.Put(t, "kubectl", v.answer)
	return v
}

func (v *vault) answer(call processtest.Call) processtest.Answer {
	line := strings.Join(call.Args, " ")
	assert.True(v.t, strings.HasPrefix(line, "--context=the-cluster "), line)
	if v.fail != "" && strings.Contains(line+call.Stdin, v.fail) {
		return processtest.Answer{Stderr: "no " + v.fail, Code: 1}
	}
	namespace, _ := strings.CutPrefix(call.Args[1], "--namespace=")
	switch {
	case strings.Contains(line, " get secret "):
		s := v.secrets[namespace+"/"+call.Args[4]]
		if s == nil {
			return processtest.Answer{}
		}
		data := map[string]any{}
		for name, text := range s.Data {
			data[name] = []byte(text)
		}
		text, err := json.Marshal(map[string]any{"data": data, "metadata": map[string]any{
			"resourceVersion": strconv.Itoa(s.version),
			"managedFields":   []any{map[string]any{"manager": s.manager, "time": s.modified.UTC().Format(time.RFC3339)}},
		}})
		require.NoError(v.t, err)
		return processtest.Answer{Stdout: string(text)}
	case strings.HasSuffix(line, "--filename=-"):
		return v.write(call)
	case strings.Contains(line, "get deployment") && v.entry == "none":
		return processtest.Answer{}
	case strings.Contains(line, "get deployment"):
		return processtest.Answer{Stdout: "entry " + v.entry}
	case strings.Contains(line, "patch deployment"):
		var patch struct {
			Spec struct {
				Template struct {
					Metadata struct{ Annotations map[string]string }
				}
			}
		}
		text, _ := strings.CutPrefix(call.Args[len(call.Args)-1], "--patch=")
		require.NoError(v.t, json.Unmarshal([]byte(text), &patch))
		v.entry = patch.Spec.Template.Metadata.Annotations["certificates"]
	}
	return processtest.Answer{}
}

func (v *vault) write(call processtest.Call) processtest.Answer {
	o := read(v.t, call)
	var version struct {
		Metadata struct{ ResourceVersion string }
		Data     map[string][]byte
	}
	require.NoError(v.t, json.Unmarshal([]byte(call.Stdin), &version))
	for file, content := range version.Data {
		o.Data[file] = string(content)
	}
	name := o.Metadata.Namespace + "/" + o.Metadata.Name
	current, manager := v.secrets[name], ""
	switch call.Args[1] {
	case "create":
		if current != nil {
			return processtest.Answer{Stderr: "AlreadyExists", Code: 1}
		}
	case "replace":
		if current == nil || strconv.Itoa(current.version) != version.Metadata.ResourceVersion {
			return processtest.Answer{Stderr: "Conflict", Code: 1}
		}
	default:
		assert.Equal(v.t, []string{"apply", "--server-side", "--force-conflicts", "--field-manager=make-certificates",
			"--filename=-"}, call.Args[1:])
		manager = "make-certificates"
	}
	next := &stored{object: o, modified: v.now, manager: manager, version: 1}
	if current != nil {
		next.version = current.version + 1
	}
	v.secrets[name] = next
	return processtest.Answer{}
}

// file returns a file in a Secret.
func (v *vault) file(secret, name string) []byte {
	v.t.Helper()
	require.Contains(v.t, v.secrets, secret)
	return []byte(v.secrets[secret].Data[name])
}

// copy returns the Secrets' content.
func (v *vault) copy() map[string]map[string]string {
	all := map[string]map[string]string{}
	for name, s := range v.secrets {
		all[name] = maps.Clone(s.Data)
	}
	return all
}

var twoTeams = services.List{Product: "things", Services: []services.Service{
	{Name: "shop", Team: "sales", Calls: []string{"bank"}, Database: true, Public: true},
	{Name: "bank", Team: "money", Database: true},
}}

// make runs make-certificates, and returns what it prints.
func (v *vault) make(change func(*Certificates)) (string, error) {
	c := Certificates{Cluster: "the-cluster", Services: twoTeams, now: v.now}
	if change != nil {
		change(&c)
	}
	var out bytes.Buffer
	err := c.Make(v.t.Context(), &out)
	for _, secret := range []string{"PRIVATE", "BEGIN"} {
		assert.NotContains(v.t, out.String()+strings.Join(v.shell.Calls(), "\n"), secret)
	}
	return out.String(), err
}

func (v *vault) mustMake(change func(*Certificates)) string {
	v.t.Helper()
	out, err := v.make(change)
	require.NoError(v.t, err)
	return out
}

// pool returns the authorities in the ca.crt of a Secret.
func (v *vault) pool(secret string) *x509.CertPool {
	pool := x509.NewCertPool()
	require.True(v.t, pool.AppendCertsFromPEM(v.file(secret, "ca.crt")))
	return pool
}

func (v *vault) pair(secret string) tls.Certificate {
	pair, err := tls.X509KeyPair(v.file(secret, "tls.crt"), v.file(secret, "tls.key"))
	require.NoError(v.t, err, "the key of %s matches its certificate", secret)
	return pair
}

// connect makes a TLS connection from a client with one Secret to a server with another, and returns the client's
// error: each verifies the other.
func (v *vault) connect(client tls.Certificate, clientTrusts, server, serverTrusts, name string) error {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	now := func() time.Time { return v.now }
	ctx, cancel := context.WithTimeout(v.t.Context(), 10*time.Second)
	defer cancel()
	said := make(chan error, 1)
	go func() {
		said <- tls.Server(b, &tls.Config{Certificates: []tls.Certificate{v.pair(server)}, Time: now,
			ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: v.pool(serverTrusts),
			SessionTicketsDisabled: true}).HandshakeContext(ctx)
		b.Close()
	}()
	err := tls.Client(a, &tls.Config{Certificates: []tls.Certificate{client}, Time: now, ServerName: name,
		RootCAs: v.pool(clientTrusts)}).HandshakeContext(ctx)
	a.Close()
	if refused := <-said; err == nil {
		return refused
	}
	return err
}

// everybodyConnects checks every connection of production.
func (v *vault) everybodyConnects() {
	v.t.Helper()
	for _, edge := range [][3]string{
		{"entry/entry-tls", "sales/shop-tls", "shop.sales.svc"},
		{"entry/entry-tls", "sales/shop-tls", "shop.sales.svc.cluster.local"},
		{"sales/shop-tls", "money/bank-tls", "bank.money.svc"},
		{"sales/shop-tls", "databases/sales-server-tls", "sales-rw.databases.svc"},
		{"sales/shop-tls", "databases/money-server-tls", "money-ro"},
	} {
		assert.NoError(v.t, v.connect(v.pair(edge[0]), edge[0], edge[1], edge[1], edge[2]), "%v", edge)
	}
}

func TestCertificates(t *testing.T) {
	v := newVault(t)
	out := v.mustMake(func(c *Certificates) { c.Hosts = []string{"invoices.example.com", "192.0.2.1"} })

	until := v.now.Add(certificateLifetime).UTC().Format(time.DateOnly)
	assert.Equal(t, fmt.Sprintf(`sales/shop-tls is new, valid until %[1]s
money/bank-tls is new, valid until %[1]s
databases/sales-server-tls is new, valid until %[1]s
databases/money-server-tls is new, valid until %[1]s
entry/entry-tls is new, valid until %[1]s
entry/callers-ca is new
`, until), out)
	assert.ElementsMatch(t, []string{"platform/authority", "platform/callers", "sales/shop-tls", "money/bank-tls",
		"databases/sales-server-tls", "databases/money-server-tls", "entry/entry-tls", "entry/callers-ca"},
		slices.Collect(maps.Keys(v.secrets)))
	assert.Equal(t, map[string]string{"app.kubernetes.io/name": "shop", "app.kubernetes.io/part-of": "things"},
		v.secrets["sales/shop-tls"].Metadata.Labels)
	assert.Contains(t, v.secrets["databases/sales-server-tls"].Metadata.Labels, "cnpg.io/reload")
	for name, secret := range v.secrets {
		if !strings.HasPrefix(name, "platform/") {
			authority := v.secrets["platform/authority"].Data
			assert.NotContains(t, slices.Collect(maps.Values(secret.Data)), authority["tls.key"], name)
			assert.Empty(t, secret.Data["next.key"], name)
		}
	}
	v.everybodyConnects()

	for _, host := range []string{"invoices.example.com", "192.0.2.1", "entry.entry.svc"} {
		assert.NoError(t, v.pair("entry/entry-tls").Leaf.VerifyHostname(host), host)
	}
	for _, refused := range []struct{ client, server, name, why string }{
		{"sales/shop-tls", "money/bank-tls", "shop.sales.svc", "certificate is valid for bank.money.svc"},
		{"money/bank-tls", "sales/shop-tls", "shop.sales.svc", "incompatible key usage"},
	} {
		err := v.connect(v.pair(refused.client), refused.client, refused.server, refused.server, refused.name)
		assert.ErrorContains(t, err, refused.why)
	}
	assert.Equal(t, "shop.sales.svc", v.pair("sales/shop-tls").Leaf.Subject.CommonName)

	t.Run("a second run changes nothing", func(t *testing.T) {
		before := v.copy()
		out := v.mustMake(nil)
		assert.Equal(t, before, v.copy(), "not even the entry's names")
		assert.Equal(t, len(v.secrets)-2, strings.Count(out, " is up to date"), out)
	})
	t.Run("another name", func(t *testing.T) {
		before := v.copy()
		v.mustMake(func(c *Certificates) { c.Hosts = []string{"other.example.com"} })
		assert.Error(t, v.pair("entry/entry-tls").Leaf.VerifyHostname("invoices.example.com"))
		assert.NoError(t, v.pair("entry/entry-tls").Leaf.VerifyHostname("other.example.com"))
		after := v.copy()
		delete(before, "entry/entry-tls")
		delete(after, "entry/entry-tls")
		assert.Equal(t, before, after)
	})
}

func TestCertificatesAreRenewed(t *testing.T) {
	v := newVault(t)
	v.mustMake(nil)
	assert.NoError(t, v.pair("entry/entry-tls").Leaf.VerifyHostname("localhost"))
	v.entry = ""
	v.mustMake(nil)
	restarted := v.entry
	assert.NotEmpty(t, restarted, "an entry from before has restarted")

	before := v.copy()
	v.now = v.now.Add(certificateLifetime*2/3 - time.Hour)
	v.mustMake(nil)
	assert.Equal(t, before, v.copy())
	assert.Equal(t, restarted, v.entry)

	v.now = v.now.Add(2 * time.Hour)
	v.mustMake(nil)
	renewed := v.copy()
	for name := range before {
		same := name == "platform/authority" || name == "platform/callers" || name == "entry/callers-ca"
		assert.Equal(t, same, before[name]["tls.crt"] == renewed[name]["tls.crt"], name)
		assert.Equal(t, before[name]["ca.crt"], renewed[name]["ca.crt"], name)
	}
	assert.NotEqual(t, restarted, v.entry)
	assert.Contains(t, v.shell.Calls(),
		"--context=the-cluster --namespace=entry rollout status deployment entry --timeout=10m")
	v.everybodyConnects()

	v.mustMake(func(c *Certificates) { c.Renew = true })
	assert.NotEqual(t, renewed["sales/shop-tls"], v.copy()["sales/shop-tls"])
	v.everybodyConnects()

	t.Run("one that has expired, and one that is lost", func(t *testing.T) {
		v.now = v.now.Add(2 * certificateLifetime)
		delete(v.secrets, "money/bank-tls")
		v.mustMake(nil)
		v.everybodyConnects()
	})
	t.Run("a key of another certificate", func(t *testing.T) {
		v.secrets["money/bank-tls"].Data["tls.key"] = v.secrets["sales/shop-tls"].Data["tls.key"]
		v.mustMake(nil)
		v.everybodyConnects()
	})
	t.Run("the end of the authority", func(t *testing.T) {
		v.now = v.now.Add(authorityLifetime - 3*certificateLifetime)
		out := v.mustMake(nil)
		assert.Contains(t, out, "make-certificates the-cluster --rotate-authority=add")
		assert.Contains(t, out, "make-certificates the-cluster --rotate-callers=add")
		assert.False(t, v.pair("money/bank-tls").Leaf.NotAfter.After(
			x509Of(t, v.file("platform/authority", "tls.crt")).NotAfter))
	})
}

func x509Of(t *testing.T, text []byte) *x509.Certificate {
	certificates, err := parse(text)
	require.NoError(t, err)
	require.Len(t, certificates, 1)
	return certificates[0]
}

// During a rotation, pods have the files of this step or of the one before it, in any combination, and all connect.
func TestAuthorityIsReplaced(t *testing.T) {
	for _, which := range []string{"authority", "callers"} {
		t.Run(which, func(t *testing.T) {
			v := newVault(t)
			rotate := func(step Rotation) (string, error) {
				return v.make(func(c *Certificates) {
					if which == "callers" {
						c.Callers = step
					} else {
						c.Authority = step
					}
				})
			}
			v.mustMake(nil)
			first := v.copy()
			secrets, edge := []string{"sales/shop-tls", "money/bank-tls"}, "bank.money.svc"
			client := func() tls.Certificate { return v.pair("sales/shop-tls") }
			if which == "callers" {
				secrets, edge = []string{"entry/entry-tls", "entry/callers-ca"}, "localhost"
				folder := t.TempDir()
				client = func() tls.Certificate {
					require.NoError(t, ClientCertificate(t.Context(), &bytes.Buffer{}, "the-cluster", folder, "ann", time.Hour))
					pair, err := tls.LoadX509KeyPair(filepath.Join(folder, "tls.crt"), filepath.Join(folder, "tls.key"))
					require.NoError(t, err)
					return pair
				}
			}
			server := slices.Clone(secrets)[0]
			if which == "authority" {
				server = "money/bank-tls"
			}

			for _, early := range []struct {
				step Rotation
				says string
			}{{Use, "add first"}, {Remove, ""}} {
				_, err := rotate(early.step)
				if early.says == "" {
					assert.NoError(t, err, "nothing to remove")
				} else {
					assert.ErrorContains(t, err, early.says)
				}
			}
			assert.Equal(t, first, v.copy())

			// overlap checks all combinations of the files before and after a step.
			old := client()
			step := func(step Rotation) {
				before := v.copy()
				_, err := rotate(step)
				require.NoError(t, err)
				after, fresh := v.copy(), client()
				if step == Remove && which == "callers" {
					old = fresh // their owners have replaced them
				}
				for _, clients := range []tls.Certificate{old, fresh} {
					for combination := range 1 << len(secrets) {
						for i, name := range secrets {
							files := before[name]
							if combination>>i&1 == 1 {
								files = after[name]
							}
							v.secrets[name].Data = maps.Clone(files)
						}
						assert.NoError(t, v.connect(clients, secrets[0], server, secrets[1], edge), "%s %d", step, combination)
					}
				}
				for _, name := range secrets {
					v.secrets[name].Data = after[name]
				}
				old = fresh
			}
			repeat := func(same Rotation) {
				before := v.copy()
				_, err := rotate(same)
				require.NoError(t, err)
				assert.Equal(t, before, v.copy(), "a repetition changes nothing")
			}

			step(Add)
			repeat(Add)
			_, err := rotate(Remove)
			assert.ErrorContains(t, err, "use first")
			v.now = v.now.Add(delivery - time.Second)
			_, err = rotate(Use)
			assert.ErrorContains(t, err, "try again after")
			v.now = v.now.Add(2 * time.Second)
			step(Use)
			repeat(Use)
			_, err = rotate(Add)
			assert.ErrorContains(t, err, "remove first")
			if which == "authority" {
				_, err = rotate(Remove)
				assert.ErrorContains(t, err, "try again after")
			}
			v.now = v.now.Add(delivery + time.Second)
			step(Remove)
			repeat(Remove)

			x509Of(t, v.file(secrets[1], "ca.crt")) // only one
			assert.NotEqual(t, first["platform/"+which]["tls.crt"], v.copy()["platform/"+which]["tls.crt"])
			v.everybodyConnects()
		})
	}
}

// A step that was interrupted between two Secrets is finished before the next one.
func TestInterruptedRotation(t *testing.T) {
	v := newVault(t)
	v.mustMake(nil)
	for _, step := range []Rotation{Add, Use, Remove} {
		v.fail = `"name":"bank-tls"`
		_, err := v.make(func(c *Certificates) { c.Authority = step })
		require.ErrorContains(t, err, "bank-tls")
		v.everybodyConnects()
		v.fail = ""
		v.now = v.now.Add(time.Hour)
		if next := map[Rotation]Rotation{Add: Use, Use: Remove}[step]; next != "" {
			_, err = v.make(func(c *Certificates) { c.Authority = next })
			assert.ErrorContains(t, err, "the last step was interrupted: finish it with workspace/run make-certificates")
		}
		v.mustMake(func(c *Certificates) { c.Authority = step })
		v.everybodyConnects()
		v.now = v.now.Add(delivery)
	}
	x509Of(t, v.file("money/bank-tls", "ca.crt"))
}

// Two people who make certificates at the same time do not overwrite each other's authority.
func TestAuthorityIsMadeOnce(t *testing.T) {
	v := newVault(t)
	v.mustMake(nil)
	v.fail = "get secret authority"
	_, err := v.make(nil)
	require.ErrorContains(t, err, "no get secret", "a cluster that does not answer may have one")
	v.fail = ""

	authority := v.secrets["platform/authority"]
	changed := false
	v.shell = processtest.Put(t, "kubectl", func(call processtest.Call) processtest.Answer {
		answer := v.answer(call)
		if !changed && strings.Contains(strings.Join(call.Args, " "), "get secret authority") {
			changed, authority.version = true, authority.version+1
		}
		return answer
	})
	before := v.copy()
	_, err = v.make(func(c *Certificates) { c.Authority = Add })
	assert.ErrorContains(t, err, "Conflict")
	assert.Equal(t, before, v.copy())
}

func TestClientCertificate(t *testing.T) {
	v := newVault(t)
	folder := filepath.Join(t.TempDir(), "a folder & ü")
	write := func(name string, lifetime time.Duration) (string, error) {
		var out bytes.Buffer
		err := ClientCertificate(t.Context(), &out, "the-cluster", folder, name, lifetime)
		return strings.TrimPrefix(out.String(), filepath.Join(folder, "tls.crt")), err
	}
	_, err := write("ann", time.Hour)
	require.ErrorContains(t, err, "run workspace/run make-certificates the-cluster first")
	assert.NoDirExists(t, folder)

	v.mustMake(nil)
	load := func() tls.Certificate {
		pair, err := tls.LoadX509KeyPair(filepath.Join(folder, "tls.crt"), filepath.Join(folder, "tls.key"))
		require.NoError(t, err)
		return pair
	}
	week := 7 * 24 * time.Hour
	for _, test := range []struct {
		name     string
		lifetime time.Duration
		says     string
	}{
		{"ann", week, " is new\n"}, {"ann", week, " is still valid\n"}, {"bob", 23 * time.Hour, " is new\n"},
		{"bob", week, " is new\n"}, {"bob", week, " is still valid\n"},
	} {
		out, err := write(test.name, test.lifetime)
		require.NoError(t, err)
		assert.Equal(t, test.says, out)
		assert.Equal(t, test.name, load().Leaf.Subject.CommonName)
	}
	ca, err := os.ReadFile(filepath.Join(folder, "ca.crt"))
	require.NoError(t, err)
	assert.Equal(t, v.file("entry/entry-tls", "ca.crt"), ca)
	entries, err := os.ReadDir(folder)
	require.NoError(t, err)
	require.Len(t, entries, 3)
	for _, entry := range entries {
		info, err := entry.Info()
		require.NoError(t, err)
		assert.Equal(t, os.FileMode(0o600), info.Mode(), entry.Name())
	}

	assert.NoError(t, v.connect(load(), "entry/entry-tls", "entry/entry-tls", "entry/callers-ca", "localhost"))
	err = v.connect(load(), "sales/shop-tls", "sales/shop-tls", "sales/shop-tls", "shop.sales.svc")
	assert.ErrorContains(t, err, "client didn't provide a certificate", "no service trusts callers from outside")
	err = v.connect(v.pair("sales/shop-tls"), "entry/entry-tls", "entry/entry-tls", "entry/callers-ca", "localhost")
	assert.ErrorContains(t, err, "client didn't provide a certificate", "the entry trusts nothing inside the cluster")
}
