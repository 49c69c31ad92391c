#!/usr/bin/env bash
# Files as people have them: plain, gzip and zstd in one set, in members, with other line ends, without the last one;
# and what is broken or is no data file at all: one line that names it.
. "$(dirname "$0")/lib.sh"
generate=("$B/saffron-data-compose" generate --rows 4000 --test-rows 1000)
"${generate[@]}" --out "$work/good" >"$work/out" || fail "generate"
"${generate[@]}" --out "$work/zstd" --zstd >"$work/out" || fail "generate --zstd"
good=$work/good/train.tsv
mkdir -p "$work/data/day=1" "$work/data/day=2"
in=$work/data
cp "$good" "$in/day=1/part-1.tsv.gz" # its name is not what it is
{ head -n 1500 "$good" | gzip; tail -n 2500 "$good" | gzip; } >"$in/day=1/part-2.tsv"
cat "$work/zstd/train.tsv.zst" "$work/zstd/train.tsv.zst" >"$in/day=2/part-1"
sed 's/$/\r/' "$good" >"$in/day=2/part-2"
head -c -1 "$good" >"$in/day=2/part-3"
: >"$in/day=2/part-4"
cp "$work/zstd/test.tsv.zst" "$in/test"
run=(--config configs/bench --data "$in" --set data.batch_size=256 --set 'data.test=[test]')
all=("${run[@]}" --set "data.train=['day=*/part-*']")
local_run "${all[@]}" --data-composes 2
expect_success
expect "samples_read == 6 * 4000" "samples_quarantined == 0" "test_samples == 1000"

# One file alone and the same one in each packing give the same training to the bit.
for file in 'day=1/part-1.tsv.gz' 'day=1/part-2.tsv' 'day=2/part-2' 'day=2/part-3'; do
    local_run "${run[@]}" --set "data.train=['$file']" --set global.mode=full --set global.exact=true
    expect_success
    "$python" -c 'import json, sys; f = json.load(open(sys.argv[1])); print(f["train_loss"], f["test_auc"])' \
        "$work/run/summary.json" >>"$work/same"
done
[ "$(sort -u "$work/same" | wc -l)" -eq 1 ] || fail "packings differ: $(cat "$work/same")"

# fails STATUS PATTERN ARG... -- on standard error, one line and where logs are; with 2 before anything starts.
fails() {
    local want=$1 pattern=$2
    shift 2
    local_run "${run[@]}" "$@"
    [ "$status" -eq "$want" ] || fail "$*: exit status $status, expected $want: $(cat "$work/err")"
    grep -qE -e "$pattern" "$work/err" || fail "$*: expected '$pattern', got: $(cat "$work/err")"
    [ "$(wc -l <"$work/err")" -le 2 ] || fail "$*: expected one line: $(cat "$work/err")"
    nothing_left
}

one=(--set 'data.train=[broken]')
size=$(stat -c %s "$work/zstd/train.tsv.zst")
head -c $((size - 100)) "$work/zstd/train.tsv.zst" >"$in/broken"
fails 1 "/broken: zstd data ends early \(truncated file\?\) at byte $((size - 100)) " "${one[@]}"
gzip <"$good" >"$in/broken"
size=$(stat -c %s "$in/broken")
truncate -s $((size / 2)) "$in/broken"
fails 1 "/broken: gzip data ends early \(truncated file\?\) at byte $((size / 2)) " "${one[@]}"
{ head -c 50000 "$work/zstd/train.tsv.zst"; echo "nothing of zstd's"; } >"$in/broken"
fails 1 "/broken: zstd data (is broken|ends early).* at byte [0-9]+ " "${one[@]}"
{ gzip <"$good"; echo tail; } >"$in/broken"
fails 1 "/broken: gzip data is followed by something else at byte $size " "${one[@]}"
{ cat "$good"; head -c 1100000 /dev/zero | tr '\0' x; } >"$in/broken"
fails 1 "/broken:4001: line is longer than 1048576 bytes" "${one[@]}"
{ cat "$good"; printf '1\t\0\t1\n'; head -c 300 /dev/zero; } >"$in/broken"
fails 1 "2 of 4002 training rows are bad .*/broken:4001: " "${one[@]}" --set data.max_bad_ratio=0.0001
printf 'PK\3\4and so on' >"$in/broken"
fails 1 "/broken: expected plain text, gzip or zstd, got zip" "${one[@]}"
: >"$in/broken"
fails 1 "/broken: no row in it" "${one[@]}"
ln -s missing "$in/broken-link"
mkfifo "$in/pipe"
fails 2 "data\.yml:[0-9]+|--set.*" --set 'data.train=[nothing-*]'
fails 2 "no file matches 'nothing-\*' in " --set 'data.train=[nothing-*]'
fails 2 "'\*\*' is not supported" --set "data.train=['**/part-1']"
fails 2 "day=1: expected a file, got a folder" --set "data.train=['day=*']"
fails 2 "broken-link: cannot be read: No such file" --set "data.train=['broken-*']"
fails 2 "pipe: expected a file, got a pipe" --set 'data.train=[pipe]'
