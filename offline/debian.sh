# debian_root FOLDER VARIANT PACKAGE,...: unpacks Debian packages, and what they depend on, into a folder. They come
# from where this machine's apt gets them, and apt checks their signatures.
# shellcheck shell=sh

debian_root() {
	folder=$1 variant=$2 packages=$3
	suite=$(. /etc/os-release && printf '%s' "$VERSION_CODENAME")
	set --
	for sources in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
		[ ! -e "$sources" ] || set -- "$@" "$sources"
	done
	# Its helpers are to be run by the system's own interpreters, of which sh knows files up to number 9 only: none of
	# these is taken by what is open here already, such as a lock.
	PATH=/usr/sbin:/usr/bin:/sbin:/bin mmdebstrap --variant="$variant" --include="$packages" \
		--dpkgopt=force-unsafe-io "$suite" "$folder" "$@" 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-
	(cd "$folder/usr/share" && rm -rf doc man locale info)
	rm -rf "$folder"/var/lib/apt/lists/* "$folder"/var/cache/*
}
