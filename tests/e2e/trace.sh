#!/usr/bin/env bash
# --trace: every hop of the batches that are traced is in trace.json, and what is inside something is inside in time;
# also of a run that failed, as far as it came. Without it nothing is written.
. "$(dirname "$0")/lib.sh"
small=(--config configs/synthetic --set data.synthetic.rows=20000 --set data.synthetic.test_rows=4000 --quiet)
two=(--trainers 2 --middlewares 2 --embedding-servers 2 --data-composes 2)

SAFFRON_TRACE=1 local_run "${small[@]}"
expect_success
[ -z "$(find "$work/run" -name 'trace*')" ] || fail "a trace that nobody asked for"

local_run "${small[@]}" --trace=1
expect_success
steps=$("$python" -c 'import json, sys; print(json.load(open(sys.argv[1]))["steps"])' "$work/run/summary.json")
"$python" tests/e2e/trace.py "$work/run/trace.json" 1 1 "$steps" || fail "the trace of every batch"
mv "$work/run/trace.json" "$work/first.json"
"$B/saffron" trace --run-dir "$work/run" >"$work/out" || fail "saffron trace: $?"
cmp "$work/first.json" "$work/run/trace.json" || fail "made again it is another trace"

local_run "${small[@]}" --trace=3 --set global.mode=full "${two[@]}"
expect_success
"$python" tests/e2e/trace.py "$work/run/trace.json" 3 2 || fail "the trace of two of each role"

# 6 MB of dense gradients: those of the last layers are summed while those of the first ones are computed.
local_run --config configs/synthetic --set data.synthetic.rows=24000 --set data.synthetic.test_rows=2000 --quiet --trace=1 "${two[@]}" \
    --set data.batch_size=1024 --set "model.params.top=[1024,1024,512,1]"
expect_success
"$python" tests/e2e/trace.py "$work/run/trace.json" 1 2 0 overlap || fail "the trace of sums that overlap"

# A role that is killed: what it and the others had said is there.
local_start "${long[@]}" --trace=1
twenty_pushed() {
    [ -s "$work/run/trace/middleware-0.json" ] && [ "$(grep -c '"scatter"' "$work/run/trace/middleware-0.json")" -gt 20 ]
}
wait_for 60 "traced batches" twenty_pushed
kill -9 "$(cat "$work/run/pids/middleware-0")"
wait_end 20
[ "$status" -eq 1 ] || fail "a killed role: exit status $status"
"$python" - "$work/run/trace.json" <<'PY' || fail "the trace of a run that failed"
import collections, json, sys
names = collections.Counter(e["name"] for e in json.load(open(sys.argv[1]))["traceEvents"])
print({n: names[n] for n in ("build", "pool", "lookup", "forward", "apply")})
sys.exit(min(names["build"], names["pool"], names["lookup"], names["forward"], names["apply"]) < 15)
PY

"$B/saffron-trainer" --config configs/synthetic --trace 5 >"$work/out" 2>&1
[ $? -eq 2 ] || fail "--trace without a run directory is taken"
grep -q -- "--run-dir" "$work/out" || fail "--trace without a run directory is not refused"
"$B/saffron" local --trace=0 >"$work/out" 2>&1
[ $? -eq 2 ] || fail "--trace=0 is not refused"
