package service

import (
	"archive/tar"
	"context"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/workspace/processtest"
	"example.com/invoices/workspace/services"
)

func TestMain(m *testing.M) { processtest.Main(m) }

var (
	invoiceApp      = services.Service{Name: "invoice-app", Description: "Invoices: keeps them", User: 10001}
	paymentProvider = services.Service{Name: "payment-provider", Description: "Payments: pays them", User: 10002}
	list            = services.List{Services: []services.Service{invoiceApp, paymentProvider}}
)

// clone creates a folder with the minimal sources and makes it the working directory.
func clone(t *testing.T) string {
	t.Helper()
	folder := filepath.Join(t.TempDir(), "a clone & ü")
	for file, content := range map[string]string{
		"go.mod":                "module example.com/invoices\n\ngo 1.26\n",
		"go.sum":                "",
		"internal/name/name.go": "package name\n\nconst Of = \"first\"\n",
		"internal/name/not.go":  "//go:build !nosqlite\n\npackage name\n\nthis is not Go\n",
	} {
		write(t, filepath.Join(folder, file), content)
	}
	for _, service := range list.Names() {
		write(t, filepath.Join(folder, service, "main.go"), "package main\n\n"+
			"import \"example.com/invoices/internal/name\"\n\nfunc main() { println(name.Of, \""+service+"\") }\n")
		write(t, filepath.Join(folder, service, "store/migrations/postgres/1.sql"), "CREATE TABLE t ()")
	}
	t.Chdir(folder)
	t.Setenv("GOWORK", "off")
	return folder
}

// Only the programs of tilt up serve Go's profiles.
func TestProfilesAreForDevelopment(t *testing.T) {
	list, err := services.Read("../..")
	require.NoError(t, err)
	packages := func(service, flag string) string {
		all, err := exec.Command("go", "-C", "../..", "list", "-deps", flag, "./"+service).CombinedOutput()
		require.NoError(t, err, "%s", all)
		return string(all)
	}
	for _, service := range list.Names() {
		assert.NotContains(t, packages(service, clusterTags), "net/http/pprof\n", service)
		assert.Contains(t, packages(service, clusterTags+",pprof"), "net/http/pprof\n", service)
	}
}

func write(t *testing.T, file, content string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
	require.NoError(t, os.WriteFile(file, []byte(content), 0o644))
}

func read(t *testing.T, file string) string {
	t.Helper()
	content, err := os.ReadFile(file)
	require.NoError(t, err)
	return string(content)
}

// newRegistry starts a registry. writes returns the write requests since its last call.
func newRegistry(t *testing.T, options ...registry.Option) (address string, writes func() []string) {
	t.Helper()
	handler := registry.New(append(options, registry.Logger(quiet))...)
	var lock sync.Mutex
	var asked []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			lock.Lock()
			asked = append(asked, r.Method+" "+r.URL.Path)
			lock.Unlock()
		}
		handler.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://"), func() []string {
		lock.Lock()
		defer lock.Unlock()
		taken := asked
		asked = nil
		return taken
	}
}

func pull(t *testing.T, ref string) v1.Image {
	t.Helper()
	parsed, err := name.ParseReference(ref)
	require.NoError(t, err)
	image, err := remote.Image(parsed)
	require.NoError(t, err)
	return image
}

// The image has the same program as go build makes in the clone.
func TestWorkspaceOfModules(t *testing.T) {
	registry, _ := newRegistry(t)
	folder := clone(t)
	write(t, filepath.Join(folder, "..", "go.work"), "this is another project's")
	build := func() string {
		built, err := BuildImage(t.Context(), invoiceApp, "images", registry, runtime.GOARCH)
		require.NoError(t, err)
		return read(t, built.Program)
	}
	write(t, "go.work", "go 1.26\n\nuse (\n\t.\n\t./lib\n)\n")
	write(t, "lib/go.mod", "module example.com/lib\n\ngo 1.26\n")
	write(t, "lib/lib.go", "package lib\n\nconst Name = \"in the workspace\"\n")
	write(t, "invoice-app/main.go", "package main\n\nimport \"example.com/lib\"\n\nfunc main() { println(lib.Name) }\n")
	assert.True(t, strings.Contains(build(), "in the workspace"))
}

