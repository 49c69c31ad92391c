#!/usr/bin/env bash
# Data files that change while a job trains on them: one clear message, not an epoch that never ends.
. "$(dirname "$0")/lib.sh"
need_data adult
mkdir "$work/data"
zcat "$data/adult/train.tsv.gz" >"$work/whole.tsv"
for rows in 20000 30000; do
    head -n 25001 "$work/whole.tsv" >"$work/data/train.tsv"
    head -n $((rows + 1)) "$work/whole.tsv" >"$work/other.tsv"
    local_start --config configs/adult --data "$work/data" --set 'data.train=[train.tsv]' \
        --set 'data.test=[]' --epochs 10000
    wait_for 60 "training, before the files change" is_training
    mv "$work/other.tsv" "$work/data/train.tsv"
    wait_end 60
    [ "$status" -eq 1 ] || fail "$rows rows: exit status $status, expected 1"
    grep -q 'training files have changed since the job began: split [0-9]* has' "$work/err" ||
        fail "$rows rows: the message does not say it: $(cat "$work/err")"
    nothing_left
done
