#!/usr/bin/env bash
# embedding_server.pin in a real job: each owner's thread has a core of its own as the kernel tells, other threads
# have all; off, nobody is moved; more workers than cores is an error that says so.
. "$(dirname "$0")/lib.sh"

# allowed SERVER -- the cores that the kernel lets each owner's thread of a server have, one line each.
allowed() {
    local task
    for task in /proc/"$(cat "$work/run/pids/embedding_server-$1")"/task/*; do
        [ "$(cat "$task/comm" 2>/dev/null)" != owner ] || sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' "$task/status"
    done
}
main_allowed() {
    sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' "/proc/$(cat "$work/run/pids/embedding_server-$1")/status"
}
stop() {
    kill -INT "$supervisor"
    wait_end $((20 * slow))
    nothing_left
}
all=$(sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' /proc/self/status)
cores=$(nproc)
workers=$((cores < 2 ? 1 : 2))

local_start "${long[@]}" --set global.embedding_server.workers="$workers" --set global.embedding_server.pin=true \
    --set global.embedding_server.numa_local=true
wait_for $((40 * slow)) "it trains" is_training
mapfile -t got < <(allowed 0)
[ "${#got[@]}" -eq "$workers" ] || fail "${#got[@]} owner threads, not $workers"
for core in "${got[@]}"; do
    [[ $core =~ ^[0-9]+$ ]] || fail "an owner's thread may use '$core', not one core"
    grep -qE "INFO .*placed core=$core node=|WARN .*not_placed core=$core " "$work/run/logs/embedding_server-0.log" ||
        fail "the log does not say that a thread was placed on core $core"
done
[ "$(printf '%s\n' "${got[@]}" | sort -u | wc -l)" -eq "$workers" ] || fail "owners share a core: ${got[*]}"
[ "$(main_allowed 0)" = "$all" ] || fail "the main thread may use $(main_allowed 0), not $all"
stop

local_start "${long[@]}" --set global.embedding_server.workers="$workers"
wait_for $((40 * slow)) "it trains" is_training
while read -r list; do
    [ "$list" = "$all" ] || fail "not pinned, an owner's thread may use '$list', not $all"
done < <(allowed 0)
! grep -q "placed" "$work/run/logs/embedding_server-0.log" || fail "placed although pin is off"
stop

[ "$cores" -lt 256 ] || exit 0
local_run "${short[@]}" --set global.embedding_server.workers=$((cores + 1)) --set global.embedding_server.pin=true
[ "$status" -ne 0 ] || fail "more workers than cores were taken"
grep -q "expected at most as many workers as the $cores cores that this process may use, got $((cores + 1))" \
    "$work/run/logs/embedding_server-0.log" "$work/err" || fail "no word about too many workers"
