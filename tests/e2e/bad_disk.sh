#!/usr/bin/env bash
# The disk of a job's checkpoints is full, read-only, gone, slow, or fails to write or to fsync: a checkpoint that cannot be made is given
# up, with one warning and its reason; nothing of it is left, those before it stay, training goes on; and when the disk is well again
# the next one is made. The disk is a small tmpfs in mounts of the script's own, its errors are made by tests/preload/bad_disk.c.
if [ -z "${OWN_MOUNTS:-}" ]; then
    for way in "unshare -m" "unshare -rm"; do
        # shellcheck disable=SC2086 # words
        $way mount -t tmpfs -o size=64k none /mnt 2>/dev/null && OWN_MOUNTS=1 exec $way "$0" "$@"
    done
fi
. "$(dirname "$0")/lib.sh"
[ -n "${OWN_MOUNTS:-}" ] || skip "a bad disk: no mounts can be made here (unshare -m, or -rm)"
preload=$PWD/$B/tests/preload/bad_disk.so
[[ $B != /* ]] || preload=$B/tests/preload/bad_disk.so
[ -f "$preload" ] || fail "no $preload: run make B=$B unit"
disk=$work/disk all=$work/disk/checkpoints says=$work/says
mkdir "$disk"
mount -t tmpfs -o size=96m none "$disk" || fail "no small disk"
mkdir "$all"
leave() {
    local status=$?
    umount -l "$disk" 2>/dev/null
    (exit "$status")
    at_exit
}
trap leave EXIT

admin() {
    sed -n 's/.* admin=\(127\.0\.0\.1:[0-9]*\)$/\1/p' "$work/run/logs/trainer-0.log" | head -n 1
}
metric() {
    curl -s -m 2 "http://$(admin)/metrics" | awk -v name="saffron_trainer_$1" '$1 == name { printf "%d", $2 }'
}
# The latest that was given up, and why.
last_void() {
    curl -s -m 2 "http://$(admin)/status" | "$python" -c 'import json, sys
status = json.load(sys.stdin)
tried = [status["checkpoint"]] + status["checkpoints_before"]
print(*next(([one["name"], one["error"]] for one in tried if one["state"] == "failed"), []))'
}
more() { # METRIC THAN -- it has grown
    [ "$(metric "$1")" -gt "$2" ]
}
nothing_is_left() { # each folder is a checkpoint; one that is being made will be
    [ "$(find "$all" -mindepth 1 -maxdepth 1 -type d | wc -l)" -eq "$(find "$all" -mindepth 2 -maxdepth 2 -name manifest.json | wc -l)" ]
}
whole() { # checkpoints that are there with their manifest
    (cd "$all" && echo */manifest.json)
}

fill() { cat /dev/zero >>"$disk/filled" 2>/dev/null; }
# bad WHAT REASON [COMMAND] -- the disk is: one more is given up, for that. The one that was under way when it went bad may still have been
# made, which the first that is given up is behind; what that one had written is room again, so it is made bad once more.
bad() {
    local void samples before
    void=$(metric checkpoints_void_total)
    wait_for 30 "$1: a checkpoint is given up" more checkpoints_void_total "$void"
    [ $# -lt 3 ] || "$3"
    void=$(metric checkpoints_void_total) before=$(whole)
    wait_for 30 "$1: another is given up" more checkpoints_void_total "$void"
    last_void >"$work/last"
    grep -qE "$2" "$work/last" || fail "$1: expected '$2', got: $(cat "$work/last")"
    [ "$(whole)" = "$before" ] || fail "$1: there were $before, there are $(whole)"
    samples=$(metric samples_trained_total)
    wait_for 20 "$1: training goes on" more samples_trained_total "$samples"
}
# well WHAT -- again: the next one is made, and of those that were given up nothing is left.
well() {
    local made
    made=$(metric checkpoints_total)
    wait_for 30 "$1 is over: the next checkpoint" more checkpoints_total "$made"
    wait_for 10 "$1: what was given up is removed" nothing_is_left
    echo "$1: $(cat "$work/last")"
}

export SAFFRON_CHECKPOINT_DIR=$all BAD_DISK=$all BAD_DISK_SAYS=$says
[ "$slow" -gt 1 ] || export LD_PRELOAD=$preload # a sanitizer wants to be the first library
local_start "${short[@]}" --epochs 100000 --embedding-servers 2 --trainers 2 --set global.checkpoint.every_seconds=1 \
    --set global.checkpoint.keep=1 --set global.checkpoint.full_every=2
unset LD_PRELOAD
wait_for 60 "training" is_training
wait_for 30 "two checkpoints" more checkpoints_total 1

fill
bad "a full disk" "No space left on device" fill
rm "$disk/filled"
well "a full disk"

mount --bind "$disk" "$disk" || fail "no read-only disk"
mount -o remount,bind,ro "$disk" || fail "no read-only disk"
bad "a read-only disk" "Read-only file system"
umount -l "$disk"
well "a read-only disk"

mv "$all" "$disk/elsewhere"
mkdir "$work/nothing"
all=$work/nothing bad "a folder that is gone" "No such file or directory"
mv "$disk/elsewhere" "$all"
well "a folder that is gone"

# All are removed under the job: the next ones do not go on from what is not there.
rm -rf "${all:?}"/step-*
made=$(metric checkpoints_total)
wait_for 30 "two more" more checkpoints_total $((made + 1))

if [ "$slow" -eq 1 ]; then
    for fault in "W Input/output error" "F Input/output error"; do
        echo "${fault%% *}" >"$says"
        bad "a disk that fails (${fault%% *})" "${fault#* }"
        rm "$says"
        well "a disk that fails (${fault%% *})"
    done
    echo S >"$says"
    made=$(metric checkpoints_total) samples=$(metric samples_trained_total)
    wait_for 60 "a slow disk: a checkpoint" more checkpoints_total $((made + 1))
    more samples_trained_total "$samples" || fail "a slow disk: nothing was trained"
    grep ' checkpoint name=' "$work/run/logs/trainer-0.log" | tail -n 1 >"$work/last"
    "$python" - "$work/last" <<'PY' || fail "a slow disk: steps waited for it: $(cat "$work/last")"
import re, sys
line = open(sys.argv[1]).read()
seconds, held = float(re.search(r" seconds=(\S+)", line)[1]), float(re.search(r" held_ms=(\S+)", line)[1])
print(f"a slow disk: {seconds} s, of which {held} ms without a step")
sys.exit(not (seconds > 1 and held < 1000 * seconds / 4))
PY
    rm "$says"
fi

# A line of the log for each, or for those of ten seconds together, which says how many it leaves out.
told=$(awk '/ WARN trainer\/0 checkpoint_void / { n++; sub(/.* untold=/, ""); n += $1 } END { print n + 0 }' "$work/run/logs/trainer-0.log")
void=$(metric checkpoints_void_total)
if [ "$told" -lt 1 ] || [ "$told" -gt "$void" ]; then
    fail "the log tells of $told, $void were given up"
fi
"$B/saffron" stop --run-dir "$work/run" >"$work/stopped" 2>&1 || fail "stop: $(cat "$work/stopped")"
wait_end 60
nothing_left
"$B/saffron" verify "$all" >"$work/verified" || fail "verify: $(cat "$work/verified")"
grep -q ' good: ' "$work/verified" || fail "none is there: $(cat "$work/verified")"
[ -z "$(find "$all" -name '*.partial' -o -name '*.tmp.*')" ] || fail "left: $(find "$all" -name '*.partial' -o -name '*.tmp.*')"
