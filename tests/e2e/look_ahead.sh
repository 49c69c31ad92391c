#!/usr/bin/env bash
# Look-ahead: a trainer whose network is slow never waits for batches, since those of data.window are made, and those it
# has permits for are looked up, while it computes. Where nothing is made ahead it does wait, so the measure sees it.
. "$(dirname "$0")/lib.sh"
mkdir "$work/pushed"
"$python" tests/e2e/metrics.py gateway "$work/pushed" >"$work/port" 2>"$work/gateway.log" &
helper=$!
until [ -s "$work/port" ]; do sleep 0.02; done
gateway=127.0.0.1:$(cat "$work/port")

# wait_share NAME ARG... -- run; of the trainer's time the part in which no batch was ready, in $share, in thousandths.
wait_share() {
    local name=$1
    shift
    SAFFRON_METRICS_GATEWAY_ADDR=$gateway local_run --config configs/synthetic --set data.synthetic.test_rows=0 "$@"
    expect_success
    "$python" - "$work/pushed/trainer-0" "$name" "$work/run/summary.json" >"$work/share" <<'PY' || fail "$name: no times of steps"
import json, re, sys
sums = {part: float(value) for part, value in
        re.findall(r'saffron_trainer_step_seconds_sum\{[^}]*part="(\w+)"[^}]*\} (\S+)', open(sys.argv[1]).read())}
total = sum(sums.values())
print(f"{sys.argv[2]}: " + ", ".join(f"{part} {100 * s / total:.1f} %" for part, s in sums.items()),
      f"of {total:.2f} s, {json.load(open(sys.argv[3]))['samples_per_second']:.0f} samples/s", file=sys.stderr)
print(round(1000 * sums["wait"] / total))
PY
    share=$(cat "$work/share")
}

# Some seconds of training. The first batch has to be made and looked up before anything can be computed.
wait_share "slow network" --set data.synthetic.rows=60000 --set model.use=mlp --set 'model.params.top=[1024, 512, 256, 1]'
[ "$share" -le 30 ] || fail "of the time of a slow network $share in 1000 were spent waiting for batches, expected at most 30"
wait_share "nothing ahead" --set data.synthetic.rows=200000 --set data.window=1 --set global.staleness=1
[ "$share" -ge 60 ] || fail "with nothing made ahead $share in 1000 were spent waiting for batches, expected some 250"
kill $helper
wait $helper 2>/dev/null
true
