package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"go.yaml.in/yaml/v3"

	"example.com/invoices/workspace/process"
)

const (
	cycloneDX = "github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.10.0"
	sbomType  = "application/vnd.cyclonedx+json"
	emptyType = "application/vnd.oci.empty.v1+json"
	overlay   = "k8s/overlays/production/kustomization.yaml"
)

// released are the services of a release.
var released = []string{"invoice-app", "payment-provider"}

// Release builds the images of both services and pushes them to the registry, each with its list of parts (an SBOM:
// CycloneDX, as an OCI referrer of the image). Then it writes the images' digests into the production overlay, and the
// registry as where images may come from.
func Release(ctx context.Context, out io.Writer, registry, architecture string) error {
	work, err := os.MkdirTemp("", "release-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	digests := map[string]string{}
	for _, service := range released {
		image, err := BuildImage(ctx, service, work, registry, architecture)
		if err != nil {
			return err
		}
		document, err := sbomOf(ctx, image.Program, filepath.Join(work, "sbom.json"))
		if err != nil {
			return err
		}
		digests[service] = image.Digest.String()
		repository := registry + "/" + service
		if err := attach(ctx, document, repository, image.Descriptor); err != nil {
			return fmt.Errorf("push the SBOM of %s: %w", repository, err)
		}
		fmt.Fprintf(out, "%s@%s\n", repository, image.Digest)
	}
	before, err := os.ReadFile(overlay)
	if err != nil {
		return err
	}
	after, err := withRelease(before, registry, digests)
	if err != nil {
		return fmt.Errorf("%s: %w", overlay, err)
	}
	return os.WriteFile(overlay, after, 0o644)
}

// sbomOf makes the list of a program's parts, without a time or a random number: from the program alone.
func sbomOf(ctx context.Context, program, file string) ([]byte, error) {
	command := process.Command(ctx, "go", "run", cycloneDX, "bin",
		"-json", "-std", "-noserial", "-notimestamp", "-output="+file, program)
	command.Env = append(os.Environ(), "GOOS=", "GOARCH=") // it runs here, whatever the program is for
	if err := process.Run(command); err != nil {
		return nil, err
	}
	return os.ReadFile(file)
}

// attach pushes an SBOM beside the image that it is of. What says of which one it is ("subject") is the OCI image
// specification's; registries that cannot be asked for it get a tag that is named after the image's digest.
func attach(ctx context.Context, document []byte, repository string, image v1.Descriptor) error {
	subject, err := name.NewDigest(repository + "@" + image.Digest.String())
	if err != nil {
		return err
	}
	artifact, err := newSBOM(document, image)
	if err != nil {
		return err
	}
	digest, err := artifact.Digest()
	if err != nil {
		return err
	}
	return remote.Write(subject.Digest(digest.String()), artifact, options(ctx)...)
}

// sbom is an artifact of one layer, which is the document as it is, and without a configuration.
type sbom struct{ document, manifest []byte }

// newSBOM is the artifact that says of the subject what is in it.
func newSBOM(document []byte, subject v1.Descriptor) (v1.Image, error) {
	config, err := descriptorOf([]byte("{}"), emptyType)
	if err != nil {
		return nil, err
	}
	layer, err := descriptorOf(document, sbomType)
	if err != nil {
		return nil, err
	}
	manifest, err := json.Marshal(v1.Manifest{
		SchemaVersion: 2,
		MediaType:     types.OCIManifestSchema1,
		ArtifactType:  sbomType,
		Config:        config,
		Layers:        []v1.Descriptor{layer},
		Subject:       &subject,
	})
	if err != nil {
		return nil, err
	}
	return partial.CompressedToImage(sbom{document, manifest})
}

func (s sbom) RawConfigFile() ([]byte, error)      { return []byte("{}"), nil }
func (s sbom) MediaType() (types.MediaType, error) { return types.OCIManifestSchema1, nil }
func (s sbom) RawManifest() ([]byte, error)        { return s.manifest, nil }
func (s sbom) LayerByDigest(v1.Hash) (partial.CompressedLayer, error) {
	return static.NewLayer(s.document, sbomType), nil
}

// mayRun is how the overlay says which images of the services may run, up to the registry and after it.
var mayRun = regexp.MustCompile(`^(images=\^\()(.+?)(/\(invoice-app\|payment-provider\))`)

// withRelease is the production overlay with the digests of the services' images in the registry. Nothing else of its
// text is changed.
func withRelease(text []byte, registry string, digests map[string]string) ([]byte, error) {
	var file struct {
		Images []struct {
			Name    string
			NewName yaml.Node `yaml:"newName"`
			Digest  yaml.Node
		}
		Generators []struct {
			Literals []yaml.Node
		} `yaml:"configMapGenerator"`
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		return nil, err
	}
	lines := strings.SplitAfter(string(text), "\n")
	changed := 0
	replace := func(value yaml.Node, by string) {
		if value.Line == 0 { // it is not there
			return
		}
		line := lines[value.Line-1]
		before, after, found := strings.Cut(line, value.Value)
		if found {
			lines[value.Line-1] = before + by + after
			changed++
		}
	}
	for _, image := range file.Images {
		if digest, is := digests[image.Name]; is {
			replace(image.NewName, registry+"/"+image.Name)
			replace(image.Digest, digest)
		}
	}
	for _, generator := range file.Generators {
		for _, literal := range generator.Literals {
			if parts := mayRun.FindStringSubmatch(literal.Value); parts != nil {
				replace(literal, mayRun.ReplaceAllLiteralString(literal.Value, parts[1]+literally(registry)+parts[3]))
			}
		}
	}
	if changed != 2*len(digests)+1 {
		return nil, errors.New("each service has to have a newName and a digest, and there has to be a list of images")
	}
	return []byte(strings.Join(lines, "")), nil
}

// literally is a regular expression for a text of the characters that a registry's name may have.
func literally(text string) string { return strings.ReplaceAll(text, ".", "[.]") }
