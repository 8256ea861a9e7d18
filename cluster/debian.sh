# debian_root FOLDER VARIANT PACKAGE,...: unpacks Debian packages, and what they
# depend on, into a folder. They come from where this machine's apt gets them,
# and apt checks their signatures.
# shellcheck shell=bash

debian_root() {
    local suite sources
    suite=$(. /etc/os-release && printf '%s' "$VERSION_CODENAME")
    mapfile -t sources < <(find /etc/apt/sources.list /etc/apt/sources.list.d -name '*.list' -o -name '*.sources' 2>/dev/null)
    # Its helpers are to be run by the system's own interpreters.
    PATH=/usr/sbin:/usr/bin:/sbin:/bin mmdebstrap --variant="$2" --include="$3" --dpkgopt=force-unsafe-io \
        "$suite" "$1" "${sources[@]}"
    rm -rf "$1"/usr/share/{doc,man,locale,info} "$1"/var/lib/apt/lists/* "$1"/var/cache/*
}
