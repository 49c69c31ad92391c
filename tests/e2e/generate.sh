#!/usr/bin/env bash
# `saffron-data-compose generate`: the same rows in every packing, nothing written over, nothing left of a run that
# fails; and a job that trains on them.
. "$(dirname "$0")/lib.sh"
generate=("$B/saffron-data-compose" generate --rows 20000 --test-rows 4000)

# refused STATUS PATTERN ARG...
refused() {
    local want=$1 pattern=$2
    shift 2
    "${generate[@]}" "$@" >"$work/out" 2>"$work/err"
    local status=$?
    [ "$status" -eq "$want" ] || fail "$*: exit status $status, expected $want: $(cat "$work/err")"
    grep -qE -e "$pattern" "$work/err" || fail "$*: expected '$pattern', got: $(cat "$work/err")"
}

"${generate[@]}" --out "$work/plain" >"$work/said" || fail "generate"
grep -qE '/train.tsv: 20000 rows, [0-9]+ bytes, [0-9]+ clicks, best possible AUC 0\.8' "$work/said" ||
    fail "what it says: $(cat "$work/said")"
[ "$(wc -l <"$work/plain/train.tsv") $(wc -l <"$work/plain/test.tsv")" = "20000 4000" ] || fail "wrong number of rows"
"${generate[@]}" --out "$work/gzip" --gzip >"$work/out" || fail "generate --gzip"
"${generate[@]}" --out "$work/zstd" --zstd >"$work/out" || fail "generate --zstd"
for set in train test; do
    zcat "$work/gzip/$set.tsv.gz" | cmp - "$work/plain/$set.tsv" || fail "$set: gzip is another log"
done

# Again: the files stay; other parameters, or files of somebody else: refused.
before=$(stat -c '%i %Y' "$work/plain/train.tsv")
"${generate[@]}" --out "$work/plain" >"$work/out" || fail "a second time"
grep -q 'already' "$work/out" || fail "a second time: $(cat "$work/out")"
[ "$before" = "$(stat -c '%i %Y' "$work/plain/train.tsv")" ] || fail "a second time: written again"
refused 2 'plain/train\.tsv is there and not what these parameters make' --out "$work/plain" --seed 2
refused 2 'plain/train\.tsv is there and not what these parameters make' --out "$work/plain" --gzip
echo more >>"$work/plain/test.tsv"
refused 2 'is there and not what these parameters make' --out "$work/plain"
sed -i '$d' "$work/plain/test.tsv"
"${generate[@]}" --out "$work/plain" >"$work/out" || fail "whole again"

refused 2 '\-\-out DIR is needed'
refused 2 'rows: expected an integer in 1\.\..*, got .0' --out "$work/x" --rows 0
refused 2 "ids: expected an integer in 1\.\..*, got 'many'" --out "$work/x" --ids many
refused 2 'expected --gzip or --zstd once' --out "$work/x" --zstd --gzip
refused 1 'test.tsv: cannot make folder' --out "$work/plain/test.tsv/no-folder"
"${generate[@]}" --help | grep -q -- '--test-rows' || fail "--help"

# Several at once in one folder: one writes, the others wait and find its files.
pids=()
for i in 1 2 3; do
    "${generate[@]}" --rows 400000 --out "$work/many" >"$work/many.$i" 2>"$work/many.$i.err" &
    pids+=($!)
done
for pid in "${pids[@]}"; do
    wait "$pid" || fail "several at once: $(cat "$work"/many.*)"
done
[ "$(grep -l already "$work"/many.? | wc -l)" -eq 2 ] || fail "several at once: $(cat "$work"/many.*)"
grep -q 'many: another process writes there, waiting for it' "$work"/many.*.err || fail "nobody waited"
[ "$(wc -l <"$work/many/train.tsv") $(find "$work/many" -type f | wc -l)" = "400000 3" ] ||
    fail "several at once: $(ls -lA "$work/many")"
rm -r "$work/many"

# A file that may not grow stands for a full disk: one line, exit 1, nothing left but the folder.
(
    trap '' XFSZ
    ulimit -f 1000
    refused 1 'train\.tsv\.partial: cannot write at byte 1024000: File too large' --out "$work/full"
    [ "$(wc -l <"$work/err")" -eq 1 ] || fail "a full disk: not one line: $(cat "$work/err")"
) || exit 1
[ -z "$(ls -A "$work/full")" ] || fail "a full disk: left $(ls "$work/full")"

# Killed in the middle: the next one begins anew.
"$B/saffron-data-compose" generate --rows 100000000 --test-rows 4000 --out "$work/killed" >"$work/out" 2>&1 &
pid=$!
for ((i = 0; i < 200; i++)); do
    [ -s "$work/killed/train.tsv.partial" ] && break
    sleep 0.02
done
kill -KILL "$pid"
wait "$pid" 2>/dev/null
[ "$(ls "$work/killed")" = train.tsv.partial ] || fail "killed: left $(ls "$work/killed")"
"${generate[@]}" --out "$work/killed" >"$work/out" || fail "after a kill"
cmp "$work/killed/train.tsv" "$work/plain/train.tsv" || fail "after a kill: another log"
[ ! -e "$work/killed/train.tsv.partial" ] || fail "after a kill: left behind"

local_run --config configs/bench --data "$work/plain" --set data.batch_size=256
expect_success
expect "job == 'bench'" "samples_read == 20000" "samples_quarantined == 0" "test_samples == 4000" "test_auc > 0.6"
