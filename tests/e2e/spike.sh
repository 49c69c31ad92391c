#!/usr/bin/env bash
# The labels of a stretch of the data are the wrong way round: one warning, and checkpoints that are made meanwhile say so, and are
# gone on from all the same, with a warning. The same data without it: none.
. "$(dirname "$0")/lib.sh"
rows=640000 first=256000 flipped=192000 # in batches of 64: the burst is steps 4001 to 7000, when next to nothing is learnt any more

job_folder job 1 features
printf 'defaults: {dim: 8, optimizer: {type: adagrad, learning_rate: 0.05}}\ntables: {c: {}}\nfeatures: {c: {}}\n' >"$work/job/embedding.yml"
printf '  label: label\n  c: feature\n' >>"$work/job/data.yml"
"$python" - "$work/job" $rows $first $flipped <<'PY' || fail "no data"
import random, sys
folder, rows, first, flipped = sys.argv[1], *map(int, sys.argv[2:])
draw = random.Random(4)
def line(flip):
    c = draw.randrange(50)
    label = draw.random() < (0.9 if c % 2 else 0.1)
    return f"{int(label != flip)}\tc{c}\n"
for name, n, burst in ("good", rows, False), ("burst", rows, True), ("test", 1000, False):
    with open(f"{folder}/{name}.tsv", "w") as out:
        out.write("label\tc\n")
        out.writelines(line(burst and first <= i < first + flipped) for i in range(n))
PY
job=(--config "$work/job" --set data.shuffle=false --set data.splits=1
    --set "model.schedule={type: linear, steps: 3800, final: 0.000001}"
    --set global.guard.spike_history=1000 # or it would be usual after 2,000 steps
    --set global.checkpoint.every_steps=10 --set global.checkpoint.keep=100 --set global.checkpoint.every_seconds=0)
sed -i 's/^train:.*/train: [good.tsv]/' "$work/job/data.yml"
# Some thousand steps are over in a second: in memory checkpoints are made of them whatever the disk is.
SAFFRON_CHECKPOINT_DIR=$(mktemp -d /dev/shm/saffron-e2e.XXXXXX 2>/dev/null || mktemp -d "$work/checkpoints.XXXXXX")
export SAFFRON_CHECKPOINT_DIR
trap 'at_exit; rm -rf "$SAFFRON_CHECKPOINT_DIR"' EXIT
anew() {
    rm -rf "${SAFFRON_CHECKPOINT_DIR:?}"/*
    local_run "$@"
}
spikes() { grep -c 'WARN trainer/0 loss_spike ' "$work/run/logs/trainer-0.log"; }
# marks -- the steps of checkpoints that are suspect, and of those that are not.
marks() {
    "$B/saffron" checkpoints "$SAFFRON_CHECKPOINT_DIR" >"$work/list" || fail "saffron checkpoints: $(cat "$work/list")"
    awk 'NR > 1 && /whole, suspect$/ {gsub(",", "", $2); print $2}' "$work/list" | sort -n >"$work/suspect"
    awk 'NR > 1 && /whole$/ {gsub(",", "", $2); print $2}' "$work/list" | sort -n >"$work/well"
}

anew "${job[@]}"
expect_success
expect "loss_spikes == 0" "samples_trained == $rows"
[ "$(spikes)" -eq 0 ] || fail "clean data: $(grep loss_spike "$work/run/logs/trainer-0.log")"
marks
if [ -s "$work/suspect" ] || [ "$(wc -l <"$work/well")" -lt 3 ]; then
    fail "clean data: checkpoints: $(cat "$work/list")"
fi

sed -i 's/^train:.*/train: [burst.tsv]/' "$work/job/data.yml"
anew "${job[@]}"
expect_success
expect "loss_spikes == 1" "samples_trained == $rows"
[ "$(spikes)" -eq 1 ] || fail "the burst: $(spikes) warnings: $(grep loss_spike "$work/run/logs/trainer-0.log")"
step=$(sed -n 's/.* loss_spike of=[a-z_]* step=\([0-9]*\) value=[0-9.]* mean=[0-9.]* bound=[0-9.]* window=8$/\1/p' "$work/run/logs/trainer-0.log")
if [ "${step:-0}" -lt 4008 ] || [ "$step" -gt 4016 ]; then
    fail "the burst begins at step 4001; told at ${step:-none}: $(grep loss_spike "$work/run/logs/trainer-0.log")"
fi
grep -q ' INFO trainer/0 loss_spike_over .* because=it_fell$' "$work/run/logs/trainer-0.log" || fail "the alarm has not ended"
grep -q 'rose above what was usual: 1 time (loss_spike' "$work/out" || fail "the result does not tell of it: $(cat "$work/out")"
marks
[ -s "$work/suspect" ] || fail "no suspect checkpoints: $(cat "$work/list")"
awk '$1 < 4008 || $1 > 7020 {exit 1}' "$work/suspect" || fail "suspect, before or after the burst: $(cat "$work/list")"
awk '$1 > 4016 && $1 < 7000 {exit 1}' "$work/well" || fail "not suspect, in the burst: $(cat "$work/list")"

# One that ends in the burst, and goes on from its newest.
anew "${job[@]}" --max-steps 6500
[ "$status" -eq 0 ] || fail "--max-steps: exit status $status: $(cat "$work/err")"
marks
newest=$(awk 'NR == 2 && /suspect$/ {print $1}' "$work/list")
[ -n "$newest" ] || fail "the newest checkpoint is of the burst, and not suspect: $(cat "$work/list")"
"$B/saffron" local --run-dir "$work/run" --timeout $((240 * slow)) "${job[@]}" --restore latest >"$work/out" 2>"$work/err" ||
    fail "--restore latest: $(cat "$work/err")"
grep -q "^going on from the checkpoint $newest, step [0-9]*; it is suspect: " "$work/out" || fail "it does not say so: $(cat "$work/out")"
grep -q "WARN trainer/0 checkpoint_suspect name=$newest " "$work/run/logs/trainer-0.log" || fail "nor does the trainer"
expect "samples_trained == $rows"
