#!/usr/bin/env bash
# nats-server is no role: the data plane does without it, it is started again, and the run ends well.
. "$(dirname "$0")/lib.sh"
local_start "${short[@]}" --epochs 4
wait_for 60 "training, before nats-server is killed" is_training
kill -9 "$(cat "$work/run/pids/nats")"
wait_end 200
expect_success
grep -q 'nats-server was killed by signal 9.*starting it again' "$work/out" || fail "nobody noticed"
