#!/usr/bin/env bash
# A full disk under the run directory, at whatever moment it is noticed: one line, exit status 1, nothing left.
. "$(dirname "$0")/lib.sh"
mkdir "$work/disk"
[ "$(id -u)" -eq 0 ] || skip "disk full: needs root, to mount a small disk"
mount -t tmpfs -o size=4k tmpfs "$work/disk" 2>/dev/null || skip "disk full: no tmpfs can be mounted here"
umount_disk() {
    local status=$?
    umount -l "$work/disk" 2>/dev/null
    (exit "$status")
    at_exit
}
trap umount_disk EXIT

# The pages that the files of a run need, one after the other: the job's files, local.json, pids, logs, summary.
for pages in 1 3 5 6 8 10 12; do
    mount -o remount,size=$((4 * pages))k "$work/disk" || fail "cannot change the size of the disk"
    timeout -k 1 $((90 * slow)) "$B/saffron" local "${short[@]}" --run-dir "$work/disk/run" --timeout $((60 * slow)) --quiet >"$work/out" 2>"$work/err"
    status=$?
    [ "$status" -eq 1 ] || [ "$status" -eq 0 ] || fail "$pages pages: exit status $status, expected 1: $(cat "$work/err")"
    if [ "$status" -eq 1 ]; then
        grep -q 'No space left on device' "$work/err" || fail "$pages pages: it does not say why: $(cat "$work/err")"
        [ "$(grep -c . "$work/err")" -le 2 ] || fail "$pages pages: more than one line: $(cat "$work/err")"
        failed=$pages
    fi
    for file in "$work"/disk/run/pids/*; do
        pid=$(cat "$file" 2>/dev/null)
        [ -z "$pid" ] || ! kill -0 "$pid" 2>/dev/null || fail "$pages pages: process $pid is still there"
    done
    rm -rf "$work/disk/run"
done
[ "${failed:-0}" -ge 6 ] || fail "the disk was full before the roles were started only: ${failed:-never} pages"