func TestImage(t *testing.T) {
	registry, _ := newRegistry(t)
	clone(t)
	for program, about := range map[*services.Service]struct{ title, user string }{
		&invoiceApp:      {"Invoices: keeps them", "10001:10001"},
		&paymentProvider: {"Payments: pays them", "10002:10002"},
	} {
		service := program.Name
		t.Run(service, func(t *testing.T) {
			built, err := BuildImage(t.Context(), *program, "a folder", registry, "arm64")
			require.NoError(t, err)
			assert.Equal(t, built.Ref+"\n", read(t, "a folder/"+service+".ref"))
			assert.Regexp(t, "^"+registry+"/"+service+":[0-9a-f]{16}$", built.Ref)
			assert.FileExists(t, built.Program)

			image := pull(t, built.Ref)
			digest, err := image.Digest()
			require.NoError(t, err)
			assert.Equal(t, built.Digest, digest)
			manifest, err := image.Manifest()
			require.NoError(t, err)
			assert.Equal(t, types.OCIManifestSchema1, manifest.MediaType)
			assert.Equal(t, types.OCIConfigJSON, manifest.Config.MediaType)
			require.Len(t, manifest.Layers, 1)
			assert.Equal(t, types.OCILayer, manifest.Layers[0].MediaType)
			config, err := image.ConfigFile()
			require.NoError(t, err)
			assert.Equal(t, "linux/arm64", config.Platform().String())
			assert.Equal(t, about.user, config.Config.User)
			assert.Equal(t, []string{"/" + service}, config.Config.Entrypoint)
			assert.Equal(t, map[string]string{
				"org.opencontainers.image.title": service, "org.opencontainers.image.description": about.title,
			}, config.Config.Labels)
			assert.True(t, config.Created.IsZero())

			files := tar.NewReader(mutate.Extract(image))
			file, err := files.Next()
			require.NoError(t, err)
			assert.Equal(t, service, file.Name)
			assert.Equal(t, fs.FileMode(0o555), file.FileInfo().Mode())
			assert.Zero(t, file.Uid+file.Gid)
			assert.Zero(t, file.ModTime.Unix())
			program, err := io.ReadAll(files)
			require.NoError(t, err)
			assert.Equal(t, read(t, built.Program), string(program))
			_, err = files.Next()
			assert.Equal(t, io.EOF, err, "it contains nothing else")
		})
	}
}

func TestTheSameSourceIsTheSameImage(t *testing.T) {
	registry, writes := newRegistry(t)
	build := func(architecture string) Image {
		t.Helper()
		built, err := BuildImage(t.Context(), invoiceApp, t.TempDir(), registry, architecture)
		require.NoError(t, err)
		return built
	}
	clone(t)
	first := build("amd64")
	assert.NotEmpty(t, writes())
	clone(t)
	again := build("amd64")
	assert.Equal(t, first.Ref, again.Ref)
	assert.Equal(t, first.Descriptor, again.Descriptor)
	assert.Empty(t, writes(), "the image exists")

	assert.NotEqual(t, first.Ref, build("arm64").Ref)
	write(t, "internal/name/name.go", "package name\n\nconst Of = \"second\"\n")
	assert.NotEqual(t, first.Ref, build("amd64").Ref)
}

// Anyone can move a tag, but not a digest.
func TestATagOfAnotherImageIsReplaced(t *testing.T) {
	registry, _ := newRegistry(t)
	clone(t)
	built, err := BuildImage(t.Context(), invoiceApp, "images", registry, "amd64")
	require.NoError(t, err)
	other, err := BuildImage(t.Context(), paymentProvider, "images", registry, "amd64")
	require.NoError(t, err)
	tag, err := name.NewTag(built.Ref)
	require.NoError(t, err)
	require.NoError(t, remote.Write(tag, pull(t, other.Ref)))

	_, err = BuildImage(t.Context(), invoiceApp, "images", registry, "amd64")
	require.NoError(t, err)
	digest, err := pull(t, built.Ref).Digest()
	require.NoError(t, err)
	assert.Equal(t, built.Digest, digest)
}

