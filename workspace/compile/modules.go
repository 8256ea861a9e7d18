package compile

// Module is a go.mod in tools/, and how the programs that it pins are compiled.
type Module struct {
	name     string // of its folder
	programs []program
	// The flags of go build. {MODULE} is that module's version, without its v.
	flags []string
}

type program struct {
	name, path string
	cgo        bool
	packages   []string // Debian's, which it needs to be compiled, beside a C compiler
}

// Cluster is all that a cluster is made of, but minikube. Everything except Tilt and runc is compiled without cgo:
// static, so that it runs in an image that holds nothing else. With these build tags, both kinds share what they
// are compiled from.
var Cluster = Module{
	name: "cluster",
	programs: []program{
		{name: "tilt", path: "github.com/tilt-dev/tilt/cmd/tilt", cgo: true},
		{name: "ctlptl", path: "github.com/tilt-dev/ctlptl/cmd/ctlptl"},
		{name: "kind", path: "sigs.k8s.io/kind"},
		{name: "kubectl", path: "k8s.io/kubernetes/cmd/kubectl"},
		{name: "kubeadm", path: "k8s.io/kubernetes/cmd/kubeadm"},
		{name: "kubelet", path: "k8s.io/kubernetes/cmd/kubelet"},
		{name: "kube-apiserver", path: "k8s.io/kubernetes/cmd/kube-apiserver"},
		{name: "kube-controller-manager", path: "k8s.io/kubernetes/cmd/kube-controller-manager"},
		{name: "kube-scheduler", path: "k8s.io/kubernetes/cmd/kube-scheduler"},
		{name: "kube-proxy", path: "k8s.io/kubernetes/cmd/kube-proxy"},
		{name: "server", path: "go.etcd.io/etcd/server/v3"},
		{name: "containerd", path: "github.com/containerd/containerd/v2/cmd/containerd"},
		{name: "containerd-shim-runc-v2", path: "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2"},
		{name: "ctr", path: "github.com/containerd/containerd/v2/cmd/ctr"},
		{name: "runc", path: "github.com/opencontainers/runc", cgo: true,
			packages: []string{"libseccomp-dev", "pkg-config"}},
		{name: "bridge", path: "github.com/containernetworking/plugins/plugins/main/bridge"},
		{name: "loopback", path: "github.com/containernetworking/plugins/plugins/main/loopback"},
		{name: "host-local", path: "github.com/containernetworking/plugins/plugins/ipam/host-local"},
		{name: "portmap", path: "github.com/containernetworking/plugins/plugins/meta/portmap"},
		{name: "kube-router", path: "github.com/cloudnativelabs/kube-router/v2/cmd/kube-router"},
		{name: "coredns", path: "./coredns"},
		{name: "pause", path: "./pause"},
		{name: "provisioner", path: "./provisioner"},
		{name: "oci-runtime", path: "./oci-runtime"},
	},
	flags: []string{
		"-tags=seccomp,no_btrfs,no_devmapper,no_zfs,netgo,osusergo",
		"-ldflags=-s -w -X k8s.io/component-base/version.gitVersion=v{k8s.io/kubernetes} " +
			"-X k8s.io/client-go/pkg/version.gitVersion=v{k8s.io/kubernetes}",
		"-ldflags=" + tilt + "/cmd/tilt=-s -w -X main.version={" + tilt + "}",
	},
}

const tilt = "github.com/tilt-dev/tilt"

// Minikube is minikube, which agrees with Cluster's programs on nothing that they are made of. A driver of it that
// nobody uses here needs C.
var Minikube = Module{
	name:     "minikube",
	programs: []program{{name: "minikube", path: "k8s.io/minikube/cmd/minikube", cgo: true}},
	flags: []string{
		"-tags=libvirt_dlopen",
		"-ldflags=-s -w -X k8s.io/minikube/pkg/version.version=v{k8s.io/minikube} " +
			"-X k8s.io/minikube/pkg/version.storageProvisionerVersion=v5",
	},
}

// Crictl is the program of that name, which minikube looks for on its node, and does not agree with either.
var Crictl = Module{
	name:     "crictl",
	programs: []program{{name: "crictl", path: "sigs.k8s.io/cri-tools/cmd/crictl"}},
	flags:    []string{"-ldflags=-s -w"},
}
