package service

import (
	"bytes"
	"context"
	"io"
	"log"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/workspace/processtest"
)

var quiet = log.New(io.Discard, "", 0)

// production returns the repository's production overlay.
func production(t *testing.T) string {
	t.Helper()
	return read(t, "../../"+overlay)
}

// sbomMaker replaces `go run` with a fake that writes a small SBOM, or fails.
func sbomMaker(t *testing.T, fails bool) (runs func() []processtest.Call) {
	t.Helper()
	var made []processtest.Call
	reallyRun := reallyRun(t, "go")
	program := processtest.Put(t, "go", func(call processtest.Call) processtest.Answer {
		if call.Args[0] != "run" {
			return reallyRun(call)
		}
		made = append(made, call)
		if fails {
			return processtest.Answer{Stderr: "no such module", Code: 1}
		}
		file := strings.TrimPrefix(call.Args[len(call.Args)-2], "-output=")
		if err := os.WriteFile(file, []byte(`{"bomFormat": "CycloneDX"}`), 0o644); err != nil {
			return processtest.Answer{Stderr: err.Error(), Code: 1}
		}
		return processtest.Answer{}
	})
	return func() []processtest.Call {
		program.Calls() // takes the lock
		return made
	}
}

func TestRelease(t *testing.T) {
	for how, options := range map[string][]registry.Option{
		"with the referrers API":    {registry.WithReferrersSupport(true)},
		"without the referrers API": nil,
	} {
		t.Run(how, func(t *testing.T) {
			address, writes := newRegistry(t, options...)
			before := production(t)
			clone(t)
			write(t, overlay, before)
			runs := sbomMaker(t, false)
			t.Setenv("GOARCH", "arm64")
			var out bytes.Buffer
			require.NoError(t, Release(t.Context(), &out, list, address+"/things", "arm64"))
			assert.Equal(t, read(t, overlay), asReleased(t, out.String(), before, address+"/things"))

			for line := range strings.Lines(out.String()) {
				subject, err := name.NewDigest(strings.TrimSpace(line))
				require.NoError(t, err)
				index, err := remote.Referrers(subject)
				require.NoError(t, err)
				manifest, err := index.IndexManifest()
				require.NoError(t, err)
				require.Len(t, manifest.Manifests, 1)
				if options == nil { // the other registry does not set it
					assert.Equal(t, sbomType, manifest.Manifests[0].ArtifactType)
				}
				sbom, err := remote.Image(subject.Digest(manifest.Manifests[0].Digest.String()))
				require.NoError(t, err)
				about, err := sbom.Manifest()
				require.NoError(t, err)
				assert.Equal(t, sbomType, about.ArtifactType)
				assert.Equal(t, subject.DigestStr(), about.Subject.Digest.String())
				assert.EqualValues(t, emptyType, about.Config.MediaType)
				layers, err := sbom.Layers()
				require.NoError(t, err)
				require.Len(t, layers, 1)
				content, err := layers[0].Compressed() // which is not compressed
				require.NoError(t, err)
				text, err := io.ReadAll(content)
				require.NoError(t, err)
				assert.Equal(t, `{"bomFormat": "CycloneDX"}`, string(text))
				image := pull(t, subject.String())
				config, err := image.ConfigFile()
				require.NoError(t, err)
				assert.Equal(t, "arm64", config.Architecture)
			}
			calls := runs()
			require.Len(t, calls, 2)
			for _, call := range calls {
				assert.Contains(t, call.Args, cycloneDX)
				assert.Contains(t, call.Env, "GOARCH=", "the tool runs on this machine")
				assert.Subset(t, call.Args, []string{"bin", "-json", "-std", "-noserial", "-notimestamp"})
			}

			writes()
			var again bytes.Buffer
			require.NoError(t, Release(t.Context(), &again, list, address+"/things", "arm64"))
			assert.Equal(t, out.String(), again.String())
			assert.False(t, slices.ContainsFunc(writes(), func(asked string) bool {
				return strings.Contains(asked, "/blobs/")
			}), "everything exists")
		})
	}
}

// asReleased returns the overlay expected after a release with the output said.
func asReleased(t *testing.T, said, before, registry string) string {
	t.Helper()
	old := regexp.MustCompile(`newName: (\S+)/` + list.Names()[0]).FindStringSubmatch(before)[1]
	after := strings.ReplaceAll(before, "newName: "+old+"/"+list.Names()[0], "newName: "+registry+"/"+list.Names()[0])
	after = strings.ReplaceAll(after, "newName: "+old+"/"+list.Names()[1], "newName: "+registry+"/"+list.Names()[1])
	after = strings.Replace(after, "("+literally(old)+"/(", "("+literally(registry)+"/(", 1)
	lines := strings.Split(strings.TrimSpace(said), "\n")
	require.Len(t, lines, 2)
	for i, service := range list.Names() {
		repository, digest, found := strings.Cut(lines[i], "@")
		require.True(t, found)
		assert.Equal(t, registry+"/"+service, repository)
		was := strings.SplitN(strings.SplitN(before, "/"+service+"\n    digest: ", 2)[1], "\n", 2)[0]
		after = strings.Replace(after, was, digest, 1)
	}
	return after
}

