#!/usr/bin/env bash
# Gives each database's two roles a random password, once: what is there already stays as it is.
#
# usage: dev/make-passwords.sh CONTEXT NAMESPACE...
#
# Makes the Secrets postgres-owner and postgres-application in each NAMESPACE of the cluster that
# kubectl knows as CONTEXT. Each holds a PostgreSQL passfile. A password is never printed, never on a
# command line and never in a file of this machine.
set -o errexit -o nounset -o pipefail

. "$(dirname "$0")/usage.sh"
arguments 2 99 "$@"
context=$1
shift

for namespace; do
	for role in owner application; do
		if [[ -n $(kubectl --context="$context" --namespace="$namespace" \
			get secret "postgres-$role" --ignore-not-found --output=name) ]]; then
			echo "$namespace/postgres-$role is there already"
			continue
		fi
		password=$(od --address-radix=n --format=x1 --read-bytes=24 /dev/urandom | tr -d ' \n')
		kubectl --context="$context" create --filename=- <<SECRET
apiVersion: v1
kind: Secret
metadata:
  name: postgres-$role
  namespace: $namespace
  labels:
    app.kubernetes.io/name: postgres
    app.kubernetes.io/part-of: invoices
immutable: true
stringData:
  passfile: |
    *:*:*:$role:$password
SECRET
	done
done
