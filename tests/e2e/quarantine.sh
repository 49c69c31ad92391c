#!/usr/bin/env bash
# Bad rows: each is listed once with file, line, reason and row, counted in every epoch, whoever reads it; too
# many of them stop the job with one line.
. "$(dirname "$0")/lib.sh"
"$B/saffron-data-compose" generate --rows 20000 --test-rows 2000 --out "$work/data" >"$work/out" || fail "generate"
mv "$work/data" "$work/good"
mkdir "$work/data"

# 40 bad rows in two files, 30 of them in one; and one in the test file. Awk counts lines as we do, from 1.
awk -F'\t' -v OFS='\t' 'NR % 500 == 7 && NR <= 15000 { $(NR % 3 ? 1 : 2) = "bad" } { print }' \
    "$work/good/train.tsv" | head -n 15000 | gzip >"$work/data/train-1.tsv.gz"
tail -n 5000 "$work/good/train.tsv" | awk 'NR % 500 == 7 { print "too\tshort"; next } { print }' >"$work/data/train-2.tsv"
awk 'NR == 1999 { print ""; next } { print }' "$work/good/test.tsv" >"$work/data/test.tsv"
job=(--config configs/bench --data "$work/data" --set 'data.train=[train-*]' --set data.batch_size=256
    --set data.block_rows=512)

# listed PYTHON -- an expression over `rows` (lists of 4 fields of all quarantine files) and `files`.
listed() {
    "$python" - "$work/run/quarantine" "$1" <<'PY' || fail "the quarantine files are not as expected"
import glob, os, sys
files = sorted(glob.glob(sys.argv[1] + "/*"))
rows = [line.rstrip("\n").split("\t") for f in files for line in open(f, newline="\n")]
names = [os.path.basename(f) for f in files]
if not eval(sys.argv[2]):
    print("not true:", sys.argv[2], names, len(rows), rows[:3])
    sys.exit(1)
PY
}

for composes in 1 2; do
    local_run "${job[@]}" --data-composes "$composes" --epochs 2 --set data.max_bad_ratio=0.01
    expect_success
    expect "samples_read == 40000" "samples_quarantined == 80" "samples_trained == 39920" "test_samples == 1999"
    listed "names == ['data_compose-%d.tsv' % i for i in range($composes)]"
    listed "len(rows) == 41 and all(len(r) == 4 for r in rows)"
    listed "len({(r[0], r[1]) for r in rows}) == 41"
    listed "sorted(int(r[1]) for r in rows if r[0].endswith('train-1.tsv.gz')) == list(range(7, 15000, 500))"
    listed "[r[3] for r in rows if r[0].endswith('train-2.tsv')] == [r'too\tshort'] * 10"
    listed "[(r[1], r[3]) for r in rows if r[0].endswith('test.tsv')] == [('1999', '')]"
    listed "all('bad' in r[3] and 'bad' in r[2] for r in rows if r[0].endswith('train-1.tsv.gz'))"
done

# stopped WHAT PATTERN ARG... -- a run that more bad rows end than are allowed: one line.
stopped() {
    local what=$1 pattern=$2
    shift 2
    local_run "${job[@]}" "$@"
    [ "$status" -eq 1 ] || fail "$what: exit status $status, expected 1"
    grep -qE "^saffron local: .*$pattern" "$work/err" || fail "$what: expected '$pattern', got: $(cat "$work/err")"
    expect "error"
    nothing_left
}

first='more than data\.max_bad_ratio 0\.001 allows \(.*/quarantine/data_compose-[01]\.tsv\); the first: .*train-1\.tsv\.gz:[0-9]+: .*bad'
stopped "the default" "11 of [0-9]+ training rows are bad \(0\.0[0-9]+\), $first"
stopped "two read" "[0-9]+ of [0-9]+ training rows are bad \(0\.0[0-9]+\), $first" --data-composes 2
stopped "none allowed" "1 of 7 training rows are bad \(0\.143\)" --set data.max_bad_ratio=0
stopped "at the end" "10 of 5000 training rows are bad \(0\.002\)" --set data.max_bad_ratio=0.0019 \
    --set 'data.train=[train-2.tsv]'
rm "$work/data/train-1.tsv.gz" "$work/data/train-2.tsv"
cp "$work/good/train.tsv" "$work/data/train-1.tsv"
sed -i '5,9s/^/x/' "$work/data/test.tsv"
stopped "the test rows" "6 of 2000 test rows are bad \(0\.003\), .*the first: .*test\.tsv:5: "
