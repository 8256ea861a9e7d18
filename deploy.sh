#!/usr/bin/env bash
# Sets up a real Kubernetes cluster on this machine's Docker and deploys both
# services and their databases to it, through the Tiltfile. Each team gets a
# kubeconfig of its own rights, in .build/kubeconfig/$CLUSTER_NAME.
#
#   ./deploy.sh                      what is missing; run again, what has changed
#   ./deploy.sh --force    (-f)      from scratch: destroys the cluster first
#   ./deploy.sh --destroy  (-d)      removes the cluster with all that is in it
#   ./deploy.sh --stop     (-s)      stops it, and keeps its data for the next run
#   ./deploy.sh --images pull        pulls the images, and never builds them
#   ./deploy.sh --images source      builds them, and never pulls
#   ./deploy.sh --cluster minikube   any of these with minikube, not kind
#
# A second cluster beside the first one takes another product or name, and the
# ports that it is told once:
#
#   CLUSTER_PRODUCT   (kind)         the same as --cluster
#   CLUSTER_NAME      (invoices)     its kubectl context is kind-$CLUSTER_NAME,
#                                    or minikube-$CLUSTER_NAME
#   INVOICE_APP_PORT  (8081)         where invoice-app answers, on localhost
#   REGISTRY_PORT     (5005)         the registry for this cluster's images
#
# Only this cluster's own context is ever used, and a current one of yours
# stays the current one.
set -o errexit -o nounset -o pipefail
. "$(dirname "$0")/cluster/lib.sh"
cd "$(dirname "$0")"

export CLUSTER_NAME=${CLUSTER_NAME:-invoices}
export CLUSTER_PRODUCT=${CLUSTER_PRODUCT:-kind}
export DO_NOT_TRACK=1 TILT_CLOUD_ADDRESS=localhost:1

k() { kubectl --context "$CONTEXT" "$@"; }
state_of() { docker container inspect --format '{{.State.Status}}' "$1" 2>/dev/null || true; }

usage_error() {
    say "$0: $1"
    usage >&2
    exit 2
}

force='' destroy='' halt='' images=''
while [ $# -gt 0 ]; do
    case $1 in
    -f | --force) force=yes ;;
    -d | --destroy) destroy=yes ;;
    -s | --stop) halt=yes ;;
    --images)
        case ${2:-} in
        pull | source) images=$2 ;;
        *) usage_error '--images is pull or source' ;;
        esac
        shift
        ;;
    --cluster)
        CLUSTER_PRODUCT=${2:-}
        shift $(($# > 1))
        ;;
    -h | --help) usage; exit 0 ;;
    *) usage_error "unknown option: $1" ;;
    esac
    shift
done
[ "$force$destroy$halt" = "${force:-${destroy:-$halt}}" ] || usage_error '--force, --destroy and --stop: one of them'
[[ $CLUSTER_NAME =~ ^[a-z0-9][a-z0-9-]*$ && $CLUSTER_NAME != minikube-* ]] ||
    usage_error "CLUSTER_NAME=$CLUSTER_NAME: only a-z, 0-9 and -, and not minikube-..."
. cluster/product.sh

REGISTRY=$CLUSTER-registry
LOG_DIR=$LOG_DIR/$CLUSTER
AGAIN=$NAMED$0$OPTION # this script, for this cluster
EVIDENCE=.evidence/$CLUSTER
KUBECONFIGS=.build/kubeconfig/$CLUSTER
# There while a cluster is being created: what is there then is of no use.
UNFINISHED=$CACHE_DIR/$CLUSTER.unfinished

mkdir -p "$LOG_DIR"
# Whatever this script starts holds the lock as well, until it has ended.
exec {lock}>"$CACHE_DIR/cluster-$CLUSTER.lock"
flock --nonblock "$lock" || fail "another $0 is at work on cluster $CLUSTER: wait for it, or stop it"

use_docker 2>"$LOG_DIR/docker.log" ||
    fail "Docker does not answer. Is it installed, running (sudo systemctl start docker), and may you use it?
$(cat "$LOG_DIR/docker.log")"
prepare

# others CONTAINER IMAGE: there is one of that name that is not ours.
others() { [ -n "$(state_of "$1")" ] && [ "$(docker container inspect --format '{{.Config.Image}}' "$1")" != "$2" ]; }
if others "$NODE" "$NODE_IMAGE" || others "$REGISTRY" invoices/registry:local; then
    fail "there is a container $NODE or $REGISTRY that was not made by this script: choose another CLUSTER_NAME"
fi

