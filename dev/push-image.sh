#!/usr/bin/env bash
# Pushes an image that Docker has to the cluster's registry.
#
# usage: dev/push-image.sh IMAGE NAME FOLDER
#
# Pushes IMAGE as NAME to EXPECTED_REGISTRY, such as localhost:5005; Tilt sets it to the registry of
# its cluster. The full name, tagged with a hash of the image's content, is written to
# FOLDER/NAME.ref and printed.
set -o errexit -o nounset -o pipefail

. "$(dirname "$0")/usage.sh"
arguments 3 3 "$@"
image=$1 name=$2 folder=$3
registry=${EXPECTED_REGISTRY:?is the registry to push to; Tilt sets it}
cd "$(dirname "$0")/.."

id=$(docker image inspect --format='{{.Id}}' "$image")
tag=${id#sha256:}
ref=$registry/$name:${tag:0:16}
docker tag "$image" "$ref"
docker push --quiet "$ref" >/dev/null
docker rmi "$ref" >/dev/null # only the name: the image stays under its own

mkdir -p "$folder"
echo "$ref" >"$folder/$name.ref"
echo "$ref"
