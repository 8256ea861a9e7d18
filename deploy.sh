#!/bin/sh
# Sets up a real Kubernetes cluster on this machine's Docker and deploys both services to it: see ./deploy.sh --help.
exec "$(dirname -- "$0")/workspace/run" deploy "$@"
