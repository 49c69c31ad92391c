#!/usr/bin/env bash
# A run that its user stops makes a last checkpoint; `local --restore` goes on from it, or from an older one, and the job ends as if it
# had never been stopped: every row of every epoch is accounted for once. Not while the first run still goes on.
. "$(dirname "$0")/lib.sh"
has_two() { # checkpoints that are whole
    [ "$(find "$work/run/checkpoints" -name manifest.json 2>/dev/null | wc -l)" -ge 2 ]
}
# goes_on NAME -- in the same run directory, to the end.
goes_on() {
    "$B/saffron" local --run-dir "$work/run" --timeout $((200 * slow)) "${job[@]}" --restore "$1" >"$work/out" 2>"$work/err"
    status=$?
    [ "$status" -eq 0 ] || fail "exit status $status: $(cat "$work/err")"
    nothing_left
    expect "'error' not in f" "samples_trained == samples_read == $epochs * 40000" "samples_dropped == 0" "checkpoint['step'] > 0" "test_samples == 10000"
}

# stop_it TIMES -- once it has two checkpoints; 1: the job was over before.
stop_it() {
    epochs=$((40 * $1))
    job=("${short[@]}" --epochs "$epochs" --trainers 2 --set global.checkpoint.every_seconds=1)
    local_start "${job[@]}"
    meanwhile 60 "two checkpoints" has_two || return
    kill -STOP "$supervisor" 2>/dev/null || return # it does not end while the second one looks
    timeout 60 "$B/saffron" local --run-dir "$work/run" "${job[@]}" --restore latest >"$work/second" 2>&1
    [ $? -eq 2 ] || fail "a second run beside the first: $(cat "$work/second")"
    grep -q ': a run goes on in it$' "$work/second" || fail "it does not say why: $(cat "$work/second")"
    kill -INT "$supervisor"
    kill -CONT "$supervisor"
    wait_end 40
    supervisor=
    [ "$status" -ne 0 ]
}
long_enough stop_it
[ "$status" -eq 130 ] || fail "Ctrl-C: exit status $status"
nothing_left
last=$(sed -n 's/.*; --restore latest goes on from the checkpoint //p' "$work/err")
[ -s "$work/run/checkpoints/$last/manifest.json" ] || fail "no last checkpoint: $(cat "$work/err")"
expect "checkpoint['name'] == '$last'" "checkpoint['step'] >= steps"
"$B/saffron" local --run-dir "$work/run" "${job[@]}" --restore nobody >"$work/second" 2>&1
[ $? -eq 2 ] || fail "no such checkpoint: $(cat "$work/second")"
grep -q "newest first: $last, " "$work/second" || fail "it does not say which there are: $(cat "$work/second")"
goes_on latest
grep -q "^going on from the checkpoint $last, step " "$work/out" || fail "it does not say from where: $(cat "$work/out")"
first=$(basename "$(dirname "$(find "$work/run/checkpoints" -path '*/step-*/manifest.json' ! -path '*.abandoned/*' | sort | head -n 1)")")
goes_on "$first"
grep -q ' newer than .* set aside: ' "$work/out" || fail "nothing was set aside: $(cat "$work/out")"
[ -d "$work/run/model.1" ] || fail "the first model is gone"
