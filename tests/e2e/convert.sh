#!/usr/bin/env bash
# `saffron-data-compose convert`: the converted job trains to the same bits as its text; wrong files say what is wrong.
. "$(dirname "$0")/lib.sh"
exact=(--set global.mode=full --set global.exact=true --set data.batch_size=256)

convert() {
    "$B/saffron-data-compose" convert "$@" >"$work/said" 2>"$work/err"
}

# refused STATUS PATTERN ARG... -- one line, and no job.
refused() {
    local want=$1 pattern=$2
    shift 2
    convert "$@"
    local status=$?
    [ "$status" -eq "$want" ] || fail "convert $*: exit status $status, expected $want: $(cat "$work/err")"
    grep -qE -e "$pattern" "$work/err" || fail "convert $*: expected '$pattern', got: $(cat "$work/err")"
}

# run_fails STATUS PATTERN ARG...
run_fails() {
    local want=$1 pattern=$2
    shift 2
    local_run "$@"
    [ "$status" -eq "$want" ] || fail "$*: exit status $status, expected $want: $(cat "$work/err")"
    grep -qE -e "$pattern" "$work/err" || fail "$*: expected '$pattern', got: $(cat "$work/err")"
    nothing_left
}

# results -- what two trainings must have in common.
results() {
    "$python" -c 'import json, sys
f = json.load(open(sys.argv[1]))
print(*(f[k] for k in "samples_trained train_loss test_auc test_logloss test_samples rows_total".split()))' "$work/run/summary.json"
}

# A click log as Criteo has it, with two rows spoilt.
"$B/saffron-data-compose" generate --out "$work/clicks" --rows 20000 --test-rows 4000 --ids 1000 >"$work/said" || fail "generate"
sed -i '100s/^[01]/?/; 15000s/\t.*//' "$work/clicks/train.tsv"
job=(--config configs/criteo --data "$work/clicks" --set 'data.train=[train.tsv]' --set 'data.test=[test.tsv]')
convert "${job[@]}" --out "$work/lz4" || fail "convert: $(cat "$work/err")"
grep -qE '/train.sfb: 19998 rows, [0-9]+ bytes, 2 bad rows left out' "$work/said" || fail "what it says: $(cat "$work/said")"
grep -q '	15000	expected 40 fields, got 1	' "$work/lz4/quarantine/data_compose-0.tsv" || fail "quarantine"
convert "${job[@]}" --out "$work/zstd" --zstd || fail "convert --zstd: $(cat "$work/err")"
[ "$(stat -c %s "$work/zstd/train.sfb")" -lt "$(stat -c %s "$work/lz4/train.sfb")" ] || fail "zstd packs no better than LZ4"

# Without bad rows every batch is the same: mode full and exact, so the result is too.
sed -i '100d; 15000d' "$work/clicks/train.tsv"
local_run "${job[@]}" "${exact[@]}"
expect_success
results >"$work/text"
for form in lz4 zstd; do
    local_run --config "$work/$form" "${exact[@]}"
    expect_success
    expect "samples_read == 19998"
    results | diff "$work/text" - || fail "$form: trains to something else than the text"
done

# Two readers, and a standardized column.
local_run --config "$work/lz4" --data-composes 2 --set data.batch_size=256
expect_success
expect "samples_read == 19998" "test_samples == 4000"
convert "${short[@]}" --set 'data.columns.x1={kind: dense, standardize: true}' --out "$work/synthetic" || fail "synthetic: $(cat "$work/err")"
local_run "${short[@]}" "${exact[@]}" --set 'data.columns.x1={kind: dense, standardize: true}'
expect_success
results >"$work/text"
local_run --config "$work/synthetic" "${exact[@]}"
expect_success
results | diff "$work/text" - || fail "standardized: trains to something else than the generated rows"

# Files that are wrong: one line that names the file, and the block where it is one.
cp -r "$work/lz4" "$work/wrong"
head -c -1000 "$work/lz4/train.sfb" >"$work/wrong/train.sfb"
run_fails 1 'wrong/train\.sfb: ends early at byte [0-9]+ \(truncated file\?\)' --config "$work/wrong"
"$python" - "$work/lz4/train.sfb" "$work/wrong/train.sfb" <<'PY'
import sys
bytes_ = bytearray(open(sys.argv[1], "rb").read())
bytes_[len(bytes_) // 2] ^= 4
open(sys.argv[2], "wb").write(bytes_)
PY
run_fails 1 'wrong/train\.sfb: block 1 \(rows 8193 to 16384\) is broken: column [0-9]+: its checksum differs' --config "$work/wrong"
cp "$work/clicks/train.tsv" "$work/wrong/train.sfb"
run_fails 1 'wrong/train\.sfb: expected a file of .saffron-data-compose convert.' --config "$work/wrong"
run_fails 2 'made for other columns than data\.yml and embedding\.yml have now: convert the data again' \
    --config "$work/lz4" --set 'data.columns.I1={kind: dense}'
run_fails 1 'train\.sfb: expected plain text, gzip or zstd, got the binary form' "${job[@]}" --set "data.train=[$work/lz4/train.sfb]"

refused 2 'expected .*--config DIR and --out DIR|--config DIR and --out DIR are needed' --out "$work/x"
refused 2 'the job is in the binary form already' --config "$work/lz4" --out "$work/x"
refused 2 'lz4/global\.yml is there: .* has a job already' "${job[@]}" --out "$work/lz4"
sed -i '1,100s/^/x/' "$work/clicks/train.tsv"
refused 1 'rows are bad .*, more than data.max_bad_ratio' "${job[@]}" --out "$work/bad"
[ -z "$(find "$work/bad" -name '*.sfb*' -o -name '*.yml')" ] || fail "a job of too many bad rows: $(ls -A "$work/bad")"
