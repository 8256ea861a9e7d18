package e2e

import (
	"archive/tar"
	"bytes"
	"debug/buildinfo"
	"encoding/json"
	"io"
	"os"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/crane"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A release from a copy of the checkout pushes images and their SBOMs to the cluster's registry, and the production
// overlay names these images.
func TestRelease(t *testing.T) {
	long(t)
	releases := registry(t) + "/release"
	copied := copyOf(t, "k8s")
	release := command(t, "workspace/run", "release", releases)
	release.Dir = copied
	release.Env = append(os.Environ(), "GOARCH="+runtime.GOARCH) // the architecture of this cluster
	mustRun(t, release)
	overlay := mustRun(t, command(t, "kubectl", "kustomize", copied+"/k8s/overlays/production"))
	parameter := regexp.MustCompile(`(?m)^  images: (.*)$`).FindStringSubmatch(overlay)
	require.NotNil(t, parameter)
	mayRun := regexp.MustCompile(parameter[1])

	for _, service := range list.Names() {
		t.Run(service, func(t *testing.T) {
			// The same source results in the same image, so the release contains the tested image.
			digest, err := crane.Digest(podsOf(t, service)[0].Spec.Containers[0].Image)
			require.NoError(t, err)
			released := releases + "/" + service + "@" + digest
			deployed := strings.Count(overlay, "image: "+released+"\n")
			assert.NotZero(t, deployed, "the service, and its migration if it has one")
			assert.Equal(t, deployed, strings.Count(overlay, "/"+service+"@sha256:"))
			assert.Regexp(t, mayRun, released, "the cluster admits the image")
			image, err := crane.Pull(released)
			require.NoError(t, err)

			assert.ElementsMatch(t, modules(t, image), sbomModules(t, released))
		})
	}
}

// modules returns the modules that the program in an image was built from, as module@version.
func modules(t *testing.T, image v1.Image) []string {
	t.Helper()
	reader, writer := io.Pipe()
	go func() { writer.CloseWithError(crane.Export(image, writer)) }()
	files := tar.NewReader(reader)
	_, err := files.Next() // the only one
	require.NoError(t, err)
	program, err := io.ReadAll(files)
	require.NoError(t, err)
	info, err := buildinfo.Read(bytes.NewReader(program))
	require.NoError(t, err)
	found := []string{"std@" + info.GoVersion}
	for _, module := range info.Deps {
		found = append(found, module.Path+"@"+module.Version)
	}
	require.Greater(t, len(found), 10)
	return found
}

// sbomModules returns the modules that an image's CycloneDX document lists, as module@version.
func sbomModules(t *testing.T, image string) []string {
	t.Helper()
	const sbomType = "application/vnd.cyclonedx+json"
	subject, err := name.NewDigest(image)
	require.NoError(t, err)
	index, err := remote.Referrers(subject, remote.WithFilter("artifactType", sbomType))
	require.NoError(t, err)
	manifest, err := index.IndexManifest()
	require.NoError(t, err)
	require.Len(t, manifest.Manifests, 1, "one SBOM, no matter how often the image is released")

	artifact, err := remote.Image(subject.Digest(manifest.Manifests[0].Digest.String()))
	require.NoError(t, err)
	layers, err := artifact.Layers()
	require.NoError(t, err)
	require.Len(t, layers, 1)
	content, err := layers[0].Compressed() // as stored in the registry, where it is not compressed
	require.NoError(t, err)
	defer content.Close()
	var sbom struct {
		BOMFormat  string
		Components []struct{ Name, Version string }
	}
	require.NoError(t, json.NewDecoder(content).Decode(&sbom))
	assert.Equal(t, "CycloneDX", sbom.BOMFormat)
	var found []string
	for _, component := range sbom.Components {
		found = append(found, component.Name+"@"+component.Version)
	}
	return found
}
