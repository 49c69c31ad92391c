#!/usr/bin/env bash
# A job whose trainers have a GPU - the emulated one (tests/gpu/emulated/), loaded as a real one is - trains what the CPU trains, with one trainer
# and with two, and goes on from its checkpoint; where there is none, `gpu` says so and ends, and `auto` takes the CPU and says why.
. "$(dirname "$0")/lib.sh"
steps=10
few=("${short[@]}" --set data.synthetic.test_rows=4000 --set global.mode=full --set global.exact=true)
job=("${few[@]}" --max-steps "$steps")

# train NAME ARGS... -- the summary's AUC and loss.
train() {
    local name=$1
    shift
    "$B/saffron" local "${job[@]}" --quiet --timeout 200 --run-dir "$work/$name" "$@" >"$work/out" 2>"$work/err" || fail "$name: $(cat "$work/err")"
}
numbers() {
    "$python" -c 'import json, sys; s = json.load(open(sys.argv[1])); print(s["test_auc"], s["test_logloss"])' "$work/$1/summary.json"
}
# near NAME NAME -- as far apart as rounding makes them in a few steps.
near() {
    "$python" - "$(numbers "$1")" "$(numbers "$2")" <<'PY' || fail "$1: $(numbers "$1"), $2: $(numbers "$2")"
import sys
a, b = ([float(x) for x in text.split()] for text in sys.argv[1:])
sys.exit(abs(a[0] - b[0]) > 0.001 or abs(a[1] - b[1]) > 0.0005)
PY
}

for trainers in 1 2; do
    SAFFRON_GPU_LIBRARY=$PWD/$B/saffron-emulated.so train "gpu$trainers" --trainers $trainers --set global.trainer.device=gpu
    train "cpu$trainers" --trainers $trainers --set global.trainer.device=cpu
    near "gpu$trainers" "cpu$trainers"
    for rank in $(seq 0 $((trainers - 1))); do
        grep -q ' device gpu="emulated GPU' "$work/gpu$trainers/logs/trainer-$rank.log" || fail "trainer/$rank has no GPU"
    done
    ! grep -q ' device ' "$work/cpu$trainers/logs/trainer-0.log" || fail "the CPU alone looked for a GPU"
done

# Weights and the optimizer's state come out of the device and go back into it.
job=("${few[@]}")
export SAFFRON_GPU_LIBRARY=$PWD/$B/saffron-emulated.so
train first --max-steps 6 --set global.trainer.device=gpu --set global.save_state=true
train second --max-steps 6 --set global.trainer.device=gpu --set global.load_state=true --init-from "$work/first/model"
grep -q 'dense_loaded with_state=1' "$work/second/logs/trainer-0.log" || fail "$(grep loaded "$work/second/logs/trainer-0.log")"

export SAFFRON_GPU_LIBRARY=$work/none.so
train auto --max-steps 2
grep -q ' device cpu reason="' "$work/auto/logs/trainer-0.log" || fail "auto does not say why"
if "$B/saffron" local "${job[@]}" --quiet --max-steps 2 --run-dir "$work/no" --set global.trainer.device=gpu >"$work/out" 2>"$work/err"; then
    fail "there is no GPU, and the job trains"
fi
grep -q "none.so is not there: this Saffron was built without CUDA" "$work/no/logs/trainer-0.log" "$work/err" || fail "$(tail -n 5 "$work/no/logs/trainer-0.log")"
