#!/bin/sh
# Pays every unpaid invoice of a running invoice-app and proves that they are paid. The paid list goes to standard
# output as JSON, all else to standard error. See ./test.sh --help.
cd "$(dirname "$0")" || exit
GOWORK=off exec go run ./test/payall "$@"
