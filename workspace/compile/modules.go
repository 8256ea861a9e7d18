package compile

// Module is a go.mod in tools/ that pins programs, with the flags to compile them.
type Module struct {
	name     string // the folder in tools/
	programs []program
	// Flags for go build. {MODULE} stands for that module's version without the v.
	flags []string
}

type program struct {
	name, path string
	cgo        bool
	packages   []string // Debian packages needed to compile it, besides a C compiler
}

// Cluster has all programs of a cluster except minikube. Those other than Tilt and runc are compiled without cgo, and
// thus static, so that they run in images without libraries. The build tags let both groups share compiled packages.
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

// Minikube has minikube, whose dependencies conflict with those of Cluster's programs. It needs cgo for a driver that
// is not used here.
var Minikube = Module{
	name:     "minikube",
	programs: []program{{name: "minikube", path: "k8s.io/minikube/cmd/minikube", cgo: true}},
	flags: []string{
		"-tags=libvirt_dlopen",
		"-ldflags=-s -w -X k8s.io/minikube/pkg/version.version=v{k8s.io/minikube} " +
			"-X k8s.io/minikube/pkg/version.storageProvisionerVersion=v5",
	},
}

// Crictl has crictl, which minikube expects on its node. Its dependencies conflict with both other modules.
var Crictl = Module{
	name:     "crictl",
	programs: []program{{name: "crictl", path: "sigs.k8s.io/cri-tools/cmd/crictl"}},
	flags:    []string{"-ldflags=-s -w"},
}

// Tools has all programs in the tool block of the go.mod in tools/NAME, under the name NAME. They are static.
func Tools(name string) Module {
	return Module{name: name, programs: []program{{name: name, path: "tool"}}, flags: []string{"-ldflags=-s -w"}}
}
