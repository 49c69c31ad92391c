#!/usr/bin/env bash
# All processes of a job are told to stop at once, as when its pods are deleted, NATS among them or not: the last checkpoint is made
# with the others' help, everybody ends with status 0, and the job goes on from there with every row accounted for once. All starts have
# the same flags, --restore=none among them, as pods have.
. "$(dirname "$0")/lib.sh"
epochs=60
logs=$work/hand/logs
mkdir -p "$logs" "$work/checkpoints"
port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
own=(--checkpoint-dir "$work/checkpoints" --restore none)
declare -A pid
round=0

# start ROLE INDEX SIZE
start() {
    "$B/saffron-${1//_/-}" --index "$2" --size "$3" --job pods --nats "nats://127.0.0.1:$port" "${own[@]}" \
        --config configs/synthetic --set data.synthetic.rows=40000 --set data.synthetic.test_rows=10000 --set data.epochs=$epochs \
        --set global.checkpoint.every_seconds=0 --set global.middleware.loops=1 --set global.embedding_server.workers=1 \
        >"$logs/$1-$2.$round" 2>&1 &
    pid[$1-$2]=$!
    supervisor=$!
}
start_all() {
    local i
    round=$((round + 1))
    nats-server -a 127.0.0.1 -p "$port" >"$logs/nats" 2>&1 &
    pid[nats]=$!
    for i in 0 1; do
        start embedding_server $i 2
        start trainer $i 2
    done
    start middleware 0 1
    start data_compose 0 1
}
# told KEY -- of the trainers' status: their sum.
told() {
    "$python" - "$1" "$(sed -n 's/.* admin=\(127[0-9.:]*\)$/\1/p' "$logs/trainer-0.$round")" \
        "$(sed -n 's/.* admin=\(127[0-9.:]*\)$/\1/p' "$logs/trainer-1.$round")" <<'PY'
import json, sys, urllib.request
page = [json.load(urllib.request.urlopen(f"http://{at}/status", timeout=5)) for at in sys.argv[2:]]
key = sys.argv[1]
print(page[0][key] if key in ("step", "samples_read") else sum(p[key] for p in page))
PY
}
has_stepped() { [ "$(told step 2>/dev/null || echo -1)" -gt "$1" ]; } # by these logs
# all_end WHO... -- each with status 0, within the grace.
all_end() {
    local who
    for who; do
        wait_end 30 "${pid[$who]}" "$who"
        [ "$status" -eq 0 ] || fail "$who: exit status $status: $(tail -n 5 "$logs/$who.$round")"
    done
}
roles=(trainer-0 trainer-1 embedding_server-0 embedding_server-1 middleware-0 data_compose-0)

for victims in "${roles[*]}" "${roles[*]} nats"; do
    start_all
    wait_for 60 "trainers that answer" has_stepped -1
    # Some moment, which goes by steps: on a fast machine the job is over in some seconds.
    wait_for 60 "steps" has_stepped "$(($(told step) + 20 + RANDOM % 100))"
    # shellcheck disable=SC2086 # words
    for who in $victims; do
        kill -TERM "${pid[$who]}"
    done
    SECONDS=0
    all_end "${roles[@]}"
    echo "all ended within $SECONDS s"
    kill "${pid[nats]}" 2>/dev/null
    wait "${pid[nats]}"
    [ "$(grep -c ' checkpoint name=' "$logs/trainer-0.$round")" -eq 1 ] ||
        fail "no last checkpoint: $(grep -E 'checkpoint|WARN' "$logs/trainer-0.$round")"
done
start_all
for who in trainer-0 trainer-1 embedding_server-0 embedding_server-1; do
    ! grep -q 'restore_none_obeyed_before\| restored name=' "$logs/$who.1" || fail "$who did not begin anew"
    for i in 2 3; do
        wait_for 20 "$who goes on" grep -q ' restored name=' "$logs/$who.$i"
        grep -q 'WARN .*restore_none_obeyed_before' "$logs/$who.$i" || fail "$who does not say why it goes on"
    done
done
wait_for 200 "the end of the job" grep -q 'state now=done' "$logs/trainer-0.$round"
read=$(told samples_read) trained=$(told samples_trained)
[ "$read $trained" = "$((epochs * 40000)) $((epochs * 40000))" ] || fail "read $read, trained $trained, expected $((epochs * 40000)) of each"
[ "$("$B/saffron" inspect "$work/checkpoints" --json | grep -c '"run"')" -eq 1 ] || fail "inspect tells no run"
grep -h -o ' run=[0-9a-f]*' "$logs"/trainer-0.[23] | sort -u | wc -l | grep -qx 1 || fail "not one run"

# A job that is done: nobody is waited for. Told twice: gone at once.
SECONDS=0
for who in "${roles[@]}" nats; do
    kill -TERM "${pid[$who]}"
done
all_end "${roles[@]}"
[ "$SECONDS" -le $((2 * slow)) ] || fail "a job that is done took $SECONDS s to end"

# Without a folder there is no last checkpoint, and nobody stays for one. In mode `full` trainer/0 has connections to owners nevertheless.
own=(--set global.mode=full)
start_all
wait_for 60 "trainers that answer" has_stepped -1
wait_for 60 "steps" has_stepped "$(($(told step) + 5))"
for who in middleware-0 embedding_server-1; do
    SECONDS=0
    kill -TERM "${pid[$who]}"
    all_end "$who"
    [ "$SECONDS" -le $((2 * slow)) ] || fail "no folder: $who took $SECONDS s to end"
done
for who in trainer-0 trainer-1 embedding_server-0 data_compose-0 nats; do
    kill -TERM "${pid[$who]}"
done
all_end trainer-0 trainer-1 embedding_server-0 data_compose-0
