package images

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"example.com/invoices/workspace/compile"
	"example.com/invoices/workspace/process"
)

// nodePrograms are the compiled programs in the node image.
var nodePrograms = []string{
	"kubeadm", "kubelet", "kubectl", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "server",
	"containerd", "containerd-shim-runc-v2", "ctr", "runc", "oci-runtime", "bridge", "loopback", "host-local", "portmap",
	"kube-router", "coredns", "pause", "provisioner",
}

// install puts the compiled programs into the node's root file system: as files if they run on the node itself, or
// as images in the node's containerd if they run in pods.
func (b builder) install(ctx context.Context, step *process.Step) error {
	n := nodeImage{builder: b, root: b.rootFileSystem(node), scratch: filepath.Join(b.folder, "scratch")}
	kubernetes, err := compile.Cluster.Version(ctx, b.paths, "k8s.io/kubernetes")
	if err != nil {
		return err
	}
	if err := n.installPrograms(kubernetes); err != nil {
		return err
	}
	if err := n.listNames(ctx, step, kubernetes); err != nil {
		return err
	}
	if err := n.configureContainerd(ctx, step); err != nil {
		return err
	}
	if err := n.networkFiles(ctx, step); err != nil {
		return err
	}
	archive := filepath.Join(n.scratch, "images.tar")
	if err := n.writeImages(archive); err != nil {
		return err
	}
	return n.importImages(ctx, step, archive)
}

// nodeImage is the node image while it is being built.
type nodeImage struct {
	builder
	root, scratch string   // its root file system, and a folder for temporary files
	names         []string // of the images that kubeadm uses
}

func (n *nodeImage) installPrograms(kubernetes string) error {
	if err := os.WriteFile(filepath.Join(n.root, "kind/version"), []byte(kubernetes), 0o644); err != nil {
		return err
	}
	for folder, programs := range map[string][]string{
		"usr/bin":       {"kubeadm", "kubelet", "kubectl"},
		"usr/local/bin": {"containerd", "containerd-shim-runc-v2", "ctr"},
		"opt/cni/bin":   {"bridge", "loopback", "host-local", "portmap"},
	} {
		for _, program := range programs {
			if err := n.copyProgram(program, filepath.Join(folder, program)); err != nil {
				return err
			}
		}
	}
	// See tools/cluster/oci-runtime: it makes no difference on most machines.
	if err := n.copyProgram("runc", "usr/local/sbin/runc.real"); err != nil {
		return err
	}
	return n.copyProgram("oci-runtime", "usr/local/sbin/runc")
}

func (n *nodeImage) copyProgram(program, to string) error {
	return copyFile(filepath.Join(n.programs(), program), filepath.Join(n.root, to), 0o755)
}

func (n *nodeImage) listNames(ctx context.Context, step *process.Step, kubernetes string) error {
	names, err := step.Output(process.Command(ctx, filepath.Join(n.programs(), "kubeadm"),
		"config", "images", "list", "--kubernetes-version", kubernetes))
	n.names = strings.Fields(names)
	return err
}

// imageOf returns the image name that kubeadm uses for a component.
func (n *nodeImage) imageOf(component string) (string, error) {
	i := slices.IndexFunc(n.names, func(name string) bool { return strings.Contains(name, "/"+component+":") })
	if i < 0 {
		return "", fmt.Errorf("kubeadm lists no image for %s: %q", component, n.names)
	}
	return n.names[i], nil
}

func (n *nodeImage) configureContainerd(ctx context.Context, step *process.Step) error {
	spec, err := step.Output(process.Command(ctx, filepath.Join(n.programs(), "ctr"), "oci", "spec"))
	if err != nil {
		return err
	}
	base, err := withHook([]byte(spec))
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(n.root, "etc/containerd/cri-base.json"), base, 0o644); err != nil {
		return err
	}
	pause, err := n.imageOf("pause")
	if err != nil {
		return err
	}
	file := filepath.Join(n.root, "etc/containerd/config.toml")
	config, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	// A process without CAP_SYS_RESOURCE cannot lower its OOM score below its parent's. The restriction is harmless on
	// other machines.
	for pattern, value := range map[string]string{
		`sandbox_image = .*`:             `sandbox_image = "` + pause + `"`,
		`restrict_oom_score_adj = false`: `restrict_oom_score_adj = true`,
	} {
		setting := regexp.MustCompile(pattern)
		if !setting.Match(config) {
			return fmt.Errorf("kind's config.toml has no match for %s", pattern)
		}
		config = setting.ReplaceAllLiteral(config, []byte(value))
	}
	return os.WriteFile(file, config, 0o644)
}

