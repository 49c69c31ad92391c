#!/usr/bin/env bash
# Runs of one job that share a NATS: each has a name of its own there, and the job keeps its name. So one that is stopped goes on from
# its checkpoints beside another, with the same NATS or with one of its own.
. "$(dirname "$0")/lib.sh"
job=("${short[@]}" --epochs 20 --set global.checkpoint.every_seconds=1)
port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
nats-server -a 127.0.0.1 -p "$port" >"$work/nats" 2>&1 &
url=nats://127.0.0.1:$port

"$B/saffron" local --run-dir "$work/beside" "${long[@]}" --nats "$url" --quiet >"$work/beside.out" 2>&1 &
beside=$!
local_start "${job[@]}" --nats "$url"
has_one() {
    [ -n "$(find "$work/run/checkpoints" -name manifest.json 2>/dev/null | head -n 1)" ]
}
wait_for 60 "a checkpoint" has_one
kill -INT "$supervisor"
wait_end 32
[ "$status" -eq 130 ] || fail "Ctrl-C: exit status $status"
nothing_left
first=$(sed -n 's/.*"job": "\([^"]*\)".*/\1/p' "$work/run/local.json")
case $first in
    synthetic-*) ;;
    *) fail "its name on a shared NATS is '$first'" ;;
esac
"$B/saffron" inspect "$work/run/checkpoints" >"$work/inspected" || fail "inspect: exit status $?"
grep -q '^job  *synthetic, ' "$work/inspected" || fail "a checkpoint of another job: $(cat "$work/inspected")"

# goes_on ARG... -- to a step beyond where it was, or to the end.
goes_on() {
    "$B/saffron" local --run-dir "$work/run" --timeout $((200 * slow)) "${job[@]}" --restore latest "$@" >"$work/out" 2>"$work/err"
    status=$?
    [ "$status" -eq 0 ] || fail "$*: exit status $status: $(cat "$work/err")"
    nothing_left
    grep -q '^going on from the checkpoint ' "$work/out" || fail "$*: it does not say from where: $(cat "$work/out")"
    expect "'error' not in f" "job == 'synthetic'" "samples_trained == samples_read == 20 * 40000" "samples_dropped == 0"
}
goes_on --nats "$url"
[ "$(sed -n 's/.*"job": "\([^"]*\)".*/\1/p' "$work/run/local.json")" != "$first" ] || fail "two runs of one name on a NATS"
goes_on
kill -0 "$beside" 2>/dev/null || fail "the run beside has ended: $(cat "$work/beside.out")"
kill -TERM "$beside"
wait_end 32 "$beside" "the run beside"
