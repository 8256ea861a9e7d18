// Package service builds the services' images, pushes them to a registry and releases them.
package service

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"example.com/invoices/workspace/docker"
	"example.com/invoices/workspace/paths"
	"example.com/invoices/workspace/process"
	"example.com/invoices/workspace/services"
)

// Image is an image in a registry.
type Image struct {
	Program string // the file with the program in the image
	Ref     string // the name, with a hash of the content as tag
	v1.Descriptor
}

// BuildImage builds the image of a service for a GOARCH, pushes it to the registry and writes its name to
// folder/SERVICE.ref. The image contains only a static binary (FROM scratch). The same source results in the same
// digest.
func BuildImage(ctx context.Context, service services.Service, folder, registry, architecture string) (Image, error) {
	return buildImage(ctx, service, ".", "./"+service.Name, folder, registry, architecture)
}

// buildImage does so for a package of the module in a folder.
func buildImage(
	ctx context.Context, service services.Service, module, pkg, folder, registry, architecture string,
) (Image, error) {
	work := filepath.Join(folder, service.Name)
	if err := os.MkdirAll(work, 0o755); err != nil {
		return Image{}, err
	}
	built := Image{Program: filepath.Join(work, service.Name)}
	// No build ID, so the binary does not depend on the machine. No symbols, like the programs that go_live builds, which
	// shares what is compiled with this.
	err := compile(ctx, module, pkg, built.Program, architecture, clusterTags,
		"-gcflags=all=-dwarf=false", "-ldflags=-s -w -buildid=")
	if err != nil {
		return Image{}, err
	}
	program, err := os.ReadFile(built.Program)
	if err != nil {
		return Image{}, err
	}
	files, err := layerOf(service.Name, program)
	if err != nil {
		return Image{}, err
	}
	config, id, err := configOf(service, files, architecture)
	if err != nil {
		return Image{}, err
	}
	ref, err := name.NewTag(fmt.Sprintf("%s/%s:%.16s", registry, service.Name, id.Hex))
	if err != nil {
		return Image{}, fmt.Errorf("the registry to push to: %w", err)
	}
	built.Ref = ref.String()
	if built.Descriptor, err = find(ctx, ref, id); err != nil {
		if built.Descriptor, err = push(ctx, ref, files, config); err != nil {
			return Image{}, fmt.Errorf("push %s: %w", ref, err)
		}
	}
	return built, os.WriteFile(work+".ref", []byte(built.Ref+"\n"), 0o644)
}

// configOf returns the configuration of a service's image, and its hash, which is the image's ID. The configuration
// contains the layer's hash, so the ID identifies the whole image.
func configOf(service services.Service, files []byte, architecture string) (
	config *v1.ConfigFile, id v1.Hash, err error,
) {
	layer, _, err := v1.SHA256(bytes.NewReader(files))
	if err != nil {
		return nil, id, err
	}
	config = &v1.ConfigFile{
		OS:           "linux",
		Architecture: architecture,
		RootFS:       v1.RootFS{Type: "layers", DiffIDs: []v1.Hash{layer}},
		Config: v1.Config{
			Entrypoint: []string{"/" + service.Name},
			User:       fmt.Sprintf("%[1]d:%[1]d", service.User),
			Labels: map[string]string{
				"org.opencontainers.image.title":       service.Name,
				"org.opencontainers.image.description": service.Description,
			},
		},
	}
	text, err := json.Marshal(config)
	if err != nil {
		return nil, id, err
	}
	id, _, err = v1.SHA256(bytes.NewReader(text))
	return config, id, err
}

// find looks for an image with that ID in its registry. An image that exists need not be compressed again, which takes
// longer than everything else.
func find(ctx context.Context, ref name.Reference, id v1.Hash) (v1.Descriptor, error) {
	image, err := remote.Image(ref, options(ctx)...)
	if err != nil {
		return v1.Descriptor{}, err
	}
	found, err := image.ConfigName()
	if err != nil {
		return v1.Descriptor{}, err
	}
	if found != id {
		return v1.Descriptor{}, fmt.Errorf("%s is a different image", ref)
	}
	return describe(image)
}

