#!/usr/bin/env bash
# tests/fuzz/run.sh B SECONDS NAME... -- run the fuzz targets built under B, each for SECONDS.
#
# What a target finds beyond tests/fuzz/corpus/NAME stays in B/corpus/NAME for the next run; a crashing input
# goes to B/crashes/NAME-* and its report to B/logs/NAME.log. One closing line per target; exit 1 on any crash.
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 2
B=${1:?usage: run.sh B SECONDS NAME...} seconds=${2:?usage: run.sh B SECONDS NAME...}
shift 2
mkdir -p "$B/logs" "$B/crashes"
broken=0

# figure PATTERN LOG -- the last number that stands behind PATTERN.
figure() {
    grep -aoE "$1[0-9]+" "$2" | tail -n 1 | grep -oE '[0-9]+$' || echo "?"
}

crashes_of() {
    find "$B/crashes" -name "$1-*" | wc -l
}

lines=()
for name in "$@"; do
    log=$B/logs/$name.log
    mkdir -p "$B/corpus/$name"
    before=$(crashes_of "$name")
    "$B/fuzz_$name" -max_total_time="$seconds" -max_len=4096 -rss_limit_mb=512 -timeout=5 \
        -print_final_stats=1 -artifact_prefix="$B/crashes/$name-" \
        "$B/corpus/$name" "tests/fuzz/corpus/$name" >"$log" 2>&1
    rc=$?
    line=$(printf '%-9s %10s executions, coverage %5s, %s crashes' "$name" \
        "$(figure 'stat::number_of_executed_units: *' "$log")" "$(figure 'cov: ' "$log")" \
        "$(($(crashes_of "$name") - before))")
    if [ "$rc" -ne 0 ]; then
        broken=1
        line+=" (exit status $rc, see $log)"
    fi
    lines+=("$line")
done
printf '%s\n' "${lines[@]}"
exit "$broken"
