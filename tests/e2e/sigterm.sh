#!/usr/bin/env bash
# SIGTERM ends a role in order whatever it is at: exit 0, no assertion. The trainer is in a step most of the time. Those that could be
# needed for a last checkpoint stay 5 s to see whether trainer/0 is told to stop too.
. "$(dirname "$0")/lib.sh"
for role in trainer trainer trainer "${roles[@]}"; do
    local_start "${long[@]}"
    wait_for 60 "training, before $role is told to end" is_training
    sleep "0.$((RANDOM % 10))"
    kill -TERM "$(cat "$work/run/pids/$role-0")"
    wait_end 30
    grep -q "saffron local: $role/0 exited with status 0" "$work/err" ||
        fail "$role: expected exit status 0: $(cat "$work/err")"
    nothing_left
    for log in "$work"/run/logs/*.log; do
        ! grep -q 'assert at=' "$log" || fail "$role ended: $(grep 'assert at=' "$log")"
    done
done
