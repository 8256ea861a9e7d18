#!/usr/bin/env bash
# Publishes the keys with which callers of payment-provider are verified.
#
# usage: dev/publish-keys.sh CONTEXT
#
# Copies the public keys with which the cluster that kubectl knows as CONTEXT signs ServiceAccount
# tokens (/openid/v1/jwks) to the ConfigMap caller-keys in the namespace payments. Run again, it
# brings that up to date: the pods see it within two minutes, and none is restarted.
#
# When a cluster's keys are rotated, run it once the new key is there, and before tokens are signed
# with it; and again once the old key is gone.
set -o errexit -o nounset -o pipefail

. "$(dirname "$0")/usage.sh"
arguments 1 1 "$@"
context=$1

keys=$(kubectl --context="$context" get --raw /openid/v1/jwks)
if [[ $keys != *'"kid"'* ]]; then
	echo "$context answers /openid/v1/jwks without a key, so what is published stays as it is: $keys" >&2
	exit 1
fi
kubectl --context="$context" apply --server-side --force-conflicts --field-manager=publish-keys --filename=- <<CONFIGMAP
apiVersion: v1
kind: ConfigMap
metadata:
  name: caller-keys
  namespace: payments
  labels:
    app.kubernetes.io/name: payment-provider
    app.kubernetes.io/part-of: invoices
data:
  jwks.json: '$keys'
CONFIGMAP
