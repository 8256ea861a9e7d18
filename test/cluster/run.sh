#!/usr/bin/env bash
# Deploys to a throwaway cluster, tests it and removes it: see --help.
set -o errexit -o nounset -o pipefail

usage() {
	cat <<'USAGE'
usage: test/cluster/run.sh     (make test-cluster)

Sets up a cluster of its own name and ports with ./deploy.sh, beside any other,
runs test/cluster/live on it, removes it and checks that nothing is left:
containers, volumes, networks, image tags.

  CLUSTER_NAME (invoices-test), INVOICE_APP_PORT (18081), REGISTRY_PORT (15005)
USAGE
}

case "${1-}" in
"") ;;
-h | --help)
	usage
	exit
	;;
*)
	usage >&2
	exit 2
	;;
esac

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export CLUSTER_NAME=${CLUSTER_NAME:-invoices-test} INVOICE_APP_PORT=${INVOICE_APP_PORT:-18081} REGISTRY_PORT=${REGISTRY_PORT:-15005}

if ! docker version >/dev/null 2>&1; then
	echo "these tests need Docker, which does not answer; make test-local runs what does not need it" >&2
	exit 1
fi

# What is on this machine's Docker. The cluster's own images stay, for the next
# time: they are in place before the first look.
inventory() {
	docker container ls --all --format 'container {{.Names}}'
	docker volume ls --format 'volume {{.Name}}'
	docker network ls --format 'network {{.Name}}'
	docker image ls --format 'image {{.Repository}}:{{.Tag}}'
}

./deploy.sh --destroy # what an interrupted run may have left
cluster/images
before=$(inventory | sort)
trap './deploy.sh --destroy' EXIT
./deploy.sh
tools=$(cluster/tools)
PATH=$tools:$PATH go -C test/cluster test -count=1 -timeout=30m -v ./live
trap - EXIT
./deploy.sh --destroy
left=$(comm -13 <(echo "$before") <(inventory | sort))
if [[ $left ]]; then
	echo "left behind on Docker (or made by somebody else meanwhile):" "$left" >&2
	exit 1
fi
echo "the cluster is removed, and nothing of it is left"
