package images

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/workspace/paths"
	"example.com/invoices/workspace/process"
	"example.com/invoices/workspace/processtest"
)

func TestMain(m *testing.M) { processtest.Main(m) }

const list = `# a comment, and an empty line

small:local     registry.example.com/small@sha256:1
invoices/node:local      registry.example.com/node@sha256:2  kind
invoices/minikube:local  registry.example.com/kicbase@sha256:3  minikube
`

// engine is a Docker that has images, from a registry that may fail. What was made from what it keeps as Docker does, in a
// label.
type engine struct {
	lock    sync.Mutex
	labels  map[string]string // of the images that are there
	failing map[string]string // what pulling an image says, if it fails
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
	images, err := Open(console, paths.Paths{Root: t.TempDir(), Cache: t.TempDir()}, product)
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
	assert.Equal(t, want[1], d.labels["invoices/node:local"])
	assert.Equal(t, "FROM "+want[1]+"\n", docker.Last().Stdin)

	for _, how := range []string{"pull", ""} {
		require.NoError(t, images.Fill(t.Context(), how))
		assert.Equal(t, want, pulls(docker), "filled is filled")
	}
}

// What was built is good enough, unless pulling is asked for.
func TestPullWhatWasBuilt(t *testing.T) {
	d := &engine{labels: map[string]string{"small:local": "a hash", "registry.example.com/small@sha256:1": ""}}
	images, docker, _ := open(t, "kind", d)
	require.NoError(t, images.Fill(t.Context(), "pull"))
	assert.Equal(t, []string{"registry.example.com/node@sha256:2"}, pulls(docker), "the other is there already")
	assert.Equal(t, "registry.example.com/small@sha256:1", d.labels["small:local"])
}

func TestAnotherListIsPulledAnew(t *testing.T) {
	d := &engine{labels: map[string]string{"small:local": "registry.example.com/small@sha256:0"}}
	images, docker, _ := open(t, "minikube", d)
	require.NoError(t, images.Fill(t.Context(), "pull"))
	assert.Equal(t, []string{"registry.example.com/small@sha256:1", "registry.example.com/kicbase@sha256:3"},
		pulls(docker))
}

