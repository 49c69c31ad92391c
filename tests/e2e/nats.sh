#!/usr/bin/env bash
# nats-server is no role: the data plane does without it, it is started again, and the run ends well.
. "$(dirname "$0")/lib.sh"
# kill_it TIMES -- 1: the job was over before that was noticed.
kill_it() {
    local_start "${short[@]}" --epochs $((10 * $1))
    meanwhile 60 "training, before nats-server is killed" is_training || return
    kill -9 "$(cat "$work/run/pids/nats")" 2>/dev/null
    meanwhile 60 "somebody notices" grep -q 'nats-server was killed by signal 9.*starting it again' "$work/out"
}
long_enough kill_it
wait_end 200
expect_success
