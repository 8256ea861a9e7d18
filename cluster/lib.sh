# What the scripts of this folder share: where results are kept, how progress
# is shown, and the one way in which Go programs are compiled here.
# shellcheck shell=bash

CLUSTER_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
CACHE_DIR=${XDG_CACHE_HOME:-$HOME/.cache}/invoices
LOG_DIR=$CACHE_DIR/logs
mkdir -p "$LOG_DIR"

say() { printf '%s\n' "$*" >&2; }
fail() { say "$(basename "$0"): $*"; exit 1; }

# usage prints the comment at the head of the calling script.
usage() { sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; }

minutes() { printf '%dm%02ds' $(($1 / 60)) $(($1 % 60)); }

# step LABEL LOG COMMAND...: runs the command with its output in a log, says
# every 20 s how it is going, and shows the end of the log when it fails. A
# command that can tell how far it is defines the function "so_far".
step() {
    local label=$1 log=$LOG_DIR/$2.log began=$SECONDS pid said=0
    shift 2
    say "$label ..."
    # A process group of its own: an interrupt must end all of it, and not
    # leave a build behind that nobody sees.
    set -m
    "$@" >"$log" 2>&1 </dev/null &
    pid=$!
    set +m
    trap 'kill -- -"$pid" 2>/dev/null; exit 130' INT TERM
    while kill -0 "$pid" 2>/dev/null; do
        sleep 0.5
        if ((SECONDS - began >= said + 20)); then
            said=$((SECONDS - began))
            say "  $(minutes "$said") $(if declare -F so_far >/dev/null; then so_far "$log" "$said"; fi)"
        fi
    done
    trap - INT TERM
    if ! wait "$pid"; then
        tail -n 30 "$log" >&2
        fail "$label: failed; all of its output is in $log"
    fi
    say "  done in $(minutes $((SECONDS - began)))"
}

# alone NAME: waits until no other run uses what is kept under that name.
alone() {
    local lock
    exec {lock}>"$CACHE_DIR/$1.lock"
    if ! flock --nonblock "$lock"; then
        say "waiting for another run that is building ($1) ..."
        flock "$lock"
    fi
}

# apt_install PACKAGE...: installs those that are missing.
apt_install() {
    local package missing=()
    for package; do
        dpkg-query --show --showformat='${Status}' "$package" 2>/dev/null | grep -q ' installed$' || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null || fail "this needs the Debian packages ${missing[*]}"
    [ "$(id -u)" = 0 ] || fail "install these first: sudo apt-get install ${missing[*]}"
    step "installing ${missing[*]}" apt apt_get_install "${missing[@]}"
}

apt_get_install() {
    export DEBIAN_FRONTEND=noninteractive
    apt-get install --yes --no-install-recommends "$@" && return
    # On a new machine the list of packages is missing or old.
    apt-get update && apt-get install --yes --no-install-recommends "$@"
}

module_version() { (cd "$CLUSTER_DIR" && go list -m -f '{{.Version}}' "$1"); }
module_dir() { (cd "$CLUSTER_DIR" && go mod download "$1" && go list -m -f '{{.Dir}}' "$1"); }

# hash FILE...: one hash of the contents of files and folders of this folder.
hash() {
    (
        cd "$CLUSTER_DIR" || exit
        find "$@" -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum
        go version
    ) | sha256sum | cut -c 1-16
}

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
