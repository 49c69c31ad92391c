#!/usr/bin/env bash
# Two of each role with a proxy between all of them that delays, drops, doubles, replays, cuts, resets and half-opens
# connections (tests/lib/proxy.h); at the end of each job every row of the data has been applied once in each epoch, no
# more and no less (tests/lib/oracle.h). Jobs in all three modes, every other one with packed payloads, until there have been FAULTS faults (`make faults` asks
# for 10,000), by seeds from SEED on.
. "$(dirname "$0")/lib.sh"
FAULTS=${FAULTS:-300} SEED=${SEED:-1} EPOCHS=${EPOCHS:-12} RATE=${RATE:-60}
limit_s=$((120 * slow)) # for one job: longer is a hang
faults=$B/tests/e2e/faults
[ -x "$faults" ] || fail "no program $faults: run make B=$B unit"
declare -A file=([data_compose]=data-compose [middleware]=middleware [embedding_server]=embedding-server
    [trainer]=trainer)
mkdir "$work/job"
"$faults" make "$work/job" || fail "the job"

# Pairs of free ports side by side, free on both addresses: two middlewares', two servers', two trainers'.
read -r -a port < <("$python" - <<'PY'
import random, socket
found = []
while len(found) < 6:
    base = random.randrange(15000, 32000, 2) # below those that the kernel gives to who connects
    try:
        held = [socket.socket() for _ in range(4)]
        for s, (ip, p) in zip(held, [(i, base + k) for i in ("127.0.0.1", "127.0.0.2") for k in (0, 1)]):
            s.bind((ip, p))
    except OSError:
        continue
    finally:
        for s in held:
            s.close()
    if base not in found:
        found.append(base)
print(*found)
PY
)
nats_port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
nats-server -a 127.0.0.1 -p "$nats_port" >"$work/nats.log" 2>&1 &
nats=$!

# role PROGRAM INDEX PORT -- in the background, its output in $work/run/logs.
role() {
    local at=()
    [ -z "$3" ] || at=(--port "$3")
    "$B/saffron-${file[$1]}" --nats "nats://127.0.0.1:$nats_port" --job "$job" --config "$work/job" --admin-port 0 \
        --bind 127.0.0.1 --advertise 127.0.0.2 --index "$2" --size 2 "${at[@]}" "${flags[@]}" \
        >"$work/run/logs/$1-$2.log" 2>&1 &
    pids+=("$!")
}

done_is() { # rank INDEX says so
    local admin
    admin=$(sed -n 's/.* admin=127\.0\.0\.2:\([0-9]*\)$/\1/p' "$work/run/logs/trainer-$1.log" | head -n 1)
    curl -s -m 2 "http://127.0.0.1:$admin/status" >"$work/status-$1"
    grep -q '"done": *true' "$work/status-$1"
}

# Each row of each epoch is in the ranks' sum once, and every permit is back.
accounts() {
    "$python" - "$work" $((8192 * EPOCHS)) <<'PY'
import json, sys
rank = [json.load(open(f"{sys.argv[1]}/status-{i}")) for i in (0, 1)]
sums = {k: sum(r[k] for r in rank) for k in ("samples_trained", "samples_dropped", "permits_used", "batches_open")}
print(sums)
sys.exit(sums != {"samples_trained": int(sys.argv[2]), "samples_dropped": 0, "permits_used": 0, "batches_open": 0})
PY
}

# The middlewares' payloads were made smaller, or, without compression, were left alone.
packed() {
    local i admin saved=0
    for i in 0 1; do
        admin=$(sed -n 's/.* admin=127\.0\.0\.2:\([0-9]*\)$/\1/p' "$work/run/logs/middleware-$i.log" | head -n 1)
        saved=$((saved + $(curl -s -m 2 "http://127.0.0.1:$admin/metrics" |
            awk '/^saffron_middleware_saved_bytes_total/ { n += $2 } END { printf "%d", n }')))
    done
    [ "$([ "$saved" -gt 0 ] && echo lz4 || echo none)" = "$1" ]
}

# one_job MODE SEED FAULTS -- one job from its start to the count; faults that there were are added to $made.
one_job() {
    local mode=$1 seed=$2 most=$3 i proxy tries pid line compression
    local owners=("${port[2]}" "$((port[2] + 1))" "${port[3]}" "$((port[3] + 1))")
    compression=$([ $((seed % 2)) -eq 0 ] && echo lz4 || echo none)
    local settings=("global.mode=$mode" "global.wire.compression=$compression" "data.epochs=$EPOCHS" global.middleware.loops=2 global.sync_every=3
        global.link.heartbeat_ms=80 global.link.dead_ms=$((400 * slow)))
    job=faults$seed flags=() pids=()
    for i in "${settings[@]}"; do
        flags+=(--set "$i")
    done
    rm -rf "$work/run"
    mkdir -p "$work/run/logs"
    "$faults" proxy "$seed" "$most" "$RATE" "${port[0]}" "$((port[0] + 1))" "${port[1]}" "$((port[1] + 1))" \
        "${owners[@]}" "${port[4]}" "${port[5]}" >"$work/proxy" 2>&1 &
    proxy=$!
    for i in 0 1; do
        role middleware "$i" "${port[i]}"
        role embedding_server "$i" "${port[2 + i]}"
        role trainer "$i" "${port[4 + i]}"
        role data_compose "$i" ""
    done
    tries=$((limit_s * 5)) # of a fifth of a second
    until done_is 0 && done_is 1 && accounts >"$work/out"; do
        for pid in "$proxy" "${pids[@]}"; do
            kill -0 "$pid" 2>/dev/null || fail "seed $seed ($mode): process $pid has ended"
        done
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || fail "seed $seed ($mode): not done after $limit_s s: $(cat "$work/out" "$work"/status-?)"
        sleep 0.2
    done
    packed "$compression" || fail "seed $seed ($mode): payloads are not as global.wire.compression=$compression says"
    kill "$proxy"
    wait "$proxy" || fail "the proxy: $(cat "$work/proxy")"
    line=$("$faults" check "$work/job" "$job" 2 2 "${owners[@]}" "${settings[@]}" 2>&1) ||
        fail "seed $seed ($mode): $line"
    echo "seed $seed $mode: $(cat "$work/proxy"); $line"
    made=$((made + $(sed -n 's/^faults \([0-9]*\) .*/\1/p' "$work/proxy")))
    kill "${pids[@]}"
    for pid in "${pids[@]}"; do
        wait_end $((10 * slow)) "$pid" "seed $seed: a role told to stop"
        [ "$status" -eq 0 ] || fail "seed $seed ($mode): exit status $status of a role"
    done
}

made=0 seed=$SEED modes=(hybrid async full)
while [ "$made" -lt "$FAULTS" ]; do
    one_job "${modes[$((seed % 3))]}" "$seed" $((FAULTS / 3 + 1)) # so that a short test has all modes
    seed=$((seed + 1))
done
kill "$nats"
wait "$nats"
echo "$made faults in $((seed - SEED)) jobs: 0 lost, 0 doubled"
