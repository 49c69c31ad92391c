#!/usr/bin/env bash
# Ctrl-C stops everything and exits 130; so does `saffron stop`, with the status of its signal.
. "$(dirname "$0")/lib.sh"
local_start "${long[@]}"
wait_for 60 "training, before Ctrl-C" is_training
"$B/saffron" status --run-dir "$work/run" >"$work/status" 2>&1 || fail "status: $(cat "$work/status")"
for role in "${roles[@]}"; do
    grep -q "^$role/0 " "$work/status" || fail "status does not name $role: $(cat "$work/status")"
done
kill -INT "$supervisor"
wait_end 5
[ "$status" -eq 130 ] || fail "Ctrl-C: exit status $status, expected 130"
nothing_left
expect "error == 'stopped by Ctrl-C'"

local_start "${long[@]}"
wait_for 60 "training, before stop" is_training
"$B/saffron" stop --run-dir "$work/run" >"$work/status" 2>&1 || fail "stop: $(cat "$work/status")"
wait_end 5
[ "$status" -eq 143 ] || fail "stop: exit status $status, expected 143"
nothing_left

# In the moments of its start too: roles may be anywhere between fork and their first word.
for moment in 0.02 0.05 0.08 0.12 0.2; do
    local_start "${short[@]}"
    sleep "$moment"
    kill -TERM "$supervisor"
    wait_end 5
    [ "$status" -eq 143 ] || fail "stopped after $moment s: exit status $status, expected 143"
    nothing_left
done

# Its end takes everything with it, however it ends.
local_start "${long[@]}"
wait_for 60 "training, before the supervisor is killed" is_training
kill -9 "$supervisor"
wait_end 5
for ((i = 0; i < 200; i++)); do
    (nothing_left >/dev/null) && break
    sleep 0.05
done
nothing_left
