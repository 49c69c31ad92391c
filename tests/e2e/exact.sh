#!/usr/bin/env bash
# `exact`: two runs with real processes, real clocks and two middlewares end with the same bits.
. "$(dirname "$0")/lib.sh"
need_data adult
exact=(--config configs/adult --data "$data/adult" --epochs 2 --set global.mode=full --set global.exact=true
    --middlewares 2 --embedding-servers 2)

# result -- what must be the same, of the run in $work/run.
result() {
    grep -o 'dense_digest=[0-9a-f]*' "$work/run/logs/trainer-0.log" || fail "the trainer told no digest"
    "$python" -c 'import json, sys
f = json.load(open(sys.argv[1]))
print([f[k] for k in ("steps", "train_loss", "test_auc", "test_logloss", "rows_total")])' "$work/run/summary.json"
}

for i in 1 2; do
    local_run "${exact[@]}"
    expect_success
    expect "mode == 'full'" "staleness_max == 1"
    result >"$work/result$i"
done
diff "$work/result1" "$work/result2" || fail "two exact runs differ"
local_run "${exact[@]}" --data-composes 2
[ "$status" -eq 2 ] || fail "two composers: exit status $status, expected 2"
grep -q 'exact: expected 1 data-compose, got 2' "$work/err" || fail "two composers: $(cat "$work/err")"
local_run "${exact[@]}" --seed 2
expect_success
result >"$work/result3"
! cmp -s "$work/result1" "$work/result3" || fail "another seed gives the same weights"
