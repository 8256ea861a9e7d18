#!/usr/bin/env bash
# Gives somebody a kubeconfig with a client certificate.
#
# usage: dev/make-kubeconfig.sh CONTEXT FILE USER [GROUP [NAMESPACE]]
#
# Writes FILE, with which kubectl is USER of GROUP in the cluster that kubectl knows as CONTEXT, and
# works in NAMESPACE unless told otherwise. What USER may do, the roles in k8s/platform say. One that
# is still good for a day stays as it is; one that is older, or of another cluster or user, is replaced.
#
#   LIFETIME (604800)   seconds that the certificate is good for; a cluster cannot take one back, so
#                       this is how long a stolen one can be used
#
# The key is made here, is in no other file, and is never printed.
set -o errexit -o nounset -o pipefail

. "$(dirname "$0")/usage.sh"
arguments 3 5 "$@"
context=$1 file=$2 user=$3 group=${4-} namespace=${5-default}
"$(dirname "$0")/../workspace/run" need openssl openssl
umask 077

# target KUBECTL-FLAG: which cluster and namespace kubectl works in with it.
target() {
	kubectl "$@" config view --minify --flatten --raw --output=jsonpath='{.clusters[0].cluster} {.contexts[0].context.namespace}'
}
# The cluster itself is asked whether it still knows this user.
still_good() {
	[[ -e $file ]] || return
	[[ $(target --kubeconfig="$file") == "$(target --context="$context" | sed 's/ [^ ]*$//') $namespace" ]] || return
	kubectl --kubeconfig="$file" config view --raw --output=jsonpath='{.users[0].user.client-certificate-data}' |
		base64 --decode | openssl x509 -noout -checkend 86400 >/dev/null || return
	[[ $(kubectl --kubeconfig="$file" --request-timeout=10s auth whoami \
		--output=jsonpath='{.status.userInfo.username} {.status.userInfo.groups[*]}') == \
		"$user ${group:+$group }system:authenticated" ]]
}
if still_good 2>/dev/null; then
	chmod 600 "$file"
	echo "$file is still good"
	exit
fi

k() { kubectl --context="$context" "$@"; }
# As kubeconfigs have it: on one line.
encode() { base64 | tr -d '\n'; }

request=''
clean() {
	rm -rf "$work"
	[[ ! $request ]] || k delete "$request" >/dev/null
}
work=$(mktemp -d)
trap clean EXIT
openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$work/key" -out "$work/request" \
	-subj "${group:+/O=$group}/CN=$user" 2>"$work/log" || {
	cat "$work/log" >&2
	exit 1
}
request=$(
	k create --output=name --filename=- <<REQUEST
apiVersion: certificates.k8s.io/v1
kind: CertificateSigningRequest
metadata:
  generateName: $user-
spec:
  signerName: kubernetes.io/kube-apiserver-client
  usages: [client auth]
  expirationSeconds: ${LIFETIME:-604800}
  request: $(encode <"$work/request")
REQUEST
)
k certificate approve "$request" >/dev/null
k wait "$request" --for=jsonpath='{.status.certificate}' --timeout=60s >/dev/null
certificate=$(k get "$request" --output=jsonpath='{.status.certificate}')
cluster=$(k config view --minify --flatten --raw --output=jsonpath='{.clusters[0].cluster}')

mkdir -p "$(dirname "$file")"
cat >"$file.new" <<KUBECONFIG
apiVersion: v1
kind: Config
current-context: $user
contexts:
  - name: $user
    context: {cluster: $context, user: $user, namespace: $namespace}
clusters:
  - name: $context
    cluster: $cluster
users:
  - name: $user
    user:
      client-certificate-data: $certificate
      client-key-data: $(encode <"$work/key")
KUBECONFIG
mv "$file.new" "$file"
echo "$file is new"
