#!/usr/bin/env bash
# Deploys to a throwaway cluster, tests it and removes it.
#
# usage: test/cluster/run.sh PRODUCT [OTHER]     (make test-cluster, make test-minikube)
#        test/cluster/run.sh --short PRODUCT
#
# Sets up a cluster of its own name and ports with ./deploy.sh, made with PRODUCT
# (kind or minikube), runs test/cluster/live, a few of test/cluster/mutants and
# test/cluster/loop on it, removes it and checks that nothing is left: containers,
# volumes, networks, image tags, contexts. All the while there is a cluster that is
# not its own, made with the same product and stopped, which must stay as it is.
# One made with OTHER, if that is named, comes and goes beside it, --short.
#
#   --short   of live: six pods Ready, paying from outside, the network's edges,
#             stopping and starting, deploying again; of loop: a save that becomes
#             live; no mutants
#
#   CLUSTER_NAME (invoices-test), INVOICE_APP_PORT (18081), REGISTRY_PORT (15005)
set -o errexit -o nounset -o pipefail

. "$(dirname "$0")/../../cluster/lib.sh"
cd "$(dirname "$0")/../.."
arguments 1 2 "$@"

live=(-parallel=8) loop=() short='' # its parallel tests only wait
if [[ $1 == --short ]]; then
	short=yes
	live+=(-run='^(TestSixPodsAreReady|TestListAndPayFromOutside|TestOnlyInvoiceAppAnswersOutside|TestNetworkEdges|TestStoppingLosesNothing|TestDeployingAgainChangesNothing)$')
	loop+=(-run='^TestSaves$/^a_save_is_live')
	shift
fi
export CLUSTER_PRODUCT=${1-} CLUSTER_NAME=${CLUSTER_NAME:-invoices-test}
export INVOICE_APP_PORT=${INVOICE_APP_PORT:-18081} REGISTRY_PORT=${REGISTRY_PORT:-15005}
other=${2-}
case "$CLUSTER_PRODUCT $other" in
"kind " | "minikube " | "kind minikube" | "minikube kind") ;;
*)
	usage >&2
	exit 2
	;;
esac
. cluster/product.sh
# A cluster that is not ours: its name begins as ours does.
export NEIGHBOUR=$CLUSTER_NAME-$CLUSTER_PRODUCT

use_docker || fail "these tests need Docker, which does not answer; make test-local runs what does not need it"

go_test() { go -C test/cluster test -count=1 -timeout=40m -v "$@"; }

# make_neighbour: by its product alone, stopped. It is minikube's active profile, if none of yours is.
make_neighbour() {
	export CLUSTER_NAME=$NEIGHBOUR
	. cluster/product.sh
	prepare
	mkdir -p "$LIVE"
	definition | sed -e '1,/^---/d' -e '/^registry:/d' | ctlptl apply -f -
	stop_node
	if [[ -e ~/.minikube/profiles/$CLUSTER ]] && ! minikube config get profile; then
		minikube config set profile "$CLUSTER"
	fi
}
# deploy_to_both: to the one that this run is beside, too.
deploy_to_both() {
	env -u INVOICE_APP_PORT -u REGISTRY_PORT CLUSTER_PRODUCT="$BESIDE" ./deploy.sh &
	./deploy.sh
	wait $!
}
clean() {
	local code=0
	./deploy.sh --destroy || code=1
	CLUSTER_NAME=$NEIGHBOUR ./deploy.sh --destroy || code=1
	return $code
}

clean # what an interrupted run may have left
for product in $CLUSTER_PRODUCT $other; do
	CLUSTER_PRODUCT=$product workspace/run images # these stay, for the next time
done
PATH=$(workspace/run tools "${TOOLS[@]}"):$PATH
# As on a new machine, unless something that is there needs it.
[[ $(id -u) != 0 || $(docker ps --all --quiet) ]] || workspace/run privileged remove
workspace/run privileged install
trap clean EXIT
step "a cluster that is not ours, beside it" neighbour writing_kubeconfig make_neighbour
BEFORE=$(test/cluster/inventory.sh)
export BEFORE
./deploy.sh
[[ ! ${BESIDE-} ]] || step "deploying to both clusters at once" at-once deploy_to_both
go_test "${live[@]}" ./live
[[ $short ]] || go_test ./mutants
if [[ $other ]]; then
	pods() {
		for namespace in invoicing payments; do
			kubectl --context "$CONTEXT" --namespace "$namespace" get pods \
				--output=custom-columns=:.metadata.name,:.metadata.uid,:.status.containerStatuses[*].restartCount
		done
	}
	before=$(pods)
	INVOICE_APP_PORT=$((INVOICE_APP_PORT + 1)) REGISTRY_PORT=$((REGISTRY_PORT + 1)) BESIDE=$CLUSTER_PRODUCT \
		test/cluster/run.sh --short "$other"
	diff <(echo "$before") <(pods) || fail "cluster $CLUSTER is not as it was before the other came and went"
fi
[[ $short ]] || workspace/run need chromium chromium
go_test "${loop[@]}" ./loop
go_test ./teardown
trap - EXIT
