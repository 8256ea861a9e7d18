#!/usr/bin/env bash
# Builds and pushes $IMAGE, which skaffold names.
set -o errexit -o nounset -o pipefail
cd "$(dirname "$0")/../.."
bench/compile.sh bench/skaffold/bin
docker build --quiet --tag "$IMAGE" --file - bench/skaffold/bin <<'DOCKERFILE'
FROM scratch
COPY invoice-app /
ENTRYPOINT ["/invoice-app"]
DOCKERFILE
docker push --quiet "$IMAGE"
