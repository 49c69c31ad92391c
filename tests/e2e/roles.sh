#!/usr/bin/env bash
# Roles by themselves, as containers run them: what is wrong with one of them is its own line and exit status, and
# harms no other.
. "$(dirname "$0")/lib.sh"
export SAFFRON_BIN_DIR=$PWD/$B SAFFRON_JOB=roles
cp -r configs/synthetic "$work/job"
pids=()

# start NAME ROLE ARG... -- in the background, its output in $work/NAME; its pid in $pid.
start() {
    local name=$1 role=$2
    shift 2
    "$B/saffron-$role" --nats "$nats" --config "$work/job" "$@" >"$work/$name" 2>&1 &
    pid=$!
    pids+=("$pid")
}

# ends WHAT PID STATUS -- soon; its exit status.
ends() {
    wait_end $((20 * slow)) "$2" "$1"
    [ "$status" -eq "$3" ] || fail "$1: exit status $status, expected $3"
}

# says FILE PATTERN -- soon.
says() {
    local tries=$((1000 * slow))
    until grep -qE -e "$2" "$work/$1"; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || fail "$1: expected '$2', got: $(cat "$work/$1")"
        sleep 0.02
    done
}

lives() {
    kill -0 "$2" 2>/dev/null || fail "$1 has ended: $(cat "$work/$1")"
}

port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
nats=nats://127.0.0.1:$port

# NATS is not there: a role keeps trying, says so, and finds it when it comes.
start early embedding-server
early=$pid
says early 'state now=ready'
nats-server -a 127.0.0.1 -p "$port" >"$work/nats.log" 2>&1 &
pids+=("$!")
says early "nats_connected url=$nats"

# Two processes with one identity: the newer wins, the older says who replaced it.
sleep 0.01
start newer embedding-server
newer=$pid
ends "the older of two" "$early" 1
says early "^saffron-embedding-server: replaced: a newer embedding_server/0 is there on host $(uname -n) \(admin 127\.0\.0\.1:[0-9]+\), incarnation [0-9]+ \(this is [0-9]+\)$"
lives newer "$newer"

# The same of another job is nobody's concern.
start other embedding-server --job other
says other 'nats_connected'
lives newer "$newer"

# Other files than those who were there first: the newcomer ends, and says which file it is.
start first middleware
first=$pid
says first 'state now=ready'
for set in embedding.defaults.initializer.std=0.5:embedding.yml data.batch_size=100:data.yml 'global.seed=9:global.yml \(seed, wire\)' \
    'model.params={top: [8, 1]}:model.yml'; do
    start stranger trainer --set "${set%:*}"
    ends "stranger with ${set%:*}" "$pid" 2
    says stranger "^saffron-trainer: (middleware|embedding_server)/0 on host $(uname -n) runs the job 'roles' with other files: ${set##*:}(, data\.yml)? differs?; config hash [0-9a-f]{16} there, [0-9a-f]{16} here.*; it was there first$"
done
start stranger trainer --set data.batch_size=100
ends "stranger with another plan" "$pid" 2
says stranger 'data plan hash [0-9a-f]{16} there, [0-9a-f]{16} here'
for role in data-compose middleware; do
    start stranger $role --index 1 --size 2 --set embedding.tables.c1.dim=12
    ends "$role with another dim" "$pid" 2
    says stranger "^saffron-$role: (middleware|embedding_server)/0 on host .* with other files: embedding\.yml differs; config hash [0-9a-f]{16} there, [0-9a-f]{16} here; it was there first$"
done
lives first "$first"

# A server that comes with other files while others work: they refuse it and stay.
start server embedding-server --index 1 --size 2 --set embedding.defaults.initializer.std=0.5
# shellcheck disable=SC2034 # used by its name
server=$pid
says first "peer_refused reason=\"embedding_server/1 on host .* other files: embedding\.yml differs; config hash"
lives first "$first"
"$B/saffron" status --nats "$nats" --job roles >"$work/status" 2>&1 || fail "status: $(cat "$work/status")"
grep -q '^middleware/0 refuses: embedding_server/1 on host .* embedding\.yml differs' "$work/status" ||
    fail "status does not tell who is refused: $(cat "$work/status")"

# A port that is taken: which, and what to do about it.
taken=$(sed -n 's/.*admin=127\.0\.0\.1:\([0-9]*\)$/\1/p' "$work/newer")
hint="address already in use; --port and --admin-port, or \`ports:\` of global\.yml, choose others$"
start busy middleware --job busy --admin-port "$taken"
ends "admin port in use" "$pid" 1
says busy "^saffron-middleware: admin: cannot listen on 127\.0\.0\.1 port $taken: [Aa]${hint#a}"
for program in middleware:middleware embedding-server:embserver trainer:trainer; do
    REPLICA_INDEX=0 ./launch.sh "${program#*:}" --job busy --config "$work/job" --nats "$nats" --admin-port 0 \
        --port "$port" >"$work/busy" 2>&1 &
    pids+=("$!")
    ends "$program: port in use" "$!" 1
    says busy "^saffron-${program%:*}: listen on tcp:127\.0\.0\.1:$port: $hint"
done
lives newer "$newer"

# Places that are none.
while read -r index size pattern; do
    REPLICA_INDEX=$index REPLICA_SIZE=$size ./launch.sh embserver --config "$work/job" --nats "$nats" \
        >"$work/place" 2>&1 &
    pids+=("$!")
    ends "index $index of $size" "$!" 2
    says place "^saffron-embedding-server: $pattern"
done <<'TABLE'
2 2 --index \(or REPLICA_INDEX\) is 2, expected less than --size \(or REPLICA_SIZE\), 2$
-1 2 REPLICA_INDEX: expected an integer in 0\.\.65535, got '-1'$
x 2 REPLICA_INDEX: expected an integer in 0\.\.65535, got 'x'$
0 0 REPLICA_SIZE: expected an integer in 1\.\.65536, got '0'$
TABLE

# `saffron stop` reaches all of a job, and only that.
"$B/saffron" stop --nats "$nats" --job roles >"$work/status" 2>&1 || fail "stop: $(cat "$work/status")"
grep -qx "3 processes of job 'roles' are stopping" "$work/status" || fail "stop: $(cat "$work/status")"
for name in newer first server; do
    ends "$name, stopped" "${!name}" 0
done
says newer 'stopping by=control'
"$B/saffron" status --nats "$nats" --job roles >"$work/status" 2>&1
[ $? -eq 1 ] || fail "status of a job that has ended: expected exit status 1"
grep -qx "saffron: nobody of job 'roles' answers on $nats" "$work/status" || fail "status: $(cat "$work/status")"
for pid in "${pids[@]}"; do
    kill "$pid" 2>/dev/null
done
exit 0
