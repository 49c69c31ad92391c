#!/usr/bin/env bash
# The embedding server's benchmark at a size that measures nothing: every part runs, verifies its rows, and gives
# the figures that are demanded of it.
. "$(dirname "$0")/lib.sh"
[ -x "$B/tests/bench/embedding_server/bench" ] || fail "no benchmark in $B: run make B=$B unit"
BENCH_GIB=0.01 SAFFRON_BENCH_DIR=$work/bench timeout $((100 * slow)) \
    tests/bench/embedding_server.sh "$B" >"$work/out" 2>&1 || fail "it failed: $(cat "$work/out")"

PARTS=cut BENCH_PERIOD=0.2 BENCH_GIB=0.01 SAFFRON_BENCH_DIR=$work/cut timeout $((60 * slow)) \
    tests/bench/embedding_server.sh "$B" >"$work/out" 2>&1 || fail "a cut: it failed: $(cat "$work/out")"

"$python" - "$work/bench/embedding_server.json" <<'PY' || fail "the report is not what it should be"
import json, sys
entries = {e["name"]: e for e in json.load(open(sys.argv[1]))["entries"]}
demanded = {
    "lookup_dim64_uniform": 0.52, "lookup_dim16_uniform": 0.40, "lookup_dim64_zipf": 0.45, "lookup_dim16_zipf": 0.30,
    "update_dim64_uniform": 0.48, "update_dim16_uniform": 0.36,
    "update_dim64_adagrad_uniform": 0.45, "update_dim16_adagrad_uniform": 0.45,
    "update_dim64_adam_uniform": 0.45, "update_dim16_adam_uniform": 0.45,
    "ratio_1M_to_50M": 0.85, "overhead_policies_off": 1, "overhead_policies_on": 1,
    "grow_apply_p999_policies_off": 1, "grow_apply_p999_policies_on": 1,
    "wire_lookup_dim64": 0.85,
}
for name, ratio in demanded.items():
    e = entries[name]
    assert e["demanded"] == ratio and e["ratio"] > 0 and e["limit"] > 0 and e["limit_name"], e
for name in "lookup_dim128_uniform", "lookup_dim128_zipf", "beside_peers_lookup_dim64":
    assert entries[name]["value"] > 0, name
PY

# The compiler may not leave prefetches out (runtime/base/prefetch.h): it did, and no other test fails then.
if command -v objdump >/dev/null && [ -e "$B/embedding_server/stage_plain.o" ]; then
    while read -r file least; do
        count=$(objdump -d "$B/embedding_server/$file.o" | grep -c prefetch || true)
        [ "$count" -ge "$least" ] || fail "$file.o has $count prefetches, expected at least $least"
    done <<'END'
stage_plain 4
stage_avx2 4
stage_avx512 4
update 2
tend 3
END
fi
