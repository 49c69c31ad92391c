#!/usr/bin/env bash
# nats-server killed again and again while a job trains; absent at its start; and back with nothing. Roles that have
# met need no NATS: not one connection of the data plane goes, no step fails, every sample is trained once.
#   STORM_SECONDS=12   about how long the storm lasts (1 s is one epoch of 100,000 samples; where that is too little for a storm, more)
#   STORM_EVERY=       seconds between kills; empty: random, 0.05 to 3 s
# What a storm costs is the matter of `make storm`.
. "$(dirname "$0")/lib.sh"
seconds=${STORM_SECONDS:-12} every=${STORM_EVERY:-}
RANDOM=${STORM_SEED:-$$}
echo "seed $RANDOM (STORM_SEED sets it)"
RANDOM=${STORM_SEED:-$$}
job=(--config configs/synthetic --set data.synthetic.rows=100000 --set data.synthetic.test_rows=2000 --timeout 0)

kill_server() {
    local pid
    pid=$(cat "$work/run/pids/nats" 2>/dev/null) || return 1
    [ -n "$pid" ] && kill -9 "$pid" 2>/dev/null
}

# storm -- kill nats-server until the run ends; how often in $kills.
storm() {
    kills=0
    while kill -0 "$supervisor" 2>/dev/null; do
        sleep "${every:-$((RANDOM % 3)).$((RANDOM % 10))5}"
        kill_server && kills=$((kills + 1))
    done
    wait "$supervisor"
    status=$?
}

# What a storm must leave alone: the links between roles, until the supervisor stops them, and the steps.
unharmed() {
    local log done_at steps=$((epochs * ((100000 + 1023) / 1024)))
    expect_success
    done_at=$(grep 'state now=done' "$work/run/logs/trainer-0.log" | cut -d' ' -f1)
    for log in "$work"/run/logs/*-[0-9].log; do
        ! awk -v end="$done_at" '$1 < end' "$log" |
            grep -E 'peer_down|link_closed|link_refused|step_failed|dropped|ERROR' ||
            fail "$log: the data plane was touched"
    done
    expect "samples_read == $((epochs * 100000))" "samples_quarantined == 0" "steps >= $steps" "test_samples == 2000"
}

# ---- a storm over a job of `saffron local` ----
# weather TIMES -- 1: the job was over before it was a storm.
weather() {
    epochs=$((seconds * $1))
    local_start "${job[@]}" --epochs $epochs
    wait_for 60 "pid of nats-server" test -s "$work/run/pids/nats"
    [ -n "$every" ] || kill_server # before the roles have met
    storm
    supervisor=
    unharmed
    [ "$kills" -ge $((seconds / 4)) ]
}
long_enough weather
grep -q 'nats-server was killed by signal 9.*starting it again' "$work/out" || fail "nobody noticed"
echo "$kills kills"

# ---- roles by hand, and no NATS at all: they say so, and train once it comes; then it comes and goes ----
port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
url=nats://127.0.0.1:$port
mkdir -p "$work/hand/logs"
pids=()
for role in "${roles[@]}"; do
    "$B/saffron-${role//_/-}" --index 0 --size 1 --job hand --nats "$url" --config configs/synthetic \
        --set data.synthetic.rows=200000 --set data.synthetic.test_rows=2000 --set data.epochs=3 \
        --set global.middleware.loops=1 --set global.embedding_server.workers=1 \
        >"$work/hand/logs/$role.log" 2>&1 &
    pids+=($!)
done

# in_all PATTERN -- in the log of every role
in_all() {
    local role
    for role in "${roles[@]}"; do
        grep -q "$1" "$work/hand/logs/$role.log" || return 1
    done
}

# Connected for the second time, each of them.
all_back() {
    local role
    for role in "${roles[@]}"; do
        [ "$(grep -c nats_connected "$work/hand/logs/$role.log")" -eq 2 ] || return 1
    done
}

is_done() {
    grep -q "state now=done" "$work/hand/logs/trainer.log" && grep -q "state now=done" "$work/hand/logs/data_compose.log"
}

server() {
    nats-server -a 127.0.0.1 -p "$port" >>"$work/hand/logs/nats.log" 2>&1 &
    nats=$!
}

supervisor=${pids[0]}
wait_for 20 "all say that NATS is away" in_all "nats_unreachable"
! grep -q 'peer_up' "$work"/hand/logs/*.log || fail "met without NATS?"
server
wait_for 30 "all have met" in_all "state now=ready"
kill -9 "$nats"
wait_for 30 "the loss is seen" in_all "nats_lost"
sleep 1
server
wait_for 30 "all are back" all_back
wait_for 120 "the end of the job" is_done
! grep -h 'peer_down' "$work"/hand/logs/*.log || fail "a link went"
[ "$(grep -c 'epoch_over.* samples=200000 ' "$work/hand/logs/trainer.log")" -eq 3 ] || fail "epochs are not whole"
kill -TERM "${pids[@]}"
for pid in "${pids[@]}"; do
    wait "$pid" || fail "a role ended with status $?"
done
kill -9 "$nats"
