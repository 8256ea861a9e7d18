#!/usr/bin/env bash
# Builds the image of one service, FROM scratch with a static binary in it and nothing else, and
# pushes it to the cluster's registry. The same source gives the same digest.
#
# usage: dev/build-image.sh SERVICE FOLDER
#
# SERVICE is invoice-app, payment-provider or, for tilt up, supervisor. EXPECTED_REGISTRY is where to
# push to, such as localhost:5005; Tilt sets it to the registry of its cluster. The image's full name,
# tagged with a hash of its content, is written to FOLDER/SERVICE.ref and printed. FOLDER/SERVICE keeps
# the program; each cluster has a FOLDER of its own, so that two may be deployed to at once.
set -o errexit -o nounset -o pipefail

. "$(dirname "$0")/usage.sh"
arguments 2 2 "$@"

case $1 in
invoice-app)
	description="Invoices: keeps invoices and pays them through payment-provider"
	user=10001
	;;
payment-provider)
	description="Payments: pays each invoice once"
	user=10002
	;;
supervisor)
	description="Development: runs a service that is built on the developer's machine"
	user=65532
	;;
*)
	usage >&2
	exit 2
	;;
esac
service=$1 folder=$2
package=./$service
[[ $service != supervisor ]] || package=./dev/supervisor
registry=${EXPECTED_REGISTRY:?is the registry to push to; Tilt sets it}
cd "$(dirname "$0")/.."

crane() {
	if type -P crane >/dev/null; then
		command crane "$@"
	else
		go -C tools/cluster tool crane "$@"
	fi
}

# No paths, no version control state, no build id: nothing of the machine gets into the binary. Nor
# does SQLite: a cluster has PostgreSQL.
mkdir -p "$folder/$service"
work=$(cd "$folder/$service" && pwd)
architecture=$(go env GOARCH)
CGO_ENABLED=0 GOOS=linux go build -trimpath -buildvcs=false -tags=nosqlite -ldflags='-s -w -buildid=' \
	-o "$work/$service" "$package"

# Nor into the layer: no times, no owners, one order.
tar --create --file="$work/layer.tar" --directory="$work" --format=ustar --mtime=@0 \
	--owner=0 --group=0 --numeric-owner --mode=0555 "$service"

# This script decides everything about the image that the layer does not.
tag=$(cat "$work/layer.tar" dev/build-image.sh | sha256sum | cut -c1-16)
ref=$registry/$service:$tag

if ! crane digest "$ref" >/dev/null 2>&1; then
	base=$(crane append --oci-empty-base --new_layer="$work/layer.tar" --new_tag="$registry/$service:unfinished")
	crane mutate "$base" --tag="$ref" \
		--set-platform="linux/$architecture" \
		--entrypoint="/$service" \
		--user="$user:$user" \
		--label="org.opencontainers.image.title=$service" \
		--label="org.opencontainers.image.description=$description" >/dev/null
fi

echo "$ref" >"$work.ref"
echo "$ref"
