# How Go programs are compiled from the versions that go.mod pins.
# shellcheck shell=bash

module_version() { (cd "$CLUSTER_DIR" && go list -m -f '{{.Version}}' "$1"); }
module_dir() { (cd "$CLUSTER_DIR" && go mod download "$1" && go list -m -f '{{.Dir}}' "$1"); }

# The package of each program. Everything but Tilt and runc is compiled
# without cgo: static, so that it runs in an image that holds nothing else.
# With the build tags below, both kinds share what they are compiled from.
declare -A PACKAGES=(
    [tilt]=github.com/tilt-dev/tilt/cmd/tilt
    [ctlptl]=github.com/tilt-dev/ctlptl/cmd/ctlptl
    [kind]=sigs.k8s.io/kind
    [kubectl]=k8s.io/kubernetes/cmd/kubectl
    [crane]=github.com/google/go-containerregistry/cmd/crane
    [kubeadm]=k8s.io/kubernetes/cmd/kubeadm
    [kubelet]=k8s.io/kubernetes/cmd/kubelet
    [kube-apiserver]=k8s.io/kubernetes/cmd/kube-apiserver
    [kube-controller-manager]=k8s.io/kubernetes/cmd/kube-controller-manager
    [kube-scheduler]=k8s.io/kubernetes/cmd/kube-scheduler
    [kube-proxy]=k8s.io/kubernetes/cmd/kube-proxy
    [server]=go.etcd.io/etcd/server/v3
    [containerd]=github.com/containerd/containerd/v2/cmd/containerd
    [containerd-shim-runc-v2]=github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2
    [ctr]=github.com/containerd/containerd/v2/cmd/ctr
    [runc]=github.com/opencontainers/runc
    [bridge]=github.com/containernetworking/plugins/plugins/main/bridge
    [loopback]=github.com/containernetworking/plugins/plugins/main/loopback
    [host-local]=github.com/containernetworking/plugins/plugins/ipam/host-local
    [portmap]=github.com/containernetworking/plugins/plugins/meta/portmap
    [kube-router]=github.com/cloudnativelabs/kube-router/v2/cmd/kube-router
    [coredns]=./coredns
    [pause]=./pause
    [provisioner]=./provisioner
    [oci-runtime]=./oci-runtime
)

BUILD_TAGS=seccomp,no_btrfs,no_devmapper,no_zfs,netgo,osusergo

# compile FOLDER PROGRAM...
compile() {
    local folder=$1 program static=() dynamic=()
    shift
    command -v go >/dev/null || fail "this needs Go: https://go.dev/dl"
    for program; do
        case $program in
        tilt | runc) dynamic+=("${PACKAGES[$program]}") ;;
        *) static+=("${PACKAGES[$program]}") ;;
        esac
    done
    [ ${#dynamic[@]} = 0 ] || command -v cc >/dev/null || apt_install gcc libc6-dev
    case " $* " in *" runc "*) apt_install libseccomp-dev pkg-config ;; esac
    mkdir -p "$folder"
    cd "$CLUSTER_DIR" || return
    local kubernetes tilt flags
    kubernetes=$(module_version k8s.io/kubernetes)
    tilt=$(module_version github.com/tilt-dev/tilt)
    flags=(-v -trimpath -tags "$BUILD_TAGS"
        -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=$kubernetes -X k8s.io/client-go/pkg/version.gitVersion=$kubernetes"
        -ldflags "${PACKAGES[tilt]}=-s -w -X main.version=${tilt#v}"
        -o "$folder/")
    step "downloading Go modules, where they are not there yet" modules \
        go list -deps -trimpath -tags "$BUILD_TAGS" -f '{{if .Stale}}stale: {{.StaleReason}}{{end}}' "${static[@]}" "${dynamic[@]}"
    TOTAL=$(awk '/^stale: / && !/available in build cache/' "$LOG_DIR/modules.log" | wc -l)
    COMPILED=0
    if [ ${#static[@]} -gt 0 ]; then
        step "compiling ${static[*]##*/}" compile env CGO_ENABLED=0 go build "${flags[@]}" "${static[@]}"
        COMPILED=$(wc -l <"$LOG_DIR/compile.log")
    fi
    # Tilt is told to find itself in a copy of it that has a page: see tilt/.
    case " $* " in *" tilt "*) flags+=(-modfile "$(tilt_with_page)") ;; esac
    if [ ${#dynamic[@]} -gt 0 ]; then
        step "compiling ${dynamic[*]##*/}" compile-cgo env CGO_ENABLED=1 go build "${flags[@]}" "${dynamic[@]}"
    fi
}

# so_far LOG SECONDS: of go build, which names each package that it compiles;
# how many these are is known from its own list of what is stale.
so_far() {
    case $1 in
    */modules.log) printf '%s modules downloaded' "$(grep -c '^go: downloading' "$1")" ;;
    */compile*.log)
        local compiled
        compiled=$((COMPILED + $(wc -l <"$1")))
        printf '%s of %s packages' "$compiled" "$TOTAL"
        ((compiled == COMPILED || compiled >= TOTAL)) || printf ', about %s left' "$(minutes $(($2 * (TOTAL - compiled) / (compiled - COMPILED))))"
        ;;
    esac
}

# tilt_with_page: Tilt's module has no web page in it, and go build cannot add
# a file to a module. So a copy gets one; prints the go.mod that points to it.
tilt_with_page() {
    local copy=$CACHE_DIR/tilt
    rm -rf "$copy"
    mkdir -p "$copy"
    cp -R "$(module_dir github.com/tilt-dev/tilt)/." "$copy"
    chmod -R u+w "$copy"
    cp tilt/index.html "$copy/pkg/assets/build/"
    cp go.mod "$copy.mod"
    cp go.sum "$copy.sum"
    go mod edit -replace "github.com/tilt-dev/tilt=$copy" "$copy.mod"
    printf '%s' "$copy.mod"
}