remove_cluster() {
    say "removing cluster $CLUSTER ..."
    # The registry first: a network that it is in would be left behind.
    docker ps --all --quiet --filter "name=^/$REGISTRY\$" | xargs --no-run-if-empty docker rm --force --volumes >/dev/null
    # The product takes the context out of the kubeconfig; where it is missing,
    # it was never there to put one in. Docker is asked for the rest, so that
    # half a cluster goes away as well.
    if PATH=$CACHE_DIR/bin:$PATH command -v "$CLUSTER_PRODUCT" >/dev/null; then
        PATH=$CACHE_DIR/bin:$PATH writing_kubeconfig delete_cluster
    fi
    docker ps --all --quiet --filter "label=$NODE_LABEL" | xargs --no-run-if-empty docker rm --force --volumes >/dev/null
    docker volume ls --quiet --filter "label=$NODE_LABEL" | xargs --no-run-if-empty docker volume rm >/dev/null
    docker network ls --quiet --filter "name=^$NETWORK\$" | xargs --no-run-if-empty docker network rm >/dev/null
    rm -rf "$UNFINISHED" "$LIVE" "$KUBECONFIGS"
}

if [ -n "$halt" ]; then
    case $(state_of "$NODE") in
    '') say "there is no cluster $CLUSTER"; exit 0 ;;
    paused) docker unpause "$NODE" >/dev/null ;;&
    running | paused) PATH=$CACHE_DIR/bin:$PATH step "stopping cluster $CLUSTER" stop stop_node ;;
    esac
    docker ps --quiet --filter "name=^/$REGISTRY\$" | xargs --no-run-if-empty docker stop >/dev/null
    say "it is stopped: $AGAIN starts it again, with its data"
    exit 0
fi

if [ -n "$destroy$force" ]; then
    remove_cluster
    [ -z "$destroy" ] || { say "nothing is left of it but the images, for the next time"; exit 0; }
elif [ -e "$UNFINISHED" ]; then
    say "creating the cluster was interrupted the last time: starting over"
    remove_cluster
fi

# A cluster keeps the ports that it was made with.
if [ -n "$(state_of "$NODE")" ]; then
    for variable in INVOICE_APP_PORT REGISTRY_PORT; do
        made=$(made_with "$variable")
        [ "${!variable:=$made}" = "$made" ] ||
            fail "cluster $CLUSTER was made with $variable=$made, and keeps it: leave $variable out, or make the cluster anew with --force, which loses the data"
    done
fi
INVOICE_APP_PORT=${INVOICE_APP_PORT:-8081} REGISTRY_PORT=${REGISTRY_PORT:-5005}

# They are taken when the containers start. All that are not free are named at
# once, each with one that is.
in_use() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
used='' free=''
# needs CONTAINER VARIABLE
needs() {
    local port=${!2} user
    if [[ ! $port =~ ^[1-9][0-9]{0,4}$ ]] || ((port > 65535)); then usage_error "$2=$port is no port"; fi
    case $(state_of "$1") in running | paused) return ;; esac
    in_use "$port" || return 0
    user=$(docker ps --filter "publish=$port" --format '{{.Names}}')
    used+="port $port is in use${user:+ by the container $user}; "
    while in_use $((++port)); do :; done
    free+="$2=$port "
}
needs "$NODE" INVOICE_APP_PORT
needs "$REGISTRY" REGISTRY_PORT
if [ -n "$used" ] && [ -n "$(state_of "$NODE")" ]; then
    fail "${used}cluster $CLUSTER was made with it and cannot do without: stop what uses it"
elif [ -n "$used" ]; then
    fail "${used}stop what uses it, or let this cluster have another:
  $free$AGAIN"
fi

# The teams' certificates are made with it: to miss it now is better than after minutes of building.
workspace/run need openssl openssl
run workspace/run tools "${TOOLS[@]}" >/dev/null
PATH=$CACHE_DIR/bin:$PATH
run workspace/run images ${images:+"$images"}
run workspace/run privileged install

# is_newest CONTAINER IMAGE: it runs the image that the tag is now.
is_newest() { [ "$(docker container inspect --format '{{.Image}}' "$1")" = "$(docker image inspect --format '{{.Id}}' "$2")" ]; }
api_answers() { k --request-timeout 5s get --raw /readyz >/dev/null 2>&1; }
api_ready() {
    local until=$((SECONDS + 180))
    until api_answers; do
        ((SECONDS < until)) || return 1
        sleep 1
    done
}
# start_again: also what runs and does not answer, since starting it was
# interrupted, or has given it another address than this kubeconfig knows.
start_again() { start_node && export_context; }

if [ "$(state_of "$NODE")" = paused ]; then docker unpause "$NODE" >/dev/null; fi
if [ -n "$(state_of "$NODE")" ] && ! api_answers; then
    step "starting $NODE" start writing_kubeconfig start_again
    step "waiting for the cluster to answer" api api_ready