// push creates an image with one layer and pushes it.
func push(ctx context.Context, ref name.Reference, files []byte, config *v1.ConfigFile) (v1.Descriptor, error) {
	opener := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(files)), nil }
	layer, err := tarball.LayerFromOpener(opener, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return v1.Descriptor{}, err
	}
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	if image, err = mutate.AppendLayers(image, layer); err != nil {
		return v1.Descriptor{}, err
	}
	if image, err = mutate.ConfigFile(image, config); err != nil {
		return v1.Descriptor{}, err
	}
	if err := remote.Write(ref, image, options(ctx)...); err != nil {
		return v1.Descriptor{}, err
	}
	return describe(image)
}

// describe returns the descriptor with which manifests refer to an image.
func describe(image v1.Image) (v1.Descriptor, error) {
	manifest, err := image.RawManifest()
	if err != nil {
		return v1.Descriptor{}, err
	}
	return descriptorOf(manifest, types.OCIManifestSchema1)
}

// clusterTags leaves out what the services do not need on a cluster, which has PostgreSQL: SQLite, and parts of gin.
// For the pods of tilt up, the Tiltfile adds the tag pprof.
const clusterTags = "-tags=nosqlite,nomsgpack"

// compile builds a package of the module in a folder, for Linux, without paths and version control state. It shows the
// compiler's output.
func compile(ctx context.Context, module, pkg, program, architecture string, flags ...string) error {
	program, err := filepath.Abs(program)
	if err != nil {
		return err
	}
	command := process.Command(ctx, "go", append(append([]string{"build", "-trimpath", "-buildvcs=false"}, flags...),
		"-o", program, pkg)...)
	command.Dir = module
	command.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+architecture,
		"GOWORK="+paths.GoWork(module))
	command.Stderr = os.Stderr
	return process.Run(command)
}

// Architecture returns the architecture of the cluster's node, which Docker runs. GOARCH, if set, saves the call to
// Docker.
func Architecture(ctx context.Context) (string, error) {
	if architecture := os.Getenv("GOARCH"); architecture != "" {
		return architecture, nil
	}
	return docker.Version(ctx, "{{.Server.Arch}}")
}

// descriptorOf returns the descriptor with which manifests refer to the content.
func descriptorOf(content []byte, mediaType types.MediaType) (v1.Descriptor, error) {
	digest, size, err := v1.SHA256(bytes.NewReader(content))
	return v1.Descriptor{MediaType: mediaType, Digest: digest, Size: size}, err
}

// layerOf returns an archive of one program, without times and owners.
func layerOf(name string, program []byte) ([]byte, error) {
	var files bytes.Buffer
	archive := tar.NewWriter(&files)
	err := archive.WriteHeader(&tar.Header{Name: name, Mode: 0o555, Size: int64(len(program)), Format: tar.FormatUSTAR})
	if err == nil {
		_, err = archive.Write(program)
	}
	return files.Bytes(), errors.Join(err, archive.Close())
}

// options returns the options for requests to a registry. They use the logins of docker login and crane auth login.
func options(ctx context.Context) []remote.Option {
	return []remote.Option{remote.WithContext(ctx), remote.WithAuthFromKeychain(keychain{})}
}

// keychain is Docker's keychain, except that a registry on this machine needs no login: there, a credential helper may
// be configured but not installed.
type keychain struct{}

func (keychain) Resolve(resource authn.Resource) (authn.Authenticator, error) {
	login, err := authn.DefaultKeychain.Resolve(resource)
	host, _, found := strings.Cut(resource.RegistryStr(), ":")
	if ip := net.ParseIP(host); err != nil && found && (host == "localhost" || ip != nil && ip.IsLoopback()) {
		return authn.Anonymous, nil
	}
	return login, err
}

// PushImage pushes a local Docker image under another name, with a hash of its content as tag. It writes the full name
// to folder/NAME.ref.
func PushImage(ctx context.Context, image, as, folder, registry string) (ref string, err error) {
	id, err := process.Output(process.Command(ctx, "docker", "image", "inspect", "--format={{.Id}}", image))
	if err != nil {
		return "", err
	}
	ref = fmt.Sprintf("%s/%s:%.16s", registry, as, strings.TrimPrefix(id, "sha256:"))
	for _, args := range [][]string{
		{"tag", image, ref},
		{"push", "--quiet", ref},
		{"rmi", ref}, // removes only this name of the image
	} {
		if err := process.Run(process.Command(ctx, "docker", args...)); err != nil {
			return "", err
		}
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return "", err
	}
	return ref, os.WriteFile(filepath.Join(folder, as+".ref"), []byte(ref+"\n"), 0o644)
}
