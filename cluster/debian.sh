# debian_root FOLDER VARIANT PACKAGE,...: unpacks Debian packages, and what they
# depend on, into a folder. They come from where this machine's apt gets them,
# and apt checks their signatures.
# shellcheck shell=bash

debian_root() {
    local suite sources
    suite=$(. /etc/os-release && printf '%s' "$VERSION_CODENAME")
    mapfile -t sources < <(find /etc/apt/sources.list /etc/apt/sources.list.d -name '*.list' -o -name '*.sources' 2>/dev/null)
    mmdebstrap --variant="$2" --include="$3" \
        --dpkgopt='path-exclude=/usr/share/doc/*' \
        --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' \
        "$suite" "$1" "${sources[@]}"
}
