#!/usr/bin/env bash
# scripts/deps.sh build|test -- install the Debian packages (and, for tests, the Python ones) that are missing.
#
# As root it prints the command and runs it; otherwise it prints the one line to run and exits 2. When
# nothing is missing it says nothing. The lists are scripts/packages-{build,test,pip}.txt; an entry
# marked `optional` that cannot be had is skipped by name.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(dirname "$here")

die() {
    echo "deps: $1" >&2
    exit 2
}

# entries FILE KIND -- the names in a list: KIND is `needed` or `optional`.
entries() {
    awk -v kind="$2" '/^#/ || NF == 0 { next } ($2 == "optional") == (kind == "optional") { print $1 }' "$here/$1"
}

# missing NAME... -- those that are not installed.
missing() {
    [ $# -gt 0 ] || return 0
    local installed
    installed=$(dpkg-query -W -f='${db:Status-Status} ${Package}\n' "$@" 2>/dev/null |
        sed -n 's/^installed //p' || true)
    printf '%s\n' "$@" | grep -vxF -e "${installed:-none installed}" || true
}

# The many lines of apt-get are shown only when it fails; it asks nothing.
apt_install() {
    local options=(-y --no-install-recommends -o DPkg::Lock::Timeout=120) words
    echo "+ apt-get install ${options[*]:0:2} $*"
    words=$(DEBIAN_FRONTEND=noninteractive apt-get -q "${options[@]}" install "$@" 2>&1 </dev/null) || {
        printf '%s\n' "$words" | tail -n 20 >&2
        return 1
    }
}

install_needed() {
    local want=("$@")
    local line="apt-get update && apt-get install -y --no-install-recommends ${want[*]}"
    if [ "$(id -u)" -ne 0 ]; then
        die "packages are missing; run as root: $line"
    fi
    echo "+ apt-get update"
    apt-get -qq update || echo "deps: apt-get update failed; trying with the lists that are here" >&2
    apt_install "${want[@]}" || die "could not install: ${want[*]} (apt-get's words are above)"
}

install_optional() {
    local name
    for name in "$@"; do
        if [ "$(id -u)" -ne 0 ] || ! apt_install "$name"; then
            echo "deps: skipped $name: it cannot be had here; what needs it is skipped by name"
        fi
    done
}

# build/venv, made again whenever the list of pinned packages changes.
python_packages() {
    local venv=$top/build/venv want
    want=$(entries packages-pip.txt needed)
    [ -n "$want" ] || return 0
    [ "$(cat "$venv/saffron-packages" 2>/dev/null)" != "$want" ] || return 0
    echo "+ /usr/bin/python3 -m venv --system-site-packages build/venv"
    if ! /usr/bin/python3 -m venv --system-site-packages "$venv"; then
        rm -rf "$venv"
        echo "deps: skipped the Python packages: no virtual environment can be made here"
        return 0
    fi
    local name with got=
    for name in $want; do
        with=()
        ! grep -qx "$name alone" "$here/packages-pip.txt" || with=(--no-deps)
        if "$venv/bin/pip" install ${with[@]+"${with[@]}"} --quiet --disable-pip-version-check --retries 1 "$name"; then
            got+=${got:+$'\n'}$name
        else
            echo "deps: skipped $name: pip could not install it"
        fi
    done
    echo "$got" >"$venv/saffron-packages" # what could not be had is tried again the next time
}

command -v dpkg-query >/dev/null ||
    die "no dpkg-query: this is not Debian; install what equals: $(entries packages-build.txt needed | xargs)"
case "${1:-}" in
build) lists=(packages-build.txt) ;;
test) lists=(packages-build.txt packages-test.txt) ;;
*) die "usage: scripts/deps.sh build|test" ;;
esac
needed=() optional=()
for list in "${lists[@]}"; do
    mapfile -t -O "${#needed[@]}" needed < <(entries "$list" needed)
    mapfile -t -O "${#optional[@]}" optional < <(entries "$list" optional)
done
mapfile -t needed < <(missing "${needed[@]}")
[ "${#needed[@]}" -eq 0 ] || install_needed "${needed[@]}"
mapfile -t optional < <(missing "${optional[@]}")
[ "${#optional[@]}" -eq 0 ] || install_optional "${optional[@]}"
[ "$1" != test ] || python_packages
