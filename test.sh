#!/bin/sh
# Pays every unpaid invoice of a running invoice-app and verifies that they are paid. Prints the list of paid invoices
# to standard output as JSON, and everything else to standard error. See ./test.sh --help.
exec "$(dirname -- "$0")/workspace/run" test "$@"
