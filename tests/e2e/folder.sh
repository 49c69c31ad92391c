#!/usr/bin/env bash
# A checkpoint folder is one job's, from its start on: a second one is told who has it, no rollback is made under it, and a trainer/0
# that is started again waits for the one before it.
. "$(dirname "$0")/lib.sh"
export SAFFRON_CHECKPOINT_DIR=$work/checkpoints
mkdir "$SAFFRON_CHECKPOINT_DIR"
held="$SAFFRON_CHECKPOINT_DIR/\.lock: held by trainer/0 of job synthetic, pid [0-9]+ on host $(uname -n)"

local_start "${long[@]}" --set global.checkpoint.every_seconds=0
wait_for 60 "training" is_training
[ -z "$(ls "$SAFFRON_CHECKPOINT_DIR")" ] || fail "a checkpoint is there already: $(ls "$SAFFRON_CHECKPOINT_DIR")"
SECONDS=0
"$B/saffron" local --run-dir "$work/second" "${short[@]}" >"$work/said" 2>&1
[ $? -eq 2 ] || fail "a second job on one folder: $(cat "$work/said")"
grep -qE "$held; a checkpoint folder is one job's: stop that process, or give another folder$" "$work/said" || fail "it does not say who: $(cat "$work/said")"
[ "$SECONDS" -lt $((30 * slow)) ] || fail "that took $SECONDS s" # a role by itself waits 60 s

# A role by itself warns at once, and takes the folder when it is free.
port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
nats-server -a 127.0.0.1 -p "$port" >"$work/nats.log" 2>&1 &
"$B/saffron-trainer" --index 0 --size 1 --job synthetic --nats "nats://127.0.0.1:$port" "${long[@]}" >"$work/trainer" 2>&1 &
trainer=$!
wait_for 10 "a warning" grep -qE "WARN .*folder_held reason=\"$held\" waits_s=60$" "$work/trainer"
"$B/saffron" checkpoint early --run-dir "$work/run" >"$work/said" 2>&1 || fail "checkpoint: $(cat "$work/said")"
"$B/saffron" rollback "$SAFFRON_CHECKPOINT_DIR" early >"$work/said" 2>&1
[ $? -eq 2 ] || fail "rollback under a job: $(cat "$work/said")"
grep -qE "$held; a job makes checkpoints there: stop it first$" "$work/said" || fail "rollback does not say who: $(cat "$work/said")"
kill -0 "$trainer" || fail "it does not wait: $(cat "$work/trainer")"
! grep -q ' waiting for=' "$work/trainer" || fail "it goes on beside the first: $(cat "$work/trainer")"
kill -KILL "$(cat "$work/run/pids/trainer-0")" # it makes no last one, and leaves the lock to the kernel
supervisor_was=$supervisor supervisor=$trainer
wait_for 10 "the folder" grep -q ' waiting for="a hello of ' "$work/trainer"
kill -TERM "$trainer"
wait_end 20 "$trainer" "the second trainer"
[ "$status" -eq 0 ] || fail "the second trainer: exit status $status: $(cat "$work/trainer")"
supervisor=$supervisor_was
wait_end 20
nothing_left

# Nobody has it any more. What an operator asked for is known by that.
unset SAFFRON_CHECKPOINT_DIR
"$B/saffron" rollback "$work/checkpoints" early >"$work/said" 2>&1 || fail "rollback: $(cat "$work/said")"
"$B/saffron" inspect "$work/checkpoints" early >"$work/said" || fail "inspect: $(cat "$work/said")"
grep -qE '^made .*; asked for: it stays$' "$work/said" || fail "inspect does not say that it stays: $(cat "$work/said")"
