#!/usr/bin/env bash
# Runs both services on this machine.
#
# usage: dev/run.sh [--reset]     (make run, make reset)
#
# Builds invoice-app and payment-provider and runs both, with their data in
# data/, until Ctrl-C. The next run remembers.
#
#   --reset                 forget: delete data/, and do not run
#   INVOICE_APP_PORT        port of invoice-app on localhost (default 8081)
#   PAYMENT_PROVIDER_PORT   port of payment-provider on localhost (default 8082)
set -o errexit -o nounset -o pipefail

. "$(dirname "$0")/usage.sh"
arguments 0 1 "$@"

reset=
case "${1-}" in
--reset) reset=1 ;;
"") ;;
*)
	usage >&2
	exit 2
	;;
esac

cd "$(dirname "${BASH_SOURCE[0]}")/.."
invoice_app_port=${INVOICE_APP_PORT:-8081}
payment_provider_port=${PAYMENT_PROVIDER_PORT:-8082}

mkdir -p data
exec {lock}>data/lock
if ! flock --nonblock "$lock"; then
	echo "make run is running already, with this data: stop it first (Ctrl-C there)" >&2
	exit 1
fi
if [[ $reset ]]; then
	rm -rf data
	echo "data/ is deleted; make run starts over"
	exit
fi

free() { # VARIABLE PORT
	if (exec 3<>"/dev/tcp/127.0.0.1/$2") 2>/dev/null; then
		echo "port $2 is taken by another program: stop that, or choose another port, as in: $1=1$2 make run" >&2
		exit 1
	fi
}
free INVOICE_APP_PORT "$invoice_app_port"
free PAYMENT_PROVIDER_PORT "$payment_provider_port"

echo "building (the first time takes a minute or two)"
mkdir -p .build/bin
go build -o .build/bin/ ./invoice-app ./payment-provider

# Each service is a process group of its own, so that Ctrl-C reaches this script
# alone and each service is told once.
set -o monitor
services=()
asked=
trap 'asked=1' INT TERM HUP
# The lock is this script's: a service that outlived it must not hold it.
LISTEN_ADDR=127.0.0.1:$payment_provider_port DATABASE_URL=sqlite:data/payment-provider.db LOG_FORMAT=text \
	.build/bin/payment-provider {lock}>&- &
services+=($!)
LISTEN_ADDR=127.0.0.1:$invoice_app_port DATABASE_URL=sqlite:data/invoice-app.db LOG_FORMAT=text \
	PAYMENT_PROVIDER_URL=http://127.0.0.1:$payment_provider_port SEED_INVOICES=true \
	.build/bin/invoice-app {lock}>&- &
services+=($!)
set +o monitor

cat <<HINT
invoice-app is at http://localhost:$invoice_app_port/invoices, payment-provider at http://localhost:$payment_provider_port
pay everything, from another terminal: INVOICE_APP_URL=http://localhost:$invoice_app_port ./test.sh
HINT

wait -n "${services[@]}" || true # until one ends, or a signal
kill "${services[@]}" 2>/dev/null || true
for service in "${services[@]}"; do
	wait "$service" || true
done
if [[ ! $asked ]]; then
	echo "one of the two ended by itself (its last lines say why), so the other was stopped, too" >&2
	exit 1
fi
echo "both are stopped; data/ keeps what they know (make reset forgets it)"
