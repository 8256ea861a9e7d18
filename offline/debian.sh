# debian_root FOLDER VARIANT PACKAGE,...: unpacks Debian packages and their dependencies into a folder. apt downloads
# them from this machine's package sources, and verifies their signatures.
# shellcheck shell=sh

debian_root() {
	folder=$1 variant=$2 packages=$3
	suite=$(. /etc/os-release && printf '%s' "$VERSION_CODENAME")
	set --
	for sources in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
		[ ! -e "$sources" ] || set -- "$@" "$sources"
	done
	# Run mmdebstrap's helpers with the system's own interpreters. Close inherited files such as locks: the file
	# numbers up to 9, which are the only ones that sh supports, must be free.
	PATH=/usr/sbin:/usr/bin:/sbin:/bin mmdebstrap --variant="$variant" --include="$packages" \
		--dpkgopt=force-unsafe-io "$suite" "$folder" "$@" 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-
	(cd "$folder/usr/share" && rm -rf doc man locale info)
	rm -rf "$folder"/var/lib/apt/lists/* "$folder"/var/cache/*
}
