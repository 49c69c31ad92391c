#!/usr/bin/env bash
# Each role is cut off from each other one, both ways and one way, in real networks: training goes on by itself afterwards, and no
# update is lost or doubled (tests/e2e/partition.py). Some of all cuts; PAIRS=all (`make partitions`): all. Where no networks can be
# made it is skipped: there `faults.sh` has links that are dead one way, by a proxy.
. "$(dirname "$0")/lib.sh"
faults=$B/tests/e2e/faults
[ -x "$faults" ] || fail "no program $faults: run make B=$B unit"
mkdir "$work/job" "$work/runs"
"$faults" make "$work/job" || fail "the job"
# A network, mounts and processes of its own, which end with it: as root, or as a user who is root in there.
own=()
for way in "unshare -nmpf --kill-child --mount-proc" "unshare -rnmpf --kill-child --mount-proc"; do
    # shellcheck disable=SC2086 # words
    if $way sh -c 'mount -t tmpfs none /run && ip netns add a && ip link add t0 type veth peer name t1 netns a &&
        ip link add br0 type bridge && ip netns exec a true' 2>/dev/null; then
        read -r -a own <<<"$way"
        break
    fi
done
[ "${#own[@]}" -gt 0 ] || skip "no networks can be made here (unshare, ip netns, veth, bridge)"
# shellcheck disable=SC2016 # the inner shell's own
"${own[@]}" sh -c 'mount -t tmpfs none /run && exec "$@"' sh \
    env PYTHONDONTWRITEBYTECODE=1 "$python" tests/e2e/partition.py "$B" "$work/job" "$work/runs" "${PAIRS:-some}" 2>"$work/why" && exit 0
tail -n 5 "$work"/runs/run-*/logs/*.log
fail "$(cat "$work/why")"
