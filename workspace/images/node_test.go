package images

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"example.com/invoices/workspace/compile"
	"example.com/invoices/workspace/paths"
	"example.com/invoices/workspace/services"
)

// files creates files in a folder, or symbolic links if the content starts with "-> ".
func files(t *testing.T, folder string, contents map[string]string) {
	for name, content := range contents {
		path := filepath.Join(folder, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		if target, isLink := bytes.CutPrefix([]byte(content), []byte("-> ")); isLink {
			require.NoError(t, os.Symlink(string(target), path))
			continue
		}
		require.NoError(t, os.WriteFile(path, []byte(content), 0o755))
	}
}

func TestResolve(t *testing.T) {
	root := filepath.Join(t.TempDir(), "root file system")
	files(t, root, map[string]string{
		"usr/bin/ip": "the node's", "bin": "-> usr/bin", "sbin/ip": "-> /bin/ip", "lib": "-> usr/lib",
		"usr/lib/a.so": "-> ../../lib/a.so.1", "usr/lib/a.so.1": "library", "loop": "-> /loop",
		"out": "-> ../../../../bin/ip",
	})
	for file, want := range map[string]string{
		"/usr/bin/ip": "/usr/bin/ip",
		"/sbin/ip":    "/usr/bin/ip", // an absolute link is relative to the root file system
		"/lib/a.so":   "/usr/lib/a.so.1",
		"/out":        "/usr/bin/ip",
		"/missing":    "/missing",
	} {
		found, err := resolve(root, file)
		require.NoError(t, err)
		assert.Equal(t, root+want, found, file)
	}
	_, err := resolve(root, "/loop")
	assert.ErrorContains(t, err, "too many levels of symbolic links")
}

func TestReproducibleTar(t *testing.T) {
	write := func(when time.Time) []byte {
		folder := filepath.Join(t.TempDir(), "späte & |Rechnungen|")
		files(t, folder, map[string]string{"b/file": "content", "a": "-> b/file"})
		require.NoError(t, os.Link(folder+"/b/file", folder+"/b/hard"))
		require.NoError(t, os.Chtimes(folder+"/b/file", when, when))
		var archive bytes.Buffer
		require.NoError(t, writeTar(&archive, folder, true))
		return archive.Bytes()
	}
	first := write(time.Unix(1, 0))
	assert.Equal(t, first, write(time.Unix(1_000_000_000, 0)))

	var names []string
	for archive := tar.NewReader(bytes.NewReader(first)); ; {
		header, err := archive.Next()
		if err == io.EOF {
			break
		}
		require.NoError(t, err)
		assert.Zero(t, header.Uid+header.Gid)
		assert.Equal(t, int64(0), header.ModTime.Unix())
		names = append(names, string(header.Typeflag)+" "+header.Name+" "+header.Linkname)
	}
	assert.Equal(t, []string{"5 ./ ", "2 a b/file", "5 b/ ", "0 b/file ", "1 b/hard b/file"}, names)
}

func TestTarPreservesTimesAndModes(t *testing.T) {
	folder := t.TempDir()
	files(t, folder, map[string]string{"file": "content"})
	when := time.Unix(1_000_000_000, 0)
	require.NoError(t, os.Chtimes(folder+"/file", when, when))
	require.NoError(t, os.Chmod(folder+"/file", 0o4711|os.ModeSetuid))
	var buffer bytes.Buffer
	require.NoError(t, writeTar(&buffer, folder, false))
	archive := tar.NewReader(&buffer)
	_, err := archive.Next()
	require.NoError(t, err)
	header, err := archive.Next()
	require.NoError(t, err)
	assert.Equal(t, when, header.ModTime.Local())
	assert.Equal(t, int64(0o4711), header.Mode)
}

func TestTarOfMissingFolder(t *testing.T) {
	assert.Error(t, writeTar(io.Discard, filepath.Join(t.TempDir(), "missing"), false))
}

func TestImagesOfPods(t *testing.T) {
	cache := t.TempDir()
	b := builder{Images: &Images{paths: paths.Paths{Cache: cache, Services: services.List{Product: "things"}}},
		compiler: compile.Compiler{Arch: "arm64"}}
	n := nodeImage{builder: b,
		scratch: filepath.Join(cache, "scratch"),
		names: []string{"registry.k8s.io/kube-apiserver:v1", "registry.k8s.io/kube-controller-manager:v1",
			"registry.k8s.io/kube-scheduler:v1", "registry.k8s.io/kube-proxy:v1", "registry.k8s.io/coredns/coredns:v2",
			"registry.k8s.io/pause:3", "registry.k8s.io/etcd:3.5"}}
	for _, program := range nodePrograms {
		files(t, n.programs(), map[string]string{program: "the program " + program})
	}
	files(t, n.network(), map[string]string{"usr/sbin/nft": "nft"})
	archive := filepath.Join(cache, "images.tar")
	require.NoError(t, n.writeImages(archive))

	manifest, err := tarball.LoadManifest(func() (io.ReadCloser, error) { return os.Open(archive) })
	require.NoError(t, err)
	assert.Len(t, manifest, len(n.names)+2)
	for tagName, want := range map[string]struct{ entrypoint, content string }{
		"registry.k8s.io/etcd:3.5":           {"/usr/local/bin/etcd", "the program server"},
		"registry.k8s.io/coredns/coredns:v2": {"/usr/local/bin/coredns", "the program coredns"},
		"registry.k8s.io/kube-proxy:v1":      {"/usr/local/bin/kube-proxy", "the program kube-proxy"},
		"things/kube-router:local":           {"/usr/local/bin/kube-router", "the program kube-router"},
		"things/provisioner:local":           {"/usr/local/bin/provisioner", "the program provisioner"},
	} {
		tag, err := name.NewTag(tagName)
		require.NoError(t, err)
		image, err := tarball.ImageFromPath(archive, &tag)
		require.NoError(t, err, tagName)
		require.NoError(t, validate.Image(image), tagName)
		config, err := image.ConfigFile()
		require.NoError(t, err)
		assert.Equal(t, "linux/arm64", config.OS+"/"+config.Architecture)
		assert.Equal(t, []string{want.entrypoint}, config.Config.Entrypoint)
		layers, err := image.Layers()
		require.NoError(t, err)
		content, err := layers[len(layers)-1].Uncompressed()
		require.NoError(t, err)
		var last string
		for archive := tar.NewReader(content); ; {
			header, err := archive.Next()
			if err == io.EOF {
				break
			}
			require.NoError(t, err)
			if header.Name == "tmp/" {
				assert.Equal(t, int64(0o1777), header.Mode)
			}
			if "/"+header.Name == want.entrypoint {
				data, err := io.ReadAll(archive)
				require.NoError(t, err)
				last = string(data)
			}
		}
		require.NoError(t, content.Close())
		assert.Equal(t, want.content, last)
		wantLayers := 1
		if tagName == "registry.k8s.io/kube-proxy:v1" || tagName == "things/kube-router:local" {
			wantLayers = 2 // the programs they call are in the first
		}
		assert.Len(t, layers, wantLayers, tagName)
	}

	n.names = nil
	files(t, n.network(), map[string]string{"usr/sbin/nft": "nft"})
	assert.ErrorContains(t, n.writeImages(archive), "kubeadm lists no image for kube-apiserver")
}

func TestWithHook(t *testing.T) {
	base, err := withHook([]byte(`{"process": {"rlimits": [1], "user": {"uid": 18446744073709551615}}, "other": true,
		"hooks": {"createContainer": [{"path": "/first"}]}}`))
	require.NoError(t, err)
	assert.JSONEq(t, `{"process": {"user": {"uid": 18446744073709551615}}, "other": true,
		"hooks": {"createContainer": [{"path": "/first"}, {"path": "/kind/bin/mount-product-files.sh"}]}}`, string(base))
	assert.Contains(t, string(base), "18446744073709551615", "large numbers keep their precision")

	base, err = withHook([]byte(`{}`))
	require.NoError(t, err)
	var parsed map[string]any
	require.NoError(t, json.Unmarshal(base, &parsed))
	assert.Contains(t, parsed, "hooks")

	_, err = withHook([]byte(`panic`))
	assert.Error(t, err)
}
