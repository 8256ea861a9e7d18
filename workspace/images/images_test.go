package images

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/workspace/paths"
	"example.com/invoices/workspace/process"
	"example.com/invoices/workspace/processtest"
	"example.com/invoices/workspace/services"
)

func TestMain(m *testing.M) { processtest.Main(m) }

const list = `# a comment, and an empty line

small:local     registry.example.com/small@sha256:1
things/node:local      registry.example.com/node@sha256:2  kind
things/minikube:local  registry.example.com/kicbase@sha256:3  minikube
`

// engine is a fake Docker with images and a registry that may fail.
type engine struct {
	lock    sync.Mutex
	labels  map[string]string // by existing image
	failing map[string]string // errors by image that cannot be pulled
	arch    string
	pulled  func()
}

func (d *engine) answer(call processtest.Call) processtest.Answer {
	d.lock.Lock()
	defer d.lock.Unlock()
	last := call.Args[len(call.Args)-1]
	switch strings.Join(call.Args[:min(2, len(call.Args))], " ") {
	case "image inspect":
		label, found := d.labels[last]
		if !found {
			return processtest.Answer{Stderr: "Error: No such image: " + last + "\n", Code: 1}
		}
		if strings.Contains(strings.Join(call.Args, " "), "{{.Id}}") {
			label = "sha256:" + last
		}
		return processtest.Answer{Stdout: label + "\n"}
	case "pull --quiet":
		if d.pulled != nil {
			d.pulled()
		}
		if says, fails := d.failing[last]; fails {
			return processtest.Answer{Stderr: says + "\n", Code: 1}
		}
		d.labels[last] = ""
	case "build --label":
		_, label, _ := strings.Cut(call.Args[2], "=")
		d.labels[call.Args[4]] = label
	case "version --format":
		return processtest.Answer{Stdout: d.arch + "\n"}
	}
	return processtest.Answer{}
}

func open(t *testing.T, product string, d *engine) (*Images, *processtest.Program, *bytes.Buffer) {
	file := filepath.Join(t.TempDir(), "a list & more.txt")
	require.NoError(t, os.WriteFile(file, []byte(list), 0o600))
	t.Setenv("IMAGE_LIST", file)
	out := &bytes.Buffer{}
	console := &process.Console{Out: out, Logs: t.TempDir(), Every: time.Hour}
	if d.labels == nil {
		d.labels = map[string]string{}
	}
	docker := processtest.Put(t, "docker", d.answer)
	images, err := Open(console,
		paths.Paths{Root: t.TempDir(), Cache: t.TempDir(), Services: services.List{Product: "things"}}, product)
	require.NoError(t, err)
	return images, docker, out
}

func pulls(docker *processtest.Program) (all []string) {
	for _, call := range docker.Calls() {
		if name, isPull := strings.CutPrefix(call, "pull --quiet "); isPull {
			all = append(all, name)
		}
	}
	return all
}

func TestPull(t *testing.T) {
	d := &engine{}
	images, docker, _ := open(t, "kind", d)
	require.NoError(t, images.Fill(t.Context(), "pull"))
	want := []string{"registry.example.com/small@sha256:1", "registry.example.com/node@sha256:2"}
	assert.Equal(t, want, pulls(docker))
	assert.Equal(t, want[0], d.labels["small:local"])
	assert.Equal(t, want[1], d.labels["things/node:local"])
	assert.Equal(t, "FROM "+want[1]+"\n", docker.Last().Stdin)

	for _, how := range []string{"pull", ""} {
		require.NoError(t, images.Fill(t.Context(), how))
		assert.Equal(t, want, pulls(docker), "nothing is pulled twice")
	}
}

// "pull" replaces images that were built.
func TestPullReplacesBuiltImages(t *testing.T) {
	d := &engine{labels: map[string]string{"small:local": "a hash", "registry.example.com/small@sha256:1": ""}}
	images, docker, _ := open(t, "kind", d)
	require.NoError(t, images.Fill(t.Context(), "pull"))
	assert.Equal(t, []string{"registry.example.com/node@sha256:2"}, pulls(docker), "the other one exists already")
	assert.Equal(t, "registry.example.com/small@sha256:1", d.labels["small:local"])
}

