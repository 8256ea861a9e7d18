# The two products that a cluster is made with, kind and minikube, and all that
# differs between them. What reads this has read lib.sh, and has set
# CLUSTER_PRODUCT and CLUSTER_NAME; no script asks anywhere else which one it is.
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
    # choose: makes ctlptl's file of one that has lines for more than one case.
    choose() { cat; }
    # complete: what a cluster lacks that ctlptl has just made.
    complete() { :; }
    # start_node: also where it runs, and does not answer.
    start_node() { docker start "$NODE"; }
    # Killed after ten seconds, as by a power cut, which the databases can bear:
    # systemd would wait for the pods' processes for a minute and a half.
    stop_node() { docker stop "$NODE"; }
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
    choose() { if built; then sed '/# pulled/d'; else sed '/# built/d'; fi; }
    # kind applies these of its node image by itself. And images are to have the
    # one name for the node that they have for this machine, as with kind.
    complete() {
        if built; then
            docker exec "$NODE" kubectl --kubeconfig /etc/kubernetes/admin.conf apply --filename /kind/manifests || return
        fi
        k get configmap local-registry-hosting --namespace kube-public --output yaml |
            sed '/hostFromContainerRuntime:/d' | k replace --filename -
    }
    # The node has a fixed address, which the registry may have got meanwhile. It
    # stays what it was made as, whatever the user has set for clusters to come.
    start_node() {
        local version
        version=$(sed -n 's/^ *"KubernetesVersion": "\(.*\)",$/\1/p' ~/.minikube/profiles/"$CLUSTER"/config.json | head -n 1)
        docker network disconnect "$NETWORK" "$REGISTRY" 2>/dev/null || true
        minikube start --profile "$CLUSTER" --force --preload=false --cache-images=false \
            --driver=docker --container-runtime=containerd --kubernetes-version="$version"
    }
    stop_node() { minikube stop --profile "$CLUSTER" --keep-context-active; }
    export_context() { minikube update-context --profile "$CLUSTER"; }
    # Whichever it deletes, minikube forgets which profile is the user's active one.
    delete_cluster() {
        local active
        active=$(minikube config get profile 2>/dev/null) || true
        minikube delete --profile "$CLUSTER"
        case $active in '' | "$CLUSTER") ;; *) minikube config set profile "$active" ;; esac
    }
    ;;
*)
    fail "$CLUSTER_PRODUCT: a cluster is made with kind or minikube"
    ;;
esac

# How this cluster is named to a command.
NAMED=$([ "$CLUSTER_NAME" = invoices ] || printf 'CLUSTER_NAME=%s ' "$CLUSTER_NAME")

# What tilt up builds. Outside the clone, which may be moved or cleaned while
# the cluster runs.
LIVE=$CACHE_DIR/live/$CLUSTER

# definition: prints ctlptl's file for the cluster of this name, with
# INVOICE_APP_PORT and REGISTRY_PORT in it.
definition() {
    sed -e "s/^port: 5005/port: $REGISTRY_PORT/" -e "s/\(hostPort: \|:\)8081\>/\1$INVOICE_APP_PORT/" \
        -e "s/\<invoices\>\([^/]\|\$\)/$CLUSTER_NAME\1/" -e "s|\.build/live|$LIVE|" "$DEFINITION" | choose
}

# made_with VARIABLE: prints the port that the cluster was made with, which its
# node knows while it is stopped as well.
made_with() {
    case $1 in
    INVOICE_APP_PORT) docker container inspect --format '{{(index .HostConfig.PortBindings "30081/tcp" 0).HostPort}}' "$NODE" ;;
    REGISTRY_PORT) docker cp "$NODE:/etc/containerd/certs.d" - | tar --list | sed -n 's|.*/localhost:\([0-9]*\)/$|\1|p' ;;
    esac
}