fi
# ctlptl would replace it as well, but leave its volume behind.
if [ -n "$(state_of "$REGISTRY")" ] && ! is_newest "$REGISTRY" invoices/registry:local; then
    docker rm --force --volumes "$REGISTRY" >/dev/null
fi
case $(state_of "$REGISTRY") in
'' | running) ;;
paused) docker unpause "$REGISTRY" >/dev/null ;;
*) docker start "$REGISTRY" >/dev/null ;;
esac
if [ -n "$(state_of "$NODE")" ]; then
    is_newest "$NODE" "$NODE_IMAGE" ||
        say "note: $NODE_IMAGE is newer than this cluster's node; $AGAIN --force changes over, and loses the data"
    docker container inspect --format '{{range .Mounts}}{{println .Destination}}{{end}}' "$NODE" | grep -qx /live ||
        say "note: this cluster is older than the folder /live, which tilt up needs; $AGAIN --force makes it anew, and loses the data"
    # ctlptl would replace a cluster that was defined otherwise, or does not
    # answer, and all its data: of one that is there, it only looks after the
    # registry.
    parts="/^---/,\$d"
else
    touch "$UNFINISHED"
    parts=''
fi
mkdir -p "$LIVE"
apply() { definition | sed "$parts" | ctlptl apply -f - && { [ -n "$parts" ] || complete; }; }
step "cluster $CLUSTER and its registry" ctlptl writing_kubeconfig apply
# A registry that had to be made anew is not in the cluster's network.
docker network inspect --format '{{range .Containers}}{{.Name}} {{end}}' "$NETWORK" | grep -qw -- "$REGISTRY" ||
    docker network connect "$NETWORK" "$REGISTRY"
step "waiting for the node" node k wait node --all --for=condition=Ready --timeout=180s
rm -f "$UNFINISHED"

mkdir -p "$EVIDENCE"
# What there is to know when something has gone wrong, most telling part last.
collect_evidence() {
    local namespace pod
    k get all --all-namespaces --output wide >"$EVIDENCE/objects.txt" 2>&1
    k get events --all-namespaces --sort-by .lastTimestamp >"$EVIDENCE/events.txt" 2>&1
    k describe nodes >"$EVIDENCE/nodes.txt" 2>&1
    : >"$EVIDENCE/pods.txt"
    k get pods --all-namespaces --no-headers | awk '{ split($3, ready, "/"); if (ready[1] != ready[2] && $4 != "Completed") print $1, $2 }' |
        while read -r namespace pod; do
            {
                k describe pod --namespace "$namespace" "$pod"
                k logs --namespace "$namespace" "$pod" --all-containers --prefix --tail 40 --previous 2>/dev/null
                k logs --namespace "$namespace" "$pod" --all-containers --prefix --tail 40
            } </dev/null >>"$EVIDENCE/pods.txt" 2>&1
        done
    tail -n 20 "$EVIDENCE/events.txt" >&2
    tail -n 100 "$EVIDENCE/pods.txt" >&2
}

# tilt ci is silent while it waits, so somebody has to say that it does.
heartbeat() {
    local began=$SECONDS
    while sleep 20; do
        say "  $(minutes $((SECONDS - began))) pods ready: $(k get pods --all-namespaces --no-headers 2>/dev/null |
            awk '$1 !~ /^(kube-|local-path)/ && $4 != "Completed" { all++; split($3, ready, "/"); if (ready[1] == ready[2]) up++ } END { print up + 0 " of " all + 0 }')"
    done
}

say "deploying what the Tiltfile says ..."
# By its port Tilt names the kubeconfig that it gives to the Tiltfile's commands:
# two that run at once need two ports, and 0 is the same one.
until port=$((49152 + RANDOM % 16384)) && ! in_use "$port"; do :; done
tilt_ci() { tilt ci --context "$CONTEXT" --port "$port" --output-snapshot-on-exit "$EVIDENCE/tilt-snapshot.json" 2>&1 | tee "$EVIDENCE/tilt-ci.log"; }
start heartbeat
heartbeat=$started
trap 'stop "$heartbeat"' EXIT
if ! run tilt_ci; then
    say "tilt ci failed. What follows is from the pods that are not ready; all of it is in $EVIDENCE"
    collect_evidence || true
    fail "deploying failed: see above, and $EVIDENCE. Run $AGAIN again when it is mended; $AGAIN --force starts over"
fi

say "
invoice-app answers at http://localhost:$INVOICE_APP_PORT, payment-provider inside the cluster only. Next:
  export PATH=\"\$(workspace/run tools):\$PATH\"
  kubectl --context $CONTEXT get pods --all-namespaces
  kubectl --kubeconfig $KUBECONFIGS/team-payments get pods       as that team, with its rights only
  ${NAMED}tilt up --context $CONTEXT       the same, live
  $AGAIN --stop, or --destroy"
