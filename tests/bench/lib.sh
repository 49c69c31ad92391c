# tests/bench/lib.sh -- what the benchmarks share; sourced by them (it is not executable).
#
# A benchmark measures what it compares in turns (A B A B), so that a busy machine slows both, and writes
# $out/NAME.json: {"machine": {...}, "entries": [{name, value, unit, limit, limit_name, ratio}]}.
# shellcheck shell=bash
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export SAFFRON_MODELS_DIR=$PWD/configs/models
out=${SAFFRON_BENCH_DIR:-build/bench}
mkdir -p "$out"
work=$(mktemp -d "${TMPDIR:-/tmp}/saffron-bench.XXXXXX")
trap 'rm -rf "$work"' EXIT
# shellcheck disable=SC2034 # used by the benchmarks
{
    B=${1:-build/release}
    python=/usr/bin/python3
}

die() {
    echo "bench: $*" >&2
    exit 1
}

# make_bench_data ROWS TEST_ROWS -- what configs/bench trains, in $bench_data: Criteo's shape, the same at every call.
make_bench_data() {
    bench_data=$out/data
    "$B/saffron-data-compose" generate --out "$bench_data" --rows "$1" --test-rows "$2" --features 26 \
        --ids 100000 --dense 13 --seed 1
}
