// Package service makes of a service's source what runs: its image in a registry, and a release.
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
	"example.com/invoices/workspace/process"
	"example.com/invoices/workspace/services"
)

// Image is one in a registry.
type Image struct {
	Program string // the file that it was built of
	Ref     string // its name, with a tag that is a hash of its content
	v1.Descriptor
}

// BuildImage builds the image of a service for an architecture, as Go calls it: FROM scratch, with a static binary in
// it and nothing else. It is pushed to the registry, and its name written to folder/SERVICE.ref. The same source gives
// the same digest.
func BuildImage(ctx context.Context, service services.Service, folder, registry, architecture string) (Image, error) {
	work := filepath.Join(folder, service.Name)
	if err := os.MkdirAll(work, 0o755); err != nil {
		return Image{}, err
	}
	built := Image{Program: filepath.Join(work, service.Name)}
	// No build id: nothing of the machine gets into the binary.
	err := compile(ctx, ".", "./"+service.Name, built.Program, architecture, noSQLite, "-ldflags=-s -w -buildid=")
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

// configOf is the configuration of the image of a service, which decides about all of it: it names the layer's content.
// Its hash is the image's ID.
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

// find looks for an image with that ID in its registry: what is there needs not be compressed again, which takes longer
// than all else.
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
		return v1.Descriptor{}, fmt.Errorf("%s is another image", ref)
	}
	return describe(image)
}

// push makes an image of one layer and pushes it.
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

// describe is how manifests refer to an image.
func describe(image v1.Image) (v1.Descriptor, error) {
	manifest, err := image.RawManifest()
	if err != nil {
		return v1.Descriptor{}, err
	}
	return descriptorOf(manifest, types.OCIManifestSchema1)
}

// noSQLite is how services are compiled for a cluster, which has PostgreSQL. The Tiltfile has the same for the pods of
// tilt up, so that either finds packages done.
const noSQLite = "-tags=nosqlite"

// compile builds a package of the module in a folder, for Linux, without paths and version control state. What the
// compiler says is shown.
func compile(ctx context.Context, module, pkg, program, architecture string, flags ...string) error {
	program, err := filepath.Abs(program)
	if err != nil {
		return err
	}
	command := process.Command(ctx, "go", append(append([]string{"build", "-trimpath", "-buildvcs=false"}, flags...),
		"-o", program, pkg)...)
	command.Dir = module
	command.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+architecture)
	command.Stderr = os.Stderr
	return process.Run(command)
}

// Architecture is that of the cluster's node, which Docker runs. GOARCH says it to those who are in a hurry.
func Architecture(ctx context.Context) (string, error) {
	if architecture := os.Getenv("GOARCH"); architecture != "" {
		return architecture, nil
	}
	return docker.Version(ctx, "{{.Server.Arch}}")
}

// descriptorOf is how manifests refer to some content.
func descriptorOf(content []byte, mediaType types.MediaType) (v1.Descriptor, error) {
	digest, size, err := v1.SHA256(bytes.NewReader(content))
	return v1.Descriptor{MediaType: mediaType, Digest: digest, Size: size}, err
}

// layerOf is an archive of one program, without times and owners.
func layerOf(name string, program []byte) ([]byte, error) {
	var files bytes.Buffer
	archive := tar.NewWriter(&files)
	err := archive.WriteHeader(&tar.Header{Name: name, Mode: 0o555, Size: int64(len(program)), Format: tar.FormatUSTAR})
	if err == nil {
		_, err = archive.Write(program)
	}
	return files.Bytes(), errors.Join(err, archive.Close())
}

// options are for what is asked of a registry. Who has logged in with docker login or crane auth login is logged in.
func options(ctx context.Context) []remote.Option {
	return []remote.Option{remote.WithContext(ctx), remote.WithAuthFromKeychain(keychain{})}
}

// keychain is Docker's. A registry of this machine needs no login, so that a helper for logins that is configured but
// not installed does not matter there.
type keychain struct{}

func (keychain) Resolve(resource authn.Resource) (authn.Authenticator, error) {
	login, err := authn.DefaultKeychain.Resolve(resource)
	host, _, found := strings.Cut(resource.RegistryStr(), ":")
	if ip := net.ParseIP(host); err != nil && found && (host == "localhost" || ip != nil && ip.IsLoopback()) {
		return authn.Anonymous, nil
	}
	return login, err
}

// PushImage pushes an image that Docker has, by another name, and with a tag that is a hash of its content. The full
// name is written to folder/NAME.ref.
func PushImage(ctx context.Context, image, as, folder, registry string) (ref string, err error) {
	id, err := process.Output(process.Command(ctx, "docker", "image", "inspect", "--format={{.Id}}", image))
	if err != nil {
		return "", err
	}
	ref = fmt.Sprintf("%s/%s:%.16s", registry, as, strings.TrimPrefix(id, "sha256:"))
	for _, args := range [][]string{
		{"tag", image, ref},
		{"push", "--quiet", ref},
		{"rmi", ref}, // only the name: the image stays under its own
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
