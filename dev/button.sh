#!/usr/bin/env bash
# What the buttons of tilt up do.
#
# usage: dev/button.sh ACTION CONTEXT URL
#
# Does one of these to the cluster that kubectl knows as CONTEXT, whose invoice-app answers at URL:
#
#   pay-all       pay every unpaid invoice
#   add-invoices  add 1,000 unpaid invoices
#   reset-data    forget every invoice and every payment
#   kill-pod      delete a pod of invoice-app
set -o errexit -o nounset -o pipefail

. "$(dirname "$0")/usage.sh"
arguments 3 3 "$@"
action=$1 context=$2 url=$3

k() { kubectl --context="$context" "$@"; }

# empty NAMESPACE TABLE: as the database's superuser, on its own machine.
empty() {
	k --namespace="$1" exec postgres-0 --container=postgres -- \
		psql --quiet --no-psqlrc --set=ON_ERROR_STOP=1 --command="TRUNCATE $2" "$1"
	echo "$1 has no $2 any more"
}

# post PATH: posts standard input. It prints the answer's body to standard error and its status to standard output, and
# fails unless that is a 2xx. A proxy is for the way out of this machine, and the URL is one of it.
post() {
	local answer failed=0
	answer=$(curl --silent --show-error --fail-with-body --noproxy localhost,127.0.0.1,::1 \
		--header 'Content-Type: application/json' --data-binary @- --write-out '\n%{http_code}' "$url$1") || failed=$?
	echo "${answer%$'\n'*}" >&2
	echo "${answer##*$'\n'}"
	return "$failed"
}

case $action in
pay-all)
	workspace/run need curl curl
	status=202
	while [[ $status == 202 ]]; do # it takes long: the next call waits for its end
		status=$(post /invoices/pay </dev/null)
	done
	echo "all are settled"
	;;
add-invoices)
	workspace/run need curl curl
	unique=$(date +%s)-$$-$RANDOM # twice within a second, from two pages at once
	for ((i = 1; i <= 1000; i++)); do
		printf '{"InvoiceId": "%s-%d", "Value": %d.%02d, "Currency": "EUR"},\n' "$unique" "$i" "$i" "$((i % 100))"
	done | sed -e '1s/^/[/' -e '$s/,$/]/' | post /invoices >/dev/null
	;;
reset-data)
	empty invoicing invoices # first, or what is paid already would be paid again
	empty payments payments
	;;
kill-pod)
	# Not one that is going already.
	read -r pod <<<"$(k --namespace=invoicing get pods --selector=app.kubernetes.io/name=invoice-app --output=go-template='
		{{- range .items}}{{if not .metadata.deletionTimestamp}}{{.metadata.name}}{{"\n"}}{{end}}{{end}}')"
	k --namespace=invoicing delete pod "$pod" --wait=false
	;;
*)
	usage >&2
	exit 2
	;;
esac
