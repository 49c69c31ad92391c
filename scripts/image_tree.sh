#!/usr/bin/env bash
# scripts/image_tree.sh BUILD TREE SYMBOLS -- lay out /opt/saffron as the image has it (Dockerfile, build stage).
#
# TREE gets launch.sh, the stripped programs of BUILD and the GPU's library where there is one, the jobs that come along, and packages.txt: the Debian
# packages that the programs need to run. SYMBOLS gets their debug symbols as gdb looks for them, by build id.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ $# -eq 3 ] || {
    echo "usage: scripts/image_tree.sh BUILD TREE SYMBOLS" >&2
    exit 2
}
build=$1 tree=$2 symbols=$3
programs=(saffron saffron-data-compose saffron-middleware saffron-embedding-server saffron-trainer)

# package_of FILE -- dpkg knows a library by the name it was unpacked as, with or without /usr.
package_of() {
    dpkg-query -S "$1" 2>/dev/null || dpkg-query -S "/usr$1" 2>/dev/null || dpkg-query -S "${1#/usr}" || {
        echo "image_tree: no package has $1" >&2
        return 1
    }
}

# What the loader finds for the programs; a library that it does not find is an error.
libraries() {
    ldd "$@" | awk '
        $2 == "=>" && $3 == "not" { print "image_tree: the loader does not find " $1 >"/dev/stderr"; bad = 1 }
        $2 == "=>" && $3 ~ /^\// { print $3 }
        END { exit bad }' | sort -u
}

mkdir -p "$tree/bin" "$symbols"
cp -r launch.sh LICENSE configs "$tree"
for program in "${programs[@]}"; do
    id=$(readelf -n "$build/$program" | sed -n 's/.*Build ID: *//p')
    [ -n "$id" ] || {
        echo "image_tree: $build/$program has no build id" >&2
        exit 1
    }
    mkdir -p "$symbols/.build-id/${id:0:2}"
    objcopy --only-keep-debug "$build/$program" "$symbols/.build-id/${id:0:2}/${id:2}.debug"
    strip -o "$tree/bin/$program" "$build/$program"
done
# Its libraries are those of a base with CUDA; without them a trainer says so and takes the CPU.
[ ! -f "$build/saffron-cuda.so" ] || strip -o "$tree/bin/saffron-cuda.so" "$build/saffron-cuda.so"
found=$(libraries "${programs[@]/#/$build/}")
for library in $found; do
    package_of "$library"
done | sed 's/[:,].*//' | sort -u >"$tree/packages.txt"
echo nats-server >>"$tree/packages.txt" # for launch.sh local
