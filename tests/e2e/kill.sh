#!/usr/bin/env bash
# kill -9 of any role: one clear message that names it, everything gone within 5 s, exit 1.
. "$(dirname "$0")/lib.sh"
for role in "${roles[@]}"; do
    local_start "${long[@]}"
    wait_for 60 "training, before $role is killed" is_training
    kill -9 "$(cat "$work/run/pids/$role-0")"
    wait_end 5
    [ "$status" -eq 1 ] || fail "$role killed: exit status $status, expected 1"
    nothing_left
    [ "$(wc -l <"$work/err")" -le 2 ] || fail "$role killed: more than one message: $(cat "$work/err")"
    grep -q "saffron local: $role/0 was killed by signal 9" "$work/err" ||
        fail "$role killed: the message does not name it: $(cat "$work/err")"
    expect "'$role/0 was killed' in error" "job == 'synthetic'" "samples_trained > 0" \
        "samples_read == samples_trained + samples_quarantined + samples_dropped"
done
