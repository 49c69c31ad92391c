#!/usr/bin/env bash
# A process whose clock was put back: its peers remember a higher incarnation, from refusals of the data plane or
# from its hello; it starts anew above that, and the job goes on. Two processes of one identity: the newer stays.
. "$(dirname "$0")/lib.sh"
port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
future=9000000000000 # milliseconds of the wall clock, far away
logs=$work/hand/logs
mkdir -p "$logs"
nats-server -a 127.0.0.1 -p "$port" >"$logs/nats.log" 2>&1 &
declare -A pid

# start ROLE LOG -- without a run directory: nothing is remembered but by peers.
start() {
    "$B/saffron-${1//_/-}" --index 0 --size 1 --job clock --nats "nats://127.0.0.1:$port" \
        --config configs/synthetic --set data.synthetic.rows=100000 --set data.synthetic.test_rows=2000 \
        --set data.epochs=2 --set global.middleware.loops=1 --set global.embedding_server.workers=1 \
        >"$logs/$2.log" 2>&1 &
    pid[$1]=$!
    supervisor=$!
}

has() { grep -q "$1" "$logs/$2.log"; }

# again ROLE PEER -- kill it, and start it anew with the clock of today, once PEER has met it.
again() {
    wait_for 30 "$2 meets $1" has "peer_up peer=$1/0.0 .*incarnation=$future" "$2"
    kill -9 "${pid[$1]}"
    start "$1" "$1-again"
    wait_for 30 "$1 starts anew" has "incarnation_raised" "$1-again"
    wait_for 30 "$2 meets $1 again" has "peer_up peer=$1/0.0 .*incarnation=9000000000001" "$2"
}

for role in embedding_server middleware trainer; do
    SAFFRON_INCARNATION=$future start "$role" "$role"
done
again embedding_server middleware
again middleware trainer
SAFFRON_INCARNATION=$future start data_compose data_compose
wait_for 30 "the composer has met the trainer" has "peer_up peer=trainer" data_compose
kill -9 "${pid[data_compose]}"
start data_compose data_compose-again
wait_for 30 "the composer starts anew" has incarnation_raised data_compose-again
wait_for 100 "the end of the job" has "state now=done" trainer
[ "$(grep -c 'epoch_over.* samples=100000 ' "$logs/trainer.log")" -eq 2 ] || fail "epochs are not whole"
[ "$(cat "$logs"/*-again.log | grep -c incarnation_raised)" -eq 3 ] || fail "one start anew each"

# The trainer has worked: a second one takes its place, whatever its clock says.
old=${pid[trainer]}
SAFFRON_INCARNATION=$((future + 5)) start trainer trainer-second
tries=200
while kill -0 "$old" 2>/dev/null && [ $((tries -= 1)) -gt 0 ]; do
    sleep 0.05
done
wait "$old"
[ $? -eq 1 ] || fail "the older one did not end with status 1"
grep -q 'replaced: a newer trainer.0 is there.*incarnation 9000000000005' "$logs/trainer.log" || fail "it does not say who replaced it"
kill -0 "${pid[trainer]}" || fail "the newer one is gone"
