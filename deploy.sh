#!/bin/sh
# Creates a Kubernetes cluster in Docker on this machine and deploys both services to it. See ./deploy.sh --help.
exec "$(dirname -- "$0")/workspace/run" deploy "$@"
