#!/usr/bin/env bash
# Compiles invoice-app for a peer, as workspace/run build-live does for our loop.
#
# usage: bench/compile.sh FOLDER     invoice-app is put there
set -o errexit -o nounset -o pipefail
. "$(dirname "$0")/../dev/usage.sh"
arguments 1 1 "$@"
cd "$(dirname "$0")/.."
mkdir -p "$1"
: >"$1.begun" # its time is when the compiler was started
CGO_ENABLED=0 GOOS=linux go build -trimpath -buildvcs=false -tags=nosqlite -ldflags='-s -w' -o "$1/invoice-app.new" ./invoice-app
mv "$1/invoice-app.new" "$1/invoice-app"