func TestChangedListIsPulledAgain(t *testing.T) {
	d := &engine{labels: map[string]string{"small:local": "registry.example.com/small@sha256:0"}}
	images, docker, _ := open(t, "minikube", d)
	require.NoError(t, images.Fill(t.Context(), "pull"))
	assert.Equal(t, []string{"registry.example.com/small@sha256:1", "registry.example.com/kicbase@sha256:3"},
		pulls(docker))
}

// If any image cannot be pulled, the error is shown and the remaining images are built.
func TestFailingPull(t *testing.T) {
	for _, failing := range []string{"registry.example.com/small@sha256:1", "registry.example.com/node@sha256:2"} {
		t.Run(failing, func(t *testing.T) {
			d := &engine{failing: map[string]string{failing: "toomanyrequests: You have reached your pull rate limit"}}
			images, docker, out := open(t, "kind", d)

			err := images.Fill(t.Context(), "pull")
			assert.ErrorContains(t, err, "pulling "+failing+": failed")
			assert.ErrorContains(t, err, "toomanyrequests")

			d.arch = "another" // so that building fails
			err = images.Fill(t.Context(), "")
			assert.ErrorContains(t, err, "pulling images failed (see above), and so did building them: building images needs")
			assert.Contains(t, out.String(), "toomanyrequests")
			assert.Contains(t, out.String(), "images: building the remaining ones from Go modules and Debian packages")
			assert.Contains(t, pulls(docker), failing)

			// The next run continues with the missing images.
			missing, err := images.missing(t.Context(), images.all(), pulled|built)
			require.NoError(t, err)
			assert.NotEmpty(t, missing)
			delete(d.failing, failing)
			require.NoError(t, images.Fill(t.Context(), ""))
			missing, err = images.missing(t.Context(), images.all(), pulled|built)
			require.NoError(t, err)
			assert.Empty(t, missing)
		})
	}
}

func TestPullInterrupted(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	d := &engine{failing: map[string]string{"registry.example.com/small@sha256:1": "context canceled"}, pulled: stop}
	images, docker, out := open(t, "kind", d)
	assert.ErrorIs(t, images.Fill(ctx, ""), context.Canceled)
	assert.Len(t, pulls(docker), 1)
	assert.NotContains(t, out.String(), "building")
}

func TestPullTimesOut(t *testing.T) {
	release := make(chan struct{})
	d := &engine{pulled: func() { <-release }}
	images, _, _ := open(t, "kind", d)
	defer close(release)
	err := images.pull(t.Context(), of(images.list, "kind"), time.Millisecond)
	assert.ErrorContains(t, err, "timed out after 1ms")
}

func TestMissingCredentialHelper(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "späte Rechnungen")
	require.NoError(t, os.Mkdir(folder, 0o700))
	t.Setenv("DOCKER_CONFIG", folder)
	file := filepath.Join(folder, "config.json")
	d := &engine{}
	images, _, _ := open(t, "kind", d)
	for _, config := range []string{
		`{"credsStore": "of-nobody"}`, `{"credHelpers": {"registry.example.com": "of-nobody"}}`,
	} {
		require.NoError(t, os.WriteFile(file, []byte(config), 0o600))
		d.failing = map[string]string{"registry.example.com/small@sha256:1": "error getting credentials - err: exec: " +
			`"docker-credential-of-nobody": executable file not found in $PATH, out: `}
		assert.ErrorContains(t, images.Fill(t.Context(), "pull"),
			file+" refers to docker-credential-of-nobody, which is not installed: install it, or remove that line from the file")
	}
	processtest.Put(t, "docker-credential-of-nobody", func(processtest.Call) processtest.Answer {
		return processtest.Answer{}
	})
	assert.Empty(t, missingHelper("docker-credential-of-nobody: it is locked"))
	assert.Empty(t, missingHelper("toomanyrequests"))
}

func TestDockerIsNotInstalled(t *testing.T) {
	images, _, _ := open(t, "kind", &engine{})
	t.Setenv("PATH", t.TempDir())
	for _, how := range []string{"", "pull", "source"} {
		assert.EqualError(t, images.Fill(t.Context(), how), "docker is not on PATH")
	}
}

