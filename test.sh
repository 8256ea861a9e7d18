#!/usr/bin/env bash
# Pays every unpaid invoice of a running invoice-app and proves that they are
# paid. The paid list goes to standard output as JSON, all else to standard
# error. See ./test.sh --help.
set -o errexit -o nounset -o pipefail

cd "$(dirname "${BASH_SOURCE[0]}")"
exec go run ./test/payall "$@"