// withHook adds the hook to a container specification by which kind's node hides the machine's product name.
func withHook(spec []byte) ([]byte, error) {
	decoder := json.NewDecoder(bytes.NewReader(spec))
	decoder.UseNumber() // preserves numbers as they are written
	var all map[string]any
	if err := decoder.Decode(&all); err != nil {
		return nil, fmt.Errorf("output of ctr oci spec: %w", err)
	}
	hooks, _ := all["hooks"].(map[string]any)
	if hooks == nil {
		hooks = map[string]any{}
		all["hooks"] = hooks
	}
	atCreation, _ := hooks["createContainer"].([]any)
	hooks["createContainer"] = append(atCreation, map[string]any{"path": "/kind/bin/mount-product-files.sh"})
	if process, found := all["process"].(map[string]any); found {
		delete(process, "rlimits")
	}
	return json.MarshalIndent(all, "", "  ")
}

// network returns the folder with the programs that kube-proxy and kube-router call.
func (n *nodeImage) network() string { return filepath.Join(n.scratch, "network") }

// networkFiles copies the programs that kube-proxy and kube-router call, with their libraries, from the node's root
// file system.
func (n *nodeImage) networkFiles(ctx context.Context, step *process.Step) error {
	files := []string{"/usr/sbin/xtables-nft-multi", "/usr/sbin/nft", "/usr/sbin/ipset", "/sbin/ip", "/bin/sh", "/bin/cp"}
	libraries, err := step.Output(process.Command(ctx, "chroot", append([]string{n.root, "ldd"}, files...)...))
	if err != nil {
		return err
	}
	files = append(files, regexp.MustCompile(`/lib\S*`).FindAllString(libraries, -1)...)
	// Without it nft prints "6" instead of tcp, and kube-proxy considers every map element that it reads stale.
	files = append(files, "/etc/protocols")
	extensions, err := filepath.Glob(filepath.Join(n.root, "usr/lib/*/xtables/*.so"))
	if err != nil {
		return err
	}
	for _, extension := range extensions {
		if info, err := os.Lstat(extension); err == nil && info.Mode().IsRegular() {
			files = append(files, strings.TrimPrefix(extension, n.root))
		}
	}
	for _, file := range files {
		from, err := resolve(n.root, file)
		if err != nil {
			return err
		}
		info, err := os.Stat(from)
		if err != nil {
			return err
		}
		if err := copyFile(from, filepath.Join(n.network(), file), info.Mode().Perm()); err != nil {
			return err
		}
	}
	for _, link := range []string{"iptables", "iptables-save", "iptables-restore",
		"ip6tables", "ip6tables-save", "ip6tables-restore"} {
		if err := os.Symlink("xtables-nft-multi", filepath.Join(n.network(), "usr/sbin", link)); err != nil {
			return err
		}
	}
	return nil
}

// resolve follows the symbolic links of a file in a root file system, without leaving that root file system.
func resolve(root, file string) (string, error) {
	for range 40 { // as many links as Linux follows
		at, parts := "/", strings.Split(strings.Trim(file, "/"), "/")
		followed := false
		for i, part := range parts {
			at = filepath.Join(at, part)
			target, err := os.Readlink(root + at)
			if err != nil {
				continue // no link
			}
			if !filepath.IsAbs(target) {
				target = filepath.Join(filepath.Dir(at), target)
			}
			file, followed = filepath.Join(append([]string{target}, parts[i+1:]...)...), true
			break
		}
		if !followed {
			return root + at, nil
		}
	}
	return "", fmt.Errorf("%s in %s: too many levels of symbolic links", file, root)
}

// writeImages writes the images of the programs that run in pods to an archive, as docker save does.
func (n *nodeImage) writeImages(archive string) error {
	network, err := n.layer(n.network())
	if err != nil {
		return err
	}
	all := map[name.Tag]v1.Image{}
	for _, pod := range []struct {
		component, program string // program defaults to component
		layers             []v1.Layer
	}{
		{component: "kube-apiserver"},
		{component: "kube-controller-manager"},
		{component: "kube-scheduler"},
		{component: "etcd", program: "server"},
		{component: "coredns"},
		{component: "pause"},
		{component: "kube-proxy", layers: []v1.Layer{network}},
		{component: "kube-router", layers: []v1.Layer{network}},
		{component: "provisioner"},
	} {
		image, err := n.image(pod.component, pod.program, pod.layers)
		if err != nil {
			return err
		}
		named := n.paths.Image(pod.component)
		if pod.component != "kube-router" && pod.component != "provisioner" {
			if named, err = n.imageOf(pod.component); err != nil {
				return err
			}
		}
		tag, err := name.NewTag(named)
		if err != nil {
			return err
		}
		all[tag] = image
	}
	return tarball.MultiWriteToFile(archive, all)
}