// Whichever image cannot be pulled: it is said why, and the rest is to be built.
func TestAPullThatFails(t *testing.T) {
	for _, failing := range []string{"registry.example.com/small@sha256:1", "registry.example.com/node@sha256:2"} {
		t.Run(failing, func(t *testing.T) {
			d := &engine{failing: map[string]string{failing: "toomanyrequests: You have reached your pull rate limit"}}
			images, docker, out := open(t, "kind", d)

			err := images.Fill(t.Context(), "pull")
			assert.ErrorContains(t, err, "pulling "+failing+": failed")
			assert.ErrorContains(t, err, "toomanyrequests")

			d.arch = "another" // for which nothing can be built here
			err = images.Fill(t.Context(), "")
			assert.ErrorContains(t, err, "images cannot be pulled, as said above, and: building images needs")
			assert.Contains(t, out.String(), "toomanyrequests")
			assert.Contains(t, out.String(), "images: what cannot be pulled is built from Go modules and Debian packages")
			assert.Contains(t, pulls(docker), failing)

			// Half of them are not taken for all.
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

func TestAPullThatIsInterrupted(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	d := &engine{failing: map[string]string{"registry.example.com/small@sha256:1": "context canceled"}, pulled: stop}
	images, docker, out := open(t, "kind", d)
	assert.ErrorIs(t, images.Fill(ctx, ""), context.Canceled)
	assert.Len(t, pulls(docker), 1)
	assert.NotContains(t, out.String(), "is built")
}

func TestAPullThatHangs(t *testing.T) {
	release := make(chan struct{})
	d := &engine{pulled: func() { <-release }}
	images, _, _ := open(t, "kind", d)
	defer close(release)
	err := images.pull(t.Context(), of(images.list, "kind"), time.Millisecond)
	assert.ErrorContains(t, err, "it has not ended within 1ms")
}

func TestAHelperForPasswordsIsMissing(t *testing.T) {
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
			file+" names a program that is not there, docker-credential-of-nobody: install it, or take its line out of the file")
	}
	processtest.Put(t, "docker-credential-of-nobody", func(processtest.Call) processtest.Answer {
		return processtest.Answer{}
	})
	assert.Empty(t, missingHelper("docker-credential-of-nobody: it is locked"))
	assert.Empty(t, missingHelper("toomanyrequests"))
}

func TestDockerDoesNotAnswer(t *testing.T) {
	images, _, _ := open(t, "kind", &engine{})
	t.Setenv("PATH", t.TempDir())
	for _, how := range []string{"", "pull", "source"} {
		assert.EqualError(t, images.Fill(t.Context(), how), "docker is not on PATH")
	}
}

func TestWhereNothingCanBeBuilt(t *testing.T) {
	t.Run("Docker's machine is another one", func(t *testing.T) {
		images, _, _ := open(t, "kind", &engine{arch: "s390x"})
		processtest.Put(t, "apt-get", func(processtest.Call) processtest.Answer { return processtest.Answer{} })
		assert.ErrorContains(t, images.Fill(t.Context(), "source"),
			"needs a machine as Docker's, which is s390x and this one "+runtime.GOARCH+": pull them (workspace/run images pull)")
	})
	t.Run("no Debian", func(t *testing.T) {
		t.Setenv("PATH", t.TempDir())
		images, _, _ := open(t, "kind", &engine{arch: runtime.GOARCH})
		assert.ErrorContains(t, images.Fill(t.Context(), "source"), "building images needs Debian: pull them")
	})
}

func TestExport(t *testing.T) {
	d := &engine{}
	images, docker, _ := open(t, "kind", d)
	assert.EqualError(t, images.Export(t.Context(), "file"), "small:local is not filled: run workspace/run images first")
	require.NoError(t, images.Fill(t.Context(), "pull"))
	require.NoError(t, images.Export(t.Context(), "/a folder/file"))
	assert.Equal(t, []string{"save", "--output", "/a folder/file", "small:local", "invoices/node:local"},
		docker.Last().Args)
	require.NoError(t, images.Load(t.Context(), "/a folder/file"))
	assert.Equal(t, []string{"load", "--input", "/a folder/file"}, docker.Last().Args)
}

func TestTheListIsRead(t *testing.T) {
	t.Setenv("IMAGE_LIST", "")
	images, err := Open(&process.Console{Out: io.Discard}, paths.Paths{Root: "../.."}, "kind")
	require.NoError(t, err)
	var tags []string
	for _, image := range images.list {
		tags = append(tags, image.tag)
		assert.Contains(t, image.upstream, "@sha256:", "it may become another one")
		assert.FileExists(t, "../../offline/"+image.folder()+"/Dockerfile")
		inputs, err := images.inputs(t.Context(), image)
		require.NoError(t, err)
		assert.NotContains(t, inputs, "/", "a label with a slash is where an image was pulled from")
	}
	assert.Equal(t, []string{"invoices/registry:local", "invoices/postgres:local", "invoices/node:local",
		"invoices/minikube:local"}, tags)
	assert.Len(t, of(images.list, "kind"), 3)
	assert.Len(t, of(images.list, "minikube"), 3)

	file := filepath.Join(t.TempDir(), "list")
	t.Setenv("IMAGE_LIST", file)
	_, err = Open(nil, paths.Paths{}, "kind")
	assert.ErrorIs(t, err, os.ErrNotExist)
	require.NoError(t, os.WriteFile(file, []byte("a:local\n"), 0o600))
	_, err = Open(nil, paths.Paths{}, "kind")
	assert.ErrorContains(t, err, `"a:local" is not a tag, where it is pulled from, and perhaps a product`)
}

// minikube's node is built on top of kind's, whichever way that was made.
func TestWhatIsToBeBuilt(t *testing.T) {
	d := &engine{labels: map[string]string{
		"small:local":         "registry.example.com/small@sha256:1",
		"invoices/node:local": "registry.example.com/node@sha256:2",
	}}
	for product, want := range map[string]string{"kind": "", "minikube": "invoices/node:local invoices/minikube:local"} {
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

func TestAnImageWithoutARecipe(t *testing.T) {
	images, _, _ := open(t, "kind", &engine{labels: map[string]string{"small:local": "a hash"}})
	assert.ErrorContains(t, images.Fill(t.Context(), "source"), "small:local is not one that can be built")
}
