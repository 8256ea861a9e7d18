# For scripts that begin with a comment which says how they are used: that is what --help prints.
# shellcheck shell=bash

SCRIPT=$(realpath "$0") # before the script changes to another folder
usage() { sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$SCRIPT"; }

# arguments LEAST MOST "$@": prints the usage if asked to, and refuses another number of arguments.
arguments() {
	local least=$1 most=$2
	shift 2
	if [[ ${1-} == -h || ${1-} == --help ]]; then
		usage
		exit
	fi
	if (($# < least || $# > most)); then
		usage >&2
		exit 2
	fi
}
