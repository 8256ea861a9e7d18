#!/usr/bin/env bash
# Deploys to a throwaway cluster, tests it and removes it.
#
# usage: test/cluster/run.sh [--short]     (make test-cluster, make test-minikube)
#
# Sets up a cluster of its own name and ports with ./deploy.sh, beside any other,
# runs test/cluster/live, a few of test/cluster/mutants and test/cluster/loop on
# it, removes it and checks that nothing is left: containers, volumes, networks,
# image tags. Then it does so with minikube, --short.
#
#   --short           of live: six pods Ready, paying from outside, the network's edges, deploying again;
#                     of loop: a save that becomes live; no mutants
#   CLUSTER_PRODUCT   kind, or minikube (see ./deploy.sh --help)
#   CLUSTER_NAME (invoices-test), INVOICE_APP_PORT (18081), REGISTRY_PORT (15005)
set -o errexit -o nounset -o pipefail

. "$(dirname "$0")/../../dev/usage.sh"
arguments 0 1 "$@"

live=(-parallel=8) loop=() short='' # its parallel tests only wait
case "${1-}" in
"") ;;
--short)
	short=yes
	live+=(-run='^(TestSixPodsAreReady|TestListAndPayFromOutside|TestOnlyInvoiceAppAnswersOutside|TestNetworkEdges|TestDeployingAgainChangesNothing)$')
	loop+=(-run='^TestSaves$/^a_save_is_live')
	;;
*)
	usage >&2
	exit 2
	;;
esac

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export CLUSTER_NAME=${CLUSTER_NAME:-invoices-test} INVOICE_APP_PORT=${INVOICE_APP_PORT:-18081} REGISTRY_PORT=${REGISTRY_PORT:-15005}
export CLUSTER_PRODUCT=${CLUSTER_PRODUCT:-kind}

if ! docker version >/dev/null 2>&1; then
	echo "these tests need Docker, which does not answer; make test-local runs what does not need it" >&2
	exit 1
fi

./deploy.sh --destroy # what an interrupted run may have left
cluster/images        # these stay, for the next time
BEFORE=$(test/cluster/inventory.sh)
export BEFORE
trap './deploy.sh --destroy' EXIT
./deploy.sh
PATH=$(cluster/tools):$PATH
go -C test/cluster test -count=1 -timeout=30m "${live[@]}" -v ./live
if [[ ! $short ]]; then
	go -C test/cluster test -count=1 -timeout=30m -v ./mutants
	dev/need.sh chromium chromium
fi
go -C test/cluster test -count=1 -timeout=40m "${loop[@]}" -v ./loop
go -C test/cluster test -count=1 -v ./teardown
trap - EXIT

[[ $short ]] || CLUSTER_PRODUCT=minikube test/cluster/run.sh --short
