#!/usr/bin/env bash
# Makes sure that a program is there.
#
# usage: dev/need.sh PROGRAM PACKAGE
#
# Does nothing where PROGRAM is installed. Otherwise installs Debian's PACKAGE,
# where this is Debian (or its kin) and root; elsewhere says what to install and
# fails. A service that the package brings is not started.
set -o errexit -o nounset -o pipefail

. "$(dirname "$0")/usage.sh"
arguments 2 2 "$@"
program=$1 package=$2

# PostgreSQL's programs are not on PATH where Debian installs them, and those of
# /usr/sbin are not on everybody's.
if PATH=$PATH:/usr/sbin type -P "$program" >/dev/null || compgen -G "/usr/lib/postgresql/*/bin/$program" >/dev/null; then
	exit
fi
if ! type -P apt-get >/dev/null || [[ $(id -u) != 0 ]]; then
	echo "$program is missing: install it (on Debian: apt-get install $package) and try again" >&2
	exit 1
fi

echo "installing $package, for $program" >&2
policy=/usr/sbin/policy-rc.d
if [[ ! -e $policy ]]; then # how Debian is told not to start services now
	trap 'rm -f "$policy"' EXIT
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod +x "$policy"
fi
export DEBIAN_FRONTEND=noninteractive
if ! apt-get -o DPkg::Lock::Timeout=300 install --yes --no-install-recommends "$package" >/dev/null 2>&1; then
	# A machine that is new has no list of packages yet, or an old one.
	apt-get update >/dev/null
	apt-get -o DPkg::Lock::Timeout=300 install --yes --no-install-recommends "$package" >/dev/null
fi
