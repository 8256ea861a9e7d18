package e2e

import (
	"archive/tar"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/crane"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/yaml"

	"example.com/invoices/internal/checkouttest"
	"example.com/invoices/workspace/services"
)

// foreignServer is the API server of a foreign cluster. It records its requests.
type foreignServer struct {
	*httptest.Server
	mu       sync.Mutex
	requests []string
}

const foreignContext = "kind-somebody-elses"

// newForeignServer starts a foreignServer, and returns it with the path of a kubeconfig: the user's own, with the
// server added as the current context.
func newForeignServer(t *testing.T) (server *foreignServer, kubeconfig string) {
	t.Helper()
	server = &foreignServer{}
	server.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		server.mu.Lock()
		defer server.mu.Unlock()
		server.requests = append(server.requests, r.Method+" "+r.URL.Path)
		w.WriteHeader(http.StatusForbidden)
	}))
	t.Cleanup(server.Close)

	config, err := clientcmd.NewDefaultClientConfigLoadingRules().Load()
	require.NoError(t, err)
	require.NoError(t, clientcmdapi.FlattenConfig(config))
	config.Clusters[foreignContext] = &clientcmdapi.Cluster{Server: server.URL}
	config.Contexts[foreignContext] = &clientcmdapi.Context{Cluster: foreignContext}
	config.CurrentContext = foreignContext
	kubeconfig = filepath.Join(t.TempDir(), "kubeconfig")
	require.NoError(t, clientcmd.WriteToFile(*config, kubeconfig))
	return server, kubeconfig
}

// assertUntouched fails if there was any request but the one that ctlptl and Tilt send to the cluster of the current
// context.
func (s *foreignServer) assertUntouched(t *testing.T) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, request := range s.requests {
		assert.Equal(t, "GET /version", request, "a request to another cluster")
	}
}

func TestDeployingAgainChangesNothing(t *testing.T) {
	awaitEverything(t)
	before, keys := uids(t), kubeconfigs(t)
	server, kubeconfig := newForeignServer(t)

	deploy := command(t, "./deploy.sh")
	deploy.Env = append(os.Environ(), "KUBECONFIG="+kubeconfig)
	mustRun(t, deploy)

	awaitEverything(t)
	assert.Equal(t, before, uids(t))
	assert.Equal(t, keys, kubeconfigs(t))
	server.assertUntouched(t)
}

// Deploying a second cluster fails at once if its ports are in use, and suggests free ones.
func TestSecondClusterNeedsOtherPorts(t *testing.T) {
	long(t)
	_, answers, _ := strings.Cut(strings.TrimPrefix(invoiceApp, "http://"), ":")
	_, pulls, _ := strings.Cut(registry(t), ":")
	second := os.Getenv("CLUSTER_NAME") + "-second"
	deploy := command(t, "./deploy.sh")
	deploy.Env = append(os.Environ(), "CLUSTER_NAME="+second, "INVOICE_APP_PORT="+answers, "REGISTRY_PORT="+pulls)
	output, err := deploy.CombinedOutput()

	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit, "%s", output)
	assert.Contains(t, string(output), "port "+answers+" is in use by the container "+cluster.Node)
	assert.Contains(t, string(output), "port "+pulls+" is in use by the container "+cluster.Cluster+"-registry")
	assert.Regexp(t, `\n  INVOICE_APP_PORT=\d+ REGISTRY_PORT=\d+ CLUSTER_NAME=`+second+` \./deploy\.sh`, string(output))
}

// kubeconfigs returns the contents of the teams' kubeconfigs.
func kubeconfigs(t *testing.T) (contents []string) {
	t.Helper()
	for _, team := range teams() {
		content, err := os.ReadFile(kubeconfig(t, team.user))
		require.NoError(t, err)
		contents = append(contents, string(content))
	}
	return contents
}

