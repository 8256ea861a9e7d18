# What the scripts of this folder share: where results are kept, and how
# progress is shown.
# shellcheck shell=bash

CLUSTER_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
CACHE_DIR=${XDG_CACHE_HOME:-$HOME/.cache}/invoices
LOG_DIR=$CACHE_DIR/logs
mkdir -p "$LOG_DIR"

say() { printf '%s\n' "$*" >&2; }
fail() { say "$(basename "$0"): $*"; exit 1; }

. "$CLUSTER_DIR/../dev/usage.sh"

minutes() { printf '%dm%02ds' $(($1 / 60)) $(($1 % 60)); }

# start COMMAND...: runs it in the background, as $started, in a process group
# of its own: stop ends all of it, and no build goes on that nobody sees.
start() {
    set -m
    "$@" </dev/null &
    started=$!
    set +m
}
stop() { kill -- -"$1" 2>/dev/null || true; }

# run COMMAND...: runs it, and ends it when this script is ended.
run() {
    start "$@"
    local pid=$started
    trap 'stop "$pid"; exit 130' INT TERM HUP
    wait "$pid" || return
    trap - INT TERM HUP
}

# step LABEL LOG COMMAND...: runs it with its output in a log, says every 20 s
# how it is going, and shows the end of the log when it fails. How far it is,
# the function "so_far" may know; else the last line of the log has to do.
step() {
    local label=$1 log=$LOG_DIR/$2.log began=$SECONDS said=0 pid far
    shift 2
    say "$label ..."
    start "$@" >"$log" 2>&1
    pid=$started
    trap 'stop "$pid"; exit 130' INT TERM HUP
    while kill -0 "$pid" 2>/dev/null; do
        sleep 0.5
        if ((SECONDS - began >= said + 20)); then
            said=$((SECONDS - began))
            far=$(if declare -F so_far >/dev/null; then so_far "$log" "$said"; fi)
            say "  $(minutes "$said") ${far:-$(tail -n 1 "$log" | cut -c 1-100)}"
        fi
    done
    trap - INT TERM HUP
    if ! wait "$pid"; then
        tail -n 30 "$log" >&2
        fail "$label: failed; all of its output is in $log"
    fi
    say "  done in $(minutes $((SECONDS - began)))"
}

# alone NAME: waits until no other run is at what goes by that name.
alone() {
    local lock
    exec {lock}>"$CACHE_DIR/$1.lock"
    flock --nonblock "$lock" || step "waiting for another run, which is at the same" "wait-$1" flock "$lock"
}

# use_docker: if it answers. ctlptl asks for the newest API, which an older
# engine does not know.
use_docker() {
    DOCKER_API_VERSION=$(docker version --format '{{.Server.APIVersion}}') && export DOCKER_API_VERSION
}

# writing_kubeconfig COMMAND...: runs what changes that file. Each tool has a
# lock of its own for it, and heeds no other's: so it is one run at a time. The
# user's current context is the same afterwards.
writing_kubeconfig() {
    (
        alone kubeconfig
        current=$(kubectl config current-context 2>/dev/null || true)
        trap '[ -z "$current" ] || kubectl config use-context "$current" >/dev/null 2>&1 || true' EXIT
        "$@"
    )
}

# apt_install PACKAGE...: installs those that are missing.
apt_install() {
    local package missing=()
    for package; do
        dpkg-query --show --showformat='${Status}' "$package" 2>/dev/null | grep -q ' installed$' || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null || fail "this needs the Debian packages ${missing[*]}"
    [ "$(id -u)" = 0 ] || fail "install these first: sudo apt-get install ${missing[*]}"
    step "installing ${missing[*]}" apt apt_get_install "${missing[@]}"
}

apt_get_install() {
    export DEBIAN_FRONTEND=noninteractive
    apt-get install --yes --no-install-recommends "$@" && return
    # On a new machine the list of packages is missing or old.
    apt-get update && apt-get install --yes --no-install-recommends "$@"
}

# hash FILE...: one hash of the contents of files and folders of this folder.
hash() {
    (
        cd "$CLUSTER_DIR" || exit
        find "$@" -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum
    ) | sha256sum | cut -c 1-16
}
