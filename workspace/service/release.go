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
	"example.com/invoices/workspace/services"
)

const (
	cycloneDX = "github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.10.0"
	sbomType  = "application/vnd.cyclonedx+json"
	emptyType = "application/vnd.oci.empty.v1+json"
	overlay   = "k8s/overlays/production/kustomization.yaml"
)

// Release builds the images of the services and pushes them to the registry, each with an SBOM (CycloneDX, as an OCI
// referrer of the image). Then it writes the images' digests and the allowed registry into the production overlay.
func Release(ctx context.Context, out io.Writer, list services.List, registry, architecture string) error {
	work, err := os.MkdirTemp("", "release-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	var images []releasedImage
	for _, service := range list.Services {
		image, err := BuildImage(ctx, service, work, registry, architecture)
		if err != nil {
			return err
		}
		document, err := sbomOf(ctx, image.Program, filepath.Join(work, "sbom.json"))
		if err != nil {
			return err
		}
		repository := registry + "/" + service.Name
		images = append(images, releasedImage{service.Name, repository, image.Digest.String()})
		if err := attach(ctx, document, repository, image.Descriptor); err != nil {
			return fmt.Errorf("push the SBOM of %s: %w", repository, err)
		}
		fmt.Fprintf(out, "%s@%s\n", repository, image.Digest)
	}
	before, err := os.ReadFile(overlay)
	if err != nil {
		return err
	}
	after, err := withRelease(before, registry, images)
	if err != nil {
		return fmt.Errorf("%s: %w", overlay, err)
	}
	return os.WriteFile(overlay, after, 0o644)
}

// sbomOf returns the SBOM of a program. It contains no time or random number, so it depends only on the program.
func sbomOf(ctx context.Context, program, file string) ([]byte, error) {
	command := process.Command(ctx, "go", "run", cycloneDX, "bin",
		"-json", "-std", "-noserial", "-notimestamp", "-output="+file, program)
	command.Env = append(os.Environ(), "GOOS=", "GOARCH=") // the tool runs on this machine
	if err := process.Run(command); err != nil {
		return nil, err
	}
	return os.ReadFile(file)
}

// attach pushes an SBOM next to its image, which it refers to by the "subject" field of the OCI image specification.
// Registries without the referrers API get a tag named after the image's digest.
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

// sbom is an artifact without a configuration. Its only layer is the uncompressed document.
type sbom struct{ document, manifest []byte }

// newSBOM returns the artifact with the SBOM of the subject.
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

// releasedImage is an entry in the overlay's images.
type releasedImage struct{ name, repository, digest string }

// mayRun matches the part of the overlay's allowed images that names the registry and the services.
var mayRun = regexp.MustCompile(`^(images=\^\()(.+?)/\([a-z0-9|-]+\)`)

// withRelease returns the production overlay with the images of a release. It adds an entry for a service that was
// never released, before the others, and changes nothing else in the text.
func withRelease(text []byte, registry string, images []releasedImage) ([]byte, error) {
	var file struct {
		Images []struct {
			Name    yaml.Node
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
		if value.Line == 0 { // missing
			return
		}
		line := lines[value.Line-1]
		before, after, found := strings.Cut(line, value.Value)
		if found {
			lines[value.Line-1] = before + by + after
			changed++
		}
	}
	if len(file.Images) == 0 {
		return nil, errors.New("there must be a list of images")
	}
	var names []string
	added := ""
	for _, image := range images {
		names = append(names, image.name)
		known := false
		for _, entry := range file.Images {
			if entry.Name.Value == image.name {
				replace(entry.NewName, image.repository)
				replace(entry.Digest, image.digest)
				known = true
			}
		}
		if !known {
			added += fmt.Sprintf("  - name: %s\n    newName: %s\n    digest: %s\n", image.name, image.repository, image.digest)
			changed += 2
		}
	}
	allowed := "${1}" + literally(registry) + "/(" + strings.Join(names, "|") + ")"
	for _, generator := range file.Generators {
		for _, literal := range generator.Literals {
			if mayRun.MatchString(literal.Value) {
				replace(literal, mayRun.ReplaceAllString(literal.Value, allowed))
			}
		}
	}
	if changed != 2*len(images)+1 {
		return nil, errors.New("each image must have a newName and a digest, and there must be a list of allowed images")
	}
	first := file.Images[0].Name.Line - 1
	lines[first] = added + lines[first]
	return []byte(strings.Join(lines, "")), nil
}

// literally returns a regular expression for a text that contains only characters of a registry's name.
func literally(text string) string { return strings.ReplaceAll(text, ".", "[.]") }