func TestTiltfileRefusesAnotherCluster(t *testing.T) {
	long(t)
	server, kubeconfig := newForeignServer(t)

	tilt := command(t, "tilt", "ci", "--port=0")
	tilt.Env = append(os.Environ(), "KUBECONFIG="+kubeconfig)
	output, err := tilt.CombinedOutput()

	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit, "%s", output)
	assert.Contains(t, string(output), `but the current Kubernetes context is "`+foreignContext+`"`)
	server.assertUntouched(t)
}

func TestOverlaysPassTheAPIServer(t *testing.T) {
	long(t)
	for _, overlay := range []string{"development", "production"} {
		t.Run(overlay, func(t *testing.T) {
			apply := command(t, "kubectl", "--context="+kubeContext, "apply", "--filename=-",
				"--server-side", "--force-conflicts", "--dry-run=server")
			objects := mustRun(t, command(t, "kubectl", "kustomize", "k8s/overlays/"+overlay))
			apply.Stdin = strings.NewReader(ofTeams(t, objects))
			mustRun(t, apply)
		})
	}
}

// teamNames returns the names of the teams' namespaces.
func teamNames() (names []string) {
	for _, team := range list.Teams() {
		names = append(names, team.Name)
	}
	return names
}

// ofTeams returns the objects of an overlay without those in namespaces that this cluster does not have. They are
// applied by workspace/run production.
func ofTeams(t *testing.T, overlay string) string {
	t.Helper()
	var documents []string
	for document := range strings.SplitSeq(overlay, "\n---\n") {
		var object struct{ Metadata metav1.ObjectMeta }
		require.NoError(t, yaml.Unmarshal([]byte(document), &object))
		if slices.Contains(append(teamNames(), "platform", ""), object.Metadata.Namespace) {
			documents = append(documents, document)
		}
	}
	require.NotEmpty(t, documents)
	return strings.Join(documents, "\n---\n")
}

// The same source results in the same image, in another folder and at another time.
func TestImagesAreReproducible(t *testing.T) {
	long(t)
	copied := copyOf(t)

	for _, service := range list.Names() {
		t.Run(service, func(t *testing.T) {
			deployed := podsOf(t, service)[0].Spec.Containers[0].Image
			build := command(t, "workspace/run", "build-image", service, "images")
			build.Dir = copied
			build.Env = append(os.Environ(), "EXPECTED_REGISTRY="+registry(t)+"/reproduced")
			mustRun(t, build)
			ref, err := os.ReadFile(filepath.Join(copied, "images", service+".ref"))
			require.NoError(t, err)

			want, err := crane.Digest(deployed)
			require.NoError(t, err)
			got, err := crane.Digest(strings.TrimSpace(string(ref)))
			require.NoError(t, err)
			assert.Equal(t, want, got)
		})
	}
}

// copyOf copies everything that images are built from to another folder, and further paths if given.
func copyOf(t *testing.T, more ...string) string {
	t.Helper()
	folder := t.TempDir()
	paths := append([]string{"Tiltfile", services.File, "go.mod", "go.sum", "internal", "workspace"}, list.Names()...)
	require.NoError(t, checkouttest.Copy(repository, folder, append(paths, more...)...))
	return folder
}

func TestImagesHoldOneProgram(t *testing.T) {
	long(t)
	for _, service := range list.Names() {
		t.Run(service, func(t *testing.T) {
			image, err := crane.Pull(podsOf(t, service)[0].Spec.Containers[0].Image)
			require.NoError(t, err)
			config, err := image.ConfigFile()
			require.NoError(t, err)
			assert.Equal(t, service, config.Config.Labels["org.opencontainers.image.title"])
			assert.Regexp(t, `^[1-9]\d{4,}:[1-9]\d{4,}$`, config.Config.User)

			reader, writer := io.Pipe()
			go func() { writer.CloseWithError(crane.Export(image, writer)) }()
			var names []string
			for files := tar.NewReader(reader); ; {
				header, err := files.Next()
				if err == io.EOF {
					break
				}
				require.NoError(t, err)
				names = append(names, header.Name)
			}
			assert.Equal(t, []string{service}, names)
		})
	}
}
