#!/usr/bin/env bash
# The pages of all roles: while a job runs, and the last ones, which a push gateway is sent. They obey the format (promtool
# too, where it is there), have what the docs and dashboards name, and the two ends of each request count alike.
. "$(dirname "$0")/lib.sh"
page() { "$python" tests/e2e/metrics.py "$@"; }

mkdir "$work/pushed"
"$python" tests/e2e/metrics.py gateway "$work/pushed" >"$work/port" 2>"$work/gateway.log" &
helpers=$!
until [ -s "$work/port" ]; do sleep 0.02; done
gateway=127.0.0.1:$(cat "$work/port")

# An address that is none is wrong usage, said in one line.
for address in nonsense https://gateway:9091 gateway:0; do
    "$B/saffron-trainer" --config configs/synthetic --metrics-gateway $address >"$work/out" 2>&1
    [ $? -eq 2 ] || fail "--metrics-gateway $address: expected exit status 2"
    grep -q "^saffron-trainer: --metrics-gateway: expected HOST:PORT or http://HOST:PORT, got '$address'$" "$work/out" ||
        fail "--metrics-gateway $address: $(cat "$work/out")"
done
SAFFRON_METRICS_GATEWAY_ADDR=nonsense local_run "${short[@]}"
[ "$status" -eq 2 ] || fail "a gateway address that is none: exit status $status, expected 2"
grep -q "SAFFRON_METRICS_GATEWAY_ADDR: expected HOST:PORT or http://HOST:PORT, got 'nonsense'" "$work/err" ||
    fail "a gateway address that is none: $(cat "$work/err")"

# ---- while it runs ----
local_start "${long[@]}" --trainers 2 --middlewares 2
wait_for $((40 * slow)) "the first samples" is_training
declare -A families=(
    [trainer]="samples_trained_total batches_trained_total steps_total permits_used batches_open loss test_auc"
    [data_compose]="rows_read_total rows_quarantined_total batches_done_total batches_open"
    [middleware]="batches_open"
    [embedding_server]="lookups_total updates_total rows row_bytes"
)
for role in "${roles[@]}"; do
    admin=$(sed -n 's/.* admin=\([0-9.:]*\)$/\1/p' "$work/run/logs/$role-0.log")
    # A job has just begun: each role has heard of some request by now, or will soon.
    tries=40
    until curl -sS -m 10 "http://$admin/metrics" >"$work/$role" &&
        read -r -a names <<<"${families[$role]}" && page check "$role" "$work/$role" "${names[@]}" >"$work/why"; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || fail "$role: $(cat "$work/why")"
        sleep 0.25
    done
    cat "$work/why"
    [ "$(wc -c <"$work/$role")" -lt 200000 ] || fail "$role: the page has $(wc -c <"$work/$role") bytes"
    if command -v promtool >/dev/null; then
        promtool check metrics <"$work/$role" >"$work/why" 2>&1 || fail "promtool, $role: $(cat "$work/why")"
        [ ! -s "$work/why" ] || fail "promtool, $role: $(cat "$work/why")"
    fi
done
kill -INT "$supervisor"
wait_end $((20 * slow))
nothing_left

# ---- the last pages ----
SAFFRON_METRICS_GATEWAY_ADDR=$gateway local_run "${short[@]}" --trainers 2 --middlewares 2 --embedding-servers 2
expect_success
for file in trainer-0 trainer-1 middleware-0 middleware-1 embedding_server-0 embedding_server-1 data_compose-0; do
    [ -s "$work/pushed/$file" ] || fail "$file: no page was pushed: $(ls "$work/pushed")"
done
page agree "$work/pushed" >"$work/why" || fail "$(cat "$work/why")"
cat "$work/why"

# A role that fails tells it all the same; a gateway that is away costs a line, and no time.
port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
nats-server -a 127.0.0.1 -p "$port" >"$work/nats.log" 2>&1 &
helpers+=" $!"
rm -f "$work"/pushed/*
server=("$B/saffron-embedding-server" --config configs/synthetic --job pushed --nats "nats://127.0.0.1:$port")
"${server[@]}" --metrics-gateway "$gateway" >"$work/older" 2>&1 &
supervisor=$!
wait_for 10 "ready" grep -q 'state now=ready' "$work/older"
sleep 0.05 # a later incarnation
older=$supervisor
"${server[@]}" --metrics-gateway 127.0.0.1:9 >"$work/newer" 2>&1 &
newer=$!
wait "$older"
[ $? -eq 1 ] || fail "the older of two: $(cat "$work/older")"
[ -s "$work/pushed/embedding_server-0" ] || fail "who failed pushed no last page: $(cat "$work/older")"
grep -q '^saffron_embedding_server_ready 0$' "$work/pushed/embedding_server-0" || fail "who failed says that it is ready"
kill "$newer"
wait "$newer" || fail "a gateway that is away: $(cat "$work/newer")"
[ "$(grep -c 'WARN embedding_server/0 metrics_gateway_away url=http://127\.0\.0\.1:9/' "$work/newer")" -eq 1 ] ||
    fail "a gateway that is away: expected one line, got: $(cat "$work/newer")"
# shellcheck disable=SC2086 # a list of ids
kill $helpers
wait
command -v promtool >/dev/null || skip "all but promtool check metrics: the package prometheus is not installed"
exit 0
