# How minikube, and the crictl that it looks for on its node, are compiled. Each
# has a go.mod of its own: they agree neither with the others nor among
# themselves on what they are made of.
# shellcheck shell=bash

# compile_minikube FOLDER
compile_minikube() {
    local version
    command -v go >/dev/null || fail "this needs Go: https://go.dev/dl"
    # A driver of minikube's that nobody uses here needs C.
    command -v cc >/dev/null || apt_install gcc libc6-dev
    version=$(go -C "$CLUSTER_DIR/minikube" list -m -f '{{.Version}}' k8s.io/minikube)
    mkdir -p "$1"
    step "compiling minikube" minikube go -C "$CLUSTER_DIR/minikube" build -v -trimpath -tags libvirt_dlopen \
        -ldflags "-s -w -X k8s.io/minikube/pkg/version.version=$version -X k8s.io/minikube/pkg/version.storageProvisionerVersion=v5" \
        -o "$1/" k8s.io/minikube/cmd/minikube
}

# compile_crictl FOLDER
compile_crictl() {
    mkdir -p "$1"
    step "compiling crictl" crictl env CGO_ENABLED=0 go -C "$CLUSTER_DIR/minikube/crictl" build -v -trimpath -ldflags '-s -w' \
        -o "$1/" sigs.k8s.io/cri-tools/cmd/crictl
}
