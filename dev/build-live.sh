#!/usr/bin/env bash
# Builds a service into the pods that tilt up runs.
#
# usage: dev/build-live.sh [--debug] SERVICE FOLDER CONTEXT NAMESPACE
#
# Builds SERVICE as FOLDER/SERVICE/SERVICE, where every pod of it sees that it is new. What has not
# changed is not replaced, and what does not compile replaces nothing. After a change of migrations
# the pods of NAMESPACE, in the cluster that kubectl knows as CONTEXT, are restarted one by one: their
# init container alone may change the schema.
#
# With --debug it is built for a debugger, which is put beside it, and every change restarts the pod.
set -o errexit -o nounset -o pipefail

. "$(dirname "$0")/usage.sh"
debug=''
if [[ ${1-} == --debug ]]; then
	debug=yes
	shift
fi
arguments 4 4 "$@"
service=$1 new=$2/$1.new source=$2/$1.source binary=$2/$1/$1 context=$3 namespace=$4
cd "$(dirname "$0")/.."

mkdir -p "${binary%/*}"
: >"$binary.begun" # its time is when the build began: the supervisor shows how long it took
# Packages are compiled as for the image, so that either finds them done. Linking is most of a
# build, and what is left out here is not linked.
flags=(-ldflags='-s -w')
if [[ $debug ]]; then
	flags=(-gcflags='example.com/invoices/...=-N -l') # our own code as it is written
	CGO_ENABLED=0 GOOS=linux GOWORK=off go -C tools/delve build -trimpath -buildvcs=false -ldflags='-s -w' -o "${binary%/*}/dlv" github.com/go-delve/delve/cmd/dlv
fi
# From a copy, in which nothing is saved meanwhile: Go looks up what it has compiled by what a file held
# when the build began. A save before the file is compiled would be kept under the old content's name,
# and come back with an undo.
rm -rf "$source"
mkdir "$source"
cp -r go.mod go.sum internal "$service" "$source"
CGO_ENABLED=0 GOOS=linux go -C "$source" build -trimpath -buildvcs=false -tags=nosqlite "${flags[@]}" -o "$new" "./$service"

if cmp -s "$new" "$binary"; then
	rm "$new"
	echo "nothing has changed in $service"
else
	mv "$new" "$binary"
	echo "$service is delivered to its pods"
	[[ ! $debug ]] || : >"$binary.restart"
fi

# Without a known state there are no pods yet, or pods that Tilt is about to replace.
migrations=$(cat "$service"/store/migrations/postgres/* | cksum)
known=$(cat "$binary.migrations" 2>/dev/null || true)
[[ ! $known || $known == "$migrations" ]] || : >"$binary.restart"
echo "$migrations" >"$binary.migrations"
if [[ -e $binary.restart ]]; then # until it was done
	in_cluster=(kubectl --context="$context" --namespace="$namespace")
	deployment=$("${in_cluster[@]}" get deployment "$service" --ignore-not-found --output=name)
	[[ -z $deployment ]] || "${in_cluster[@]}" rollout restart "$deployment"
	rm "$binary.restart"
fi