// image returns an image with one program on top of layers.
func (n *nodeImage) image(component, program string, layers []v1.Layer) (v1.Image, error) {
	path := "/usr/local/bin/" + component
	if program == "" {
		program = component
	}
	folder := filepath.Join(n.scratch, component)
	if err := copyFile(filepath.Join(n.programs(), program), filepath.Join(folder, path), 0o755); err != nil {
		return nil, err
	}
	if err := os.Mkdir(filepath.Join(folder, "tmp"), 0o777); err != nil {
		return nil, err
	}
	if err := os.Chmod(filepath.Join(folder, "tmp"), 0o777|fs.ModeSticky); err != nil {
		return nil, err
	}
	own, err := n.layer(folder)
	if err != nil {
		return nil, err
	}
	image, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{
		Architecture: n.compiler.Arch, OS: "linux", Config: v1.Config{Entrypoint: []string{path}},
		RootFS: v1.RootFS{Type: "layers"},
	})
	if err != nil {
		return nil, err
	}
	return mutate.AppendLayers(image, append(layers, own)...)
}

// layer turns a folder into a layer and removes the folder, to save disk space.
func (n *nodeImage) layer(folder string) (v1.Layer, error) {
	file, err := os.Create(folder + ".tar")
	if err != nil {
		return nil, err
	}
	defer file.Close()
	digest := sha256.New()
	if err := writeTar(io.MultiWriter(file, digest), folder, true); err != nil {
		return nil, err
	}
	size, err := file.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	hash := v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(digest.Sum(nil))}
	return fileLayer{file.Name(), hash, size}, os.RemoveAll(folder)
}

// fileLayer is an uncompressed layer: the node unpacks it on first use.
type fileLayer struct {
	path string
	hash v1.Hash
	size int64
}

func (l fileLayer) Digest() (v1.Hash, error)             { return l.hash, nil }
func (l fileLayer) DiffID() (v1.Hash, error)             { return l.hash, nil }
func (l fileLayer) Size() (int64, error)                 { return l.size, nil }
func (l fileLayer) MediaType() (types.MediaType, error)  { return types.DockerUncompressedLayer, nil }
func (l fileLayer) Compressed() (io.ReadCloser, error)   { return os.Open(l.path) }
func (l fileLayer) Uncompressed() (io.ReadCloser, error) { return os.Open(l.path) }

// importImages puts images into the node's store, using a temporary containerd. They are unpacked on first use, which
// reduces the size to a third and avoids mounting an overlay here.
func (n *nodeImage) importImages(ctx context.Context, step *process.Step, archive string) error {
	state, err := os.MkdirTemp("", "node-") // the length of a socket's path is limited
	if err != nil {
		return err
	}
	defer os.RemoveAll(state)
	socket, config := filepath.Join(state, "containerd.sock"), filepath.Join(state, "containerd.toml")
	err = os.WriteFile(config, fmt.Appendf(nil, `version = 3
root = %s
state = %s
disabled_plugins = ["io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri",
  "io.containerd.nri.v1.nri"]
[grpc]
address = %s
`, strconv.Quote(filepath.Join(n.root, "var/lib/containerd")), strconv.Quote(filepath.Join(state, "state")),
		strconv.Quote(socket)), 0o644)
	if err != nil {
		return err
	}
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	containerd := process.Command(running, filepath.Join(n.programs(), "containerd"), "--config", config)
	go func() { ended <- step.Run(containerd) }()
	err = n.fillStore(ctx, step, socket, archive, ended)
	stop()
	<-ended
	return err
}

// fillStore imports an archive once containerd is ready.
func (n *nodeImage) fillStore(ctx context.Context, step *process.Step, socket, archive string, ended chan error) error {
	for {
		if _, err := os.Stat(socket); err == nil {
			break
		}
		select {
		case err := <-ended:
			ended <- err
			return errors.Join(errors.New("containerd exited"), err)
		case <-time.After(100 * time.Millisecond):
		}
	}
	ctr := func(args ...string) (string, error) {
		args = append([]string{"--address", socket, "--namespace", "k8s.io"}, args...)
		return step.Output(process.Command(ctx, filepath.Join(n.programs(), "ctr"), args...))
	}
	if _, err := ctr("images", "import", "--no-unpack", archive); err != nil {
		return err
	}
	names, err := ctr("images", "list", "--quiet")
	if err != nil {
		return err
	}
	// This label makes the images visible to the kubelet, whose garbage collection spares the sandbox image.
	for _, name := range strings.Fields(names) {
		if _, err := ctr("images", "label", name, "io.cri-containerd.image=managed"); err != nil {
			return err
		}
	}
	return nil
}

// copyFile copies a file, creating the parent folders.
func copyFile(from, to string, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	file, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	if err = copyInto(file, from); err == nil {
		err = file.Chmod(mode) // regardless of the umask
	}
	return errors.Join(err, file.Close())
}