func TestImageThatCannotBeBuilt(t *testing.T) {
	registry, writes := newRegistry(t)
	clone(t)
	t.Run("interrupted", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := BuildImage(ctx, invoiceApp, "images", registry, "amd64")
		assert.ErrorIs(t, err, context.Canceled)
	})
	t.Run("no registry", func(t *testing.T) {
		_, err := BuildImage(t.Context(), invoiceApp, "images", "127.0.0.1:1", "amd64")
		assert.ErrorContains(t, err, "push 127.0.0.1:1/invoice-app:")
	})
	t.Run("no name of a registry", func(t *testing.T) {
		_, err := BuildImage(t.Context(), invoiceApp, "images", "What a registry!", "amd64")
		assert.ErrorContains(t, err, "the registry to push to: ")
	})
	t.Run("not Go", func(t *testing.T) {
		write(t, "invoice-app/main.go", "this is not Go")
		_, err := BuildImage(t.Context(), invoiceApp, "images", registry, "amd64")
		assert.ErrorContains(t, err, "go build")
	})
	assert.NoFileExists(t, "images/invoice-app.ref")
	assert.Empty(t, writes())
}

// Docker's configuration may name a credential helper that is not installed.
func TestALoginHelperThatIsMissing(t *testing.T) {
	registry, _ := newRegistry(t)
	clone(t)
	configuration := t.TempDir()
	write(t, filepath.Join(configuration, "config.json"), `{"credsStore": "missing"}`)
	t.Setenv("DOCKER_CONFIG", configuration)
	for _, local := range []string{registry, strings.Replace(registry, "127.0.0.1", "localhost", 1)} {
		_, err := BuildImage(t.Context(), invoiceApp, "images", local, "amd64")
		assert.NoError(t, err)
	}

	elsewhere, err := name.NewRegistry("registry.example.com:5000")
	require.NoError(t, err)
	_, err = keychain{}.Resolve(elsewhere)
	assert.ErrorContains(t, err, "docker-credential-missing")
}

func TestArchitecture(t *testing.T) {
	docker := processtest.Put(t, "docker", func(processtest.Call) processtest.Answer {
		return processtest.Answer{Stdout: "riscv64\n"}
	})
	t.Setenv("GOARCH", "arm64")
	architecture, err := Architecture(t.Context())
	require.NoError(t, err)
	assert.Equal(t, "arm64", architecture)
	assert.Empty(t, docker.Calls(), "Docker is not called")

	t.Setenv("GOARCH", "")
	architecture, err = Architecture(t.Context())
	require.NoError(t, err)
	assert.Equal(t, "riscv64", architecture)
	assert.Equal(t, []string{"version --format {{.Server.Arch}}"}, docker.Calls())
}

func TestPushImage(t *testing.T) {
	const id = "sha256:0123456789abcdef0123456789abcdef"
	const ref = "localhost:5005/postgres:0123456789abcdef"
	calls := []string{
		"image inspect --format={{.Id}} things/postgres:local",
		"tag things/postgres:local " + ref, "push --quiet " + ref, "rmi " + ref,
	}
	for failing := range len(calls) + 1 {
		t.Run("", func(t *testing.T) {
			clone(t)
			docker := processtest.Put(t, "docker", func(call processtest.Call) processtest.Answer {
				if failing < len(calls) && strings.Join(call.Args, " ") == calls[failing] {
					return processtest.Answer{Stderr: "no such thing", Code: 1}
				}
				return processtest.Answer{Stdout: id + "\n"}
			})
			got, err := PushImage(t.Context(), "things/postgres:local", "postgres", "a folder", "localhost:5005")
			if failing < len(calls) {
				assert.ErrorContains(t, err, "no such thing")
				assert.Equal(t, calls[:failing+1], docker.Calls())
				assert.NoFileExists(t, "a folder/postgres.ref")
				return
			}
			require.NoError(t, err)
			assert.Equal(t, calls, docker.Calls())
			assert.Equal(t, ref, got)
			assert.Equal(t, ref+"\n", read(t, "a folder/postgres.ref"))
		})
	}
}

// reallyRun returns a handler that passes a fake program's calls to the real program.
func reallyRun(t *testing.T, name string) func(processtest.Call) processtest.Answer {
	t.Helper()
	program, err := exec.LookPath(name)
	require.NoError(t, err)
	return func(call processtest.Call) processtest.Answer {
		command := exec.Command(program, call.Args...)
		command.Env, command.Dir = call.Env, call.Dir
		var stdout, stderr strings.Builder
		command.Stdout, command.Stderr = &stdout, &stderr
		_ = command.Run()
		return processtest.Answer{Stdout: stdout.String(), Stderr: stderr.String(), Code: command.ProcessState.ExitCode()}
	}
}
