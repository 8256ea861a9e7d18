# The two products that a cluster is made with, kind and minikube, and all that
# differs between them. What reads this has set CLUSTER_PRODUCT, CLUSTER_NAME
# and CACHE_DIR; no script asks anywhere else which one it is.
# shellcheck shell=bash disable=SC2034

case $CLUSTER_PRODUCT in
kind)
    OPTION=''                                      # of deploy.sh
    CLUSTER=$CLUSTER_NAME                          # no other cluster of this machine has this name
    CONTEXT=kind-$CLUSTER_NAME                     # kubectl's
    NODE=$CLUSTER_NAME-control-plane               # the node's container,
    NODE_LABEL=io.x-k8s.kind.cluster=$CLUSTER_NAME # how Docker finds it,
    NODE_IMAGE=invoices/node:local                 # and its image
    # A network of its own goes away with the cluster, and is shared with no other.
    NETWORK=kind-$CLUSTER_NAME
    export KIND_EXPERIMENTAL_DOCKER_NETWORK=$NETWORK
    DEFINITION=ctlptl.yaml
    TOOLS=() # more than every cluster needs

    # prepare: once Docker answers. On this storage driver kind would switch the
    # node to one that needs another program; the node's own disk is a volume,
    # where the default works.
    prepare() {
        if [ "$(docker info --format '{{.Driver}}')" = fuse-overlayfs ]; then
            export KIND_EXPERIMENTAL_CONTAINERD_SNAPSHOTTER=overlayfs
        fi
    }
    # define: makes ctlptl's file of one that has lines for more than one case.
    define() { cat; }
    # complete: what a cluster lacks that ctlptl has just made.
    complete() { :; }
    start_node() { docker start "$NODE"; }
    export_context() { kind export kubeconfig --quiet --name "$CLUSTER_NAME"; }
    delete_cluster() { kind delete cluster --quiet --name "$CLUSTER_NAME"; }
    ;;
minikube)
    OPTION=' --cluster minikube'
    # The profile, its container and its network: ctlptl and Tilt know minikube
    # by a name that begins with it.
    CLUSTER=minikube-$CLUSTER_NAME
    CONTEXT=$CLUSTER
    NODE=$CLUSTER
    NODE_LABEL=name.minikube.sigs.k8s.io=$CLUSTER
    NODE_IMAGE=invoices/minikube:local
    NETWORK=$CLUSTER
    DEFINITION=ctlptl-minikube.yaml
    TOOLS=(minikube)

    prepare() { :; }
    # A pulled image was made from a name with a slash, a built one from hashes.
    built() { [[ $(docker image inspect --format '{{index .Config.Labels "invoices.inputs"}}' "$NODE_IMAGE") != */* ]]; }
    define() { if built; then sed '/# pulled/d'; else sed '/# built/d'; fi; }
    # kind applies these of its node image by itself. And images are to have the
    # one name for the node that they have for this machine, as with kind.
    complete() {
        ! built || docker exec "$NODE" kubectl --kubeconfig /etc/kubernetes/admin.conf apply --filename /kind/manifests
        k get configmap local-registry-hosting --namespace kube-public --output yaml |
            sed '/hostFromContainerRuntime:/d' | k replace --filename -
    }
    # The node has a fixed address, which the registry may have got meanwhile.
    start_node() {
        docker network disconnect "$NETWORK" "$REGISTRY" 2>/dev/null || true
        minikube start --profile "$CLUSTER" --force --preload=false --cache-images=false
    }
    export_context() { minikube update-context --profile "$CLUSTER"; }
    delete_cluster() { minikube delete --profile "$CLUSTER"; }
    ;;
*)
    fail "$CLUSTER_PRODUCT: a cluster is made with kind or minikube"
    ;;
esac
