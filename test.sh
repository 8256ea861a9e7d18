#!/bin/sh
# Pays every unpaid invoice of a running invoice-app and proves that they are paid. The paid list goes to standard
# output as JSON, all else to standard error. See ./test.sh --help.
exec "$(dirname -- "$0")/workspace/run" test "$@"
