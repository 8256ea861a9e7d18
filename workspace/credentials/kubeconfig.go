package credentials

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"time"

	"example.com/invoices/workspace/kubectl"
	"example.com/invoices/workspace/process"
)

// Person is the user of a kubeconfig.
type Person struct {
	User, Group string // Group may be empty
	Namespace   string // kubectl's default namespace
	Lifetime    time.Duration
}

// renewal is the remaining lifetime below which a certificate is replaced.
const renewal = 24 * time.Hour

// Kubeconfig writes a kubeconfig with a client certificate for the person in the cluster. An existing file is kept if
// its certificate is valid for at least another day, and is for the same cluster and person; otherwise it is replaced.
// The key is generated here, is stored in no other file, and is never printed.
func Kubeconfig(ctx context.Context, out io.Writer, cluster kubectl.Context, file string, p Person) error {
	server, err := view(ctx, "--context="+string(cluster))
	if err != nil {
		return err
	}
	if stillGood(ctx, server, file, p) {
		if err := os.Chmod(file, 0o600); err != nil {
			return err
		}
		fmt.Fprintln(out, file, "is still valid")
		return nil
	}

	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	certificate, err := certificateFor(ctx, cluster, key, p)
	if err != nil {
		return err
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	text, err := json.MarshalIndent(config{ // JSON is also YAML
		APIVersion:     "v1",
		Kind:           "Config",
		CurrentContext: p.User,
		Contexts:       []namedContext{{p.User, contextOf{string(cluster), p.User, p.Namespace}}},
		Clusters:       []namedCluster{{string(cluster), server.Clusters[0].Cluster}},
		Users: []namedUser{{p.User, userData{
			Certificate: certificate,
			Key:         pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded}),
		}}},
	}, "", "  ")
	if err != nil {
		return err
	}
	if err := replace(file, append(text, '\n')); err != nil {
		return err
	}
	fmt.Fprintln(out, file, "is new")
	return nil
}

// stillGood reports whether the file is valid for the person and the cluster, and not about to expire. It also checks
// that the cluster still accepts the certificate.
func stillGood(ctx context.Context, server config, file string, p Person) bool {
	if _, err := os.Stat(file); err != nil {
		return false
	}
	has, err := view(ctx, "--kubeconfig="+file)
	if err != nil || has.Contexts[0].Context.Namespace != p.Namespace ||
		!reflect.DeepEqual(has.Clusters[0].Cluster, server.Clusters[0].Cluster) {
		return false
	}
	block, _ := pem.Decode(has.Users[0].User.Certificate)
	if block == nil {
		return false
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil || time.Until(certificate.NotAfter) < renewal {
		return false
	}
	whoami, err := process.Output(process.Command(ctx, "kubectl", "--kubeconfig="+file, "--request-timeout=10s",
		"auth", "whoami", "--output=jsonpath={.status.userInfo.username} {.status.userInfo.groups[*]}"))
	return err == nil && whoami == strings.Join(append(p.names(), "system:authenticated"), " ")
}

// view returns the part of a kubeconfig that kubectl uses with the option which: one context, one cluster and one user.
func view(ctx context.Context, which string) (config, error) {
	var c config
	text, err := process.Output(process.Command(ctx, "kubectl", which,
		"config", "view", "--minify", "--flatten", "--raw", "--output=json"))
	if err != nil {
		return c, err
	}
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return c, fmt.Errorf("the kubeconfig of %s: %w", which, err)
	}
	if len(c.Contexts) != 1 || len(c.Clusters) != 1 || len(c.Users) != 1 {
		return c, fmt.Errorf("the kubeconfig of %s has no cluster or no user", which)
	}
	return c, nil
}

// names returns the names of the user and of the group, if any.
func (p Person) names() []string {
	if p.Group == "" {
		return []string{p.User}
	}
	return []string{p.User, p.Group}
}

// certificateFor returns a certificate signed by the cluster, in PEM, and deletes its CertificateSigningRequest.
func certificateFor(ctx context.Context, cluster kubectl.Context, key *ecdsa.PrivateKey, p Person) (
	certificate []byte, err error,
) {
	subject := pkix.Name{CommonName: p.User}
	if p.Group != "" {
		subject.Organization = []string{p.Group}
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: subject}, key)
	if err != nil {
		return nil, err
	}
	create, err := cluster.Send(ctx, map[string]any{
		"apiVersion": "certificates.k8s.io/v1",
		"kind":       "CertificateSigningRequest",
		"metadata":   map[string]any{"generateName": p.User + "-"},
		"spec": map[string]any{
			"signerName":        "kubernetes.io/kube-apiserver-client",
			"usages":            []string{"client auth"},
			"expirationSeconds": int(p.Lifetime.Seconds()),
			"request":           pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
		},
	}, "create", "--output=name")
	if err != nil {
		return nil, err
	}
	request, err := process.Output(create)
	if err != nil {
		return nil, err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second) // even after an interrupt
		defer cancel()
		err = errors.Join(err, process.Run(cluster.Command(ctx, "delete", request)))
	}()
	if err := process.Run(cluster.Command(ctx, "certificate", "approve", request)); err != nil {
		return nil, err
	}
	if err := process.Run(cluster.Command(ctx, "wait", request, "--for=jsonpath={.status.certificate}",
		"--timeout=60s")); err != nil {
		return nil, err
	}
	text, err := process.Output(cluster.Command(ctx, "get", request, "--output=json"))
	if err != nil {
		return nil, err
	}
	var signed struct {
		Status struct{ Certificate []byte }
	}
	if err := json.Unmarshal([]byte(text), &signed); err != nil {
		return nil, fmt.Errorf("%s: %w", request, err)
	}
	return signed.Status.Certificate, nil
}

// replace replaces a file with one that is never readable by other users.
func replace(path string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	file, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*") // with mode 0600
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	if err = errors.Join(err, file.Close()); err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		_ = os.Remove(file.Name())
	}
	return err
}

// config holds the fields of a kubeconfig that this package reads and writes.
type config struct {
	APIVersion     string         `json:"apiVersion"`
	Kind           string         `json:"kind"`
	CurrentContext string         `json:"current-context"`
	Contexts       []namedContext `json:"contexts"`
	Clusters       []namedCluster `json:"clusters"`
	Users          []namedUser    `json:"users"`
}

type namedContext struct {
	Name    string    `json:"name"`
	Context contextOf `json:"context"`
}

type contextOf struct {
	Cluster   string `json:"cluster"`
	User      string `json:"user"`
	Namespace string `json:"namespace"`
}

type namedCluster struct {
	Name    string         `json:"name"`
	Cluster map[string]any `json:"cluster"`
}

type namedUser struct {
	Name string   `json:"name"`
	User userData `json:"user"`
}

type userData struct {
	Certificate []byte `json:"client-certificate-data"`
	Key         []byte `json:"client-key-data"`
}
