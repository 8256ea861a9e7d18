#!/usr/bin/env bash
# Measures how long a save takes to be live.
#
# usage: bench/loop.sh     (make bench-loop)
#
# Edits invoice-app again and again, and measures the time until all three
# replicas on a throwaway cluster give the new answer: with this project's
# tilt up, and with those that it is compared with. The results go to
# bench/results/loop-$CLUSTER_PRODUCT. Run it on a machine that does nothing
# else; it takes about a quarter of an hour, and five minutes more the first
# time, for skaffold.
#
#   EDITS (15)                of each
#   CLUSTER_PRODUCT (kind)    or minikube
#   CLUSTER_NAME (invoices-bench), INVOICE_APP_PORT (28081), REGISTRY_PORT (25005)
set -o errexit -o nounset -o pipefail

. "$(dirname "$0")/../cluster/lib.sh"
arguments 0 0 "$@"

cd "$(dirname "$0")/.."
export CLUSTER_PRODUCT=${CLUSTER_PRODUCT:-kind}
export CLUSTER_NAME=${CLUSTER_NAME:-invoices-bench} INVOICE_APP_PORT=${INVOICE_APP_PORT:-28081} REGISTRY_PORT=${REGISTRY_PORT:-25005}
. cluster/product.sh
clean() {
	./deploy.sh --destroy
	docker image ls --quiet "localhost:$REGISTRY_PORT/*" | sort --unique | xargs --no-run-if-empty docker rmi --force >/dev/null
}
trap clean EXIT
./deploy.sh
PATH=$(workspace/run tools):$PATH
echo "compiling skaffold, once ..."
mkdir -p .build/bench
GOWORK=off go -C tools/skaffold build -trimpath -buildvcs=false -ldflags='-s -w' -o ../../.build/bench/skaffold github.com/GoogleContainerTools/skaffold/v2/cmd/skaffold
CGO_ENABLED=0 GOOS=linux go -C bench build -trimpath -o ../.build/bench/watcher ./watcher
PATH=$PWD/.build/bench:$PATH
go -C bench run ./loop -edits "${EDITS:-15}" -cluster "$CLUSTER" -context "$CONTEXT" -node "$NODE" \
	-results "loop-$CLUSTER_PRODUCT" >.build/bench/report
trap - EXIT
clean
cat .build/bench/report
