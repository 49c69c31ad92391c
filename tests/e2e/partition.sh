#!/usr/bin/env bash
# Each role is cut off from each other one, both ways and one way, in real networks: training goes on by itself afterwards, and no
# update is lost or doubled (tests/e2e/partition.py).
. "$(dirname "$0")/lib.sh"
faults=$B/tests/e2e/faults
[ -x "$faults" ] || fail "no program $faults: run make B=$B unit"
mkdir "$work/job" "$work/runs"
"$faults" make "$work/job" || fail "the job"
own=()
for try in "unshare -nmpf --kill-child --mount-proc" "unshare -rnmpf --kill-child --mount-proc"; do
    # shellcheck disable=SC2086 # words
    if $try sh -c 'mount -t tmpfs none /run && mkdir /run/netns && ip netns add a && ip link add v type veth peer name w netns a &&
        ip link add b type bridge' 2>/dev/null; then
        read -r -a own <<<"$try"
        break
    fi
done
[ "${#own[@]}" -gt 0 ] || skip "no networks can be made here (unshare, ip netns, veth)"
# shellcheck disable=SC2016 # the inner shell's own
"${own[@]}" sh -c 'mount -t tmpfs none /run && exec "$@"' sh env PYTHONDONTWRITEBYTECODE=1 "$python" tests/e2e/partition.py "$B" "$work/job" "$work/runs" ||
    { tail -n 5 "$work"/runs/run-*/logs/*.log; fail "see above"; }