// After any failure, the overlay is unchanged.
func TestReleaseThatFails(t *testing.T) {
	address, _ := newRegistry(t)
	before := production(t)
	clone(t)
	write(t, overlay, before)
	t.Run("no SBOM", func(t *testing.T) {
		sbomMaker(t, true)
		assert.ErrorContains(t, Release(t.Context(), io.Discard, list, address, "amd64"), "no such module")
	})
	t.Run("no registry", func(t *testing.T) {
		assert.ErrorContains(t, Release(t.Context(), io.Discard, list, "127.0.0.1:1", "amd64"),
			"push 127.0.0.1:1/invoice-app")
	})
	t.Run("interrupted", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		assert.ErrorIs(t, Release(ctx, io.Discard, list, address, "amd64"), context.Canceled)
	})
	t.Run("the second service does not compile", func(t *testing.T) {
		sbomMaker(t, false)
		write(t, "payment-provider/main.go", "this is not Go")
		assert.ErrorContains(t, Release(t.Context(), io.Discard, list, address, "amd64"), "go build")
	})
	assert.Equal(t, before, read(t, overlay))
}

func TestOnlyItsLinesOfTheOverlayChange(t *testing.T) {
	before := production(t)
	const registry = "registry.corp.example:5000/a/b"
	after, err := withRelease([]byte(before), registry, imagesOf(registry, list.Names()...))
	require.NoError(t, err)

	var changed []string
	lines := strings.Split(string(after), "\n")
	for i, line := range strings.Split(before, "\n") {
		if line != lines[i] {
			changed = append(changed, strings.TrimSpace(lines[i]))
		}
	}
	assert.Equal(t, []string{
		"- images=^(registry[.]corp[.]example:5000/a/b/(invoice-app|payment-provider))@sha256:[0-9a-f]{64}$",
		"newName: registry.corp.example:5000/a/b/invoice-app",
		"digest: sha256:" + strings.Repeat("i", 64),
		"newName: registry.corp.example:5000/a/b/payment-provider",
		"digest: sha256:" + strings.Repeat("p", 64),
	}, changed)

	again, err := withRelease(after, registry, imagesOf(registry, list.Names()...))
	require.NoError(t, err)
	assert.Equal(t, string(after), string(again))
}

// imagesOf returns images of services in a registry, each with a digest that repeats the first letter of its name.
func imagesOf(registry string, names ...string) (images []releasedImage) {
	for _, name := range names {
		images = append(images, releasedImage{name, registry + "/" + name, "sha256:" + strings.Repeat(name[:1], 64)})
	}
	return images
}

// The overlay has no entry for a new service until its first release.
func TestAFirstReleaseAddsTheService(t *testing.T) {
	before := production(t)
	const registry = "registry.example.com/things"
	after, err := withRelease([]byte(before), registry, imagesOf(registry, append(list.Names(), "reporting")...))
	require.NoError(t, err)
	assert.Contains(t, string(after), "images:\n  # Written by make release.\n  - name: reporting\n    newName: "+registry+
		"/reporting\n    digest: sha256:"+strings.Repeat("r", 64)+"\n  - name: invoice-app\n")
	assert.Contains(t, string(after),
		"images=^(registry[.]example[.]com/things/(invoice-app|payment-provider|reporting))@")

	again, err := withRelease(after, registry, imagesOf(registry, append(list.Names(), "reporting")...))
	require.NoError(t, err)
	assert.Equal(t, string(after), string(again))
}

func TestAnOverlayThatIsNotOurs(t *testing.T) {
	whole := production(t)
	const registry = "registry.example.com"
	for name, text := range map[string]string{
		"no digest": strings.Replace(whole, "    digest: sha256:27", "    newTag: sha256:27", 1),
		"no list":   strings.Replace(whole, "- images=^", "- image=^", 1),
		"not YAML":  "\t" + whole,
		"empty":     "",
		"two of them": strings.Replace(whole, "\nimages:\n",
			"\nimages:\n  - name: invoice-app\n    newName: x\n    digest: sha256:3\n", 1),
	} {
		t.Run(name, func(t *testing.T) {
			require.NotEqual(t, whole, text)
			_, err := withRelease([]byte(text), registry, imagesOf(registry, list.Names()...))
			assert.Error(t, err)
		})
	}
}