func TestBuildNotSupported(t *testing.T) {
	t.Run("another architecture", func(t *testing.T) {
		images, _, _ := open(t, "kind", &engine{arch: "s390x"})
		processtest.Put(t, "apt-get", func(processtest.Call) processtest.Answer { return processtest.Answer{} })
		assert.ErrorContains(t, images.Fill(t.Context(), "source"),
			"needs Docker's architecture, s390x, but this machine is "+runtime.GOARCH+": pull them (workspace/run images pull)")
	})
	t.Run("not Debian", func(t *testing.T) {
		t.Setenv("PATH", t.TempDir())
		images, _, _ := open(t, "kind", &engine{arch: runtime.GOARCH})
		assert.ErrorContains(t, images.Fill(t.Context(), "source"), "building images needs Debian: pull them")
	})
}

func TestExport(t *testing.T) {
	d := &engine{}
	images, docker, _ := open(t, "kind", d)
	assert.EqualError(t, images.Export(t.Context(), "file"),
		"image small:local is missing or outdated: run workspace/run images first")
	require.NoError(t, images.Fill(t.Context(), "pull"))
	require.NoError(t, images.Export(t.Context(), "/a folder/file"))
	assert.Equal(t, []string{"save", "--output", "/a folder/file", "small:local", "things/node:local"},
		docker.Last().Args)
	require.NoError(t, images.Load(t.Context(), "/a folder/file"))
	assert.Equal(t, []string{"load", "--input", "/a folder/file"}, docker.Last().Args)
}

func TestReadList(t *testing.T) {
	t.Setenv("IMAGE_LIST", "")
	services, err := services.Read("../..")
	require.NoError(t, err)
	where := paths.Paths{Root: "../..", Services: services}
	images, err := Open(&process.Console{Out: io.Discard}, where, "kind")
	require.NoError(t, err)
	var tags []string
	for _, image := range images.list {
		tags = append(tags, image.tag)
		if !slices.Equal(image.products, []string{"production"}) {
			assert.Contains(t, image.upstream, "@sha256:", "a tag may change")
		}
		if !images.isProgram(image) {
			assert.FileExists(t, "../../offline/"+image.folder()+"/Dockerfile")
		}
		inputs, err := images.inputs(t.Context(), image)
		require.NoError(t, err)
		assert.NotContains(t, inputs, "/", "a label with a slash means that the image was pulled")
	}
	assert.Equal(t, []string{where.Image("registry"), where.Image("postgres"), where.Image("node"),
		where.Image("minikube")}, tags[:4])
	assert.Len(t, of(images.list, "kind"), 3)
	assert.Len(t, of(images.list, "minikube"), 3)
	assert.Len(t, of(images.list, "production"), len(tags)-2, "no other cluster needs these")

	file := filepath.Join(t.TempDir(), "list")
	t.Setenv("IMAGE_LIST", file)
	_, err = Open(nil, paths.Paths{}, "kind")
	assert.ErrorIs(t, err, os.ErrNotExist)
	require.NoError(t, os.WriteFile(file, []byte("a:local\n"), 0o600))
	_, err = Open(nil, paths.Paths{}, "kind")
	assert.ErrorContains(t, err, `"a:local" is invalid: must be TAG UPSTREAM [PRODUCT,...]`)
}

// minikube's node image is built on top of kind's, which is built too if it was pulled.
func TestToBuild(t *testing.T) {
	d := &engine{labels: map[string]string{
		"small:local":       "registry.example.com/small@sha256:1",
		"things/node:local": "registry.example.com/node@sha256:2",
	}}
	for product, want := range map[string]string{"kind": "", "minikube": "things/node:local things/minikube:local"} {
		t.Run(product, func(t *testing.T) {
			images, _, _ := open(t, product, d)
			images.paths.Root = "../.."
			missing, err := images.toBuild(t.Context(), pulled|built)
			require.NoError(t, err)
			var tags []string
			for _, image := range missing {
				tags = append(tags, image.tag)
			}
			assert.Equal(t, want, strings.Join(tags, " "))
		})
	}
}

func TestImageWithoutRecipe(t *testing.T) {
	images, _, _ := open(t, "kind", &engine{labels: map[string]string{"small:local": "a hash"}})
	assert.ErrorContains(t, images.Fill(t.Context(), "source"), "small:local cannot be built")
}
