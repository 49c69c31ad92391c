#!/usr/bin/env bash
# What checkpoints cost a job that goes on: configs/bench with 5 million live rows, in turns with a checkpoint of all rows and without;
# see checkpoint.py. PERIOD (30) seconds a turn, TURNS (4) of each kind.
. "$(dirname "$0")/lib.sh"
out=$out/checkpoint # its own data: 250,000 ids a column
mkdir -p "$out"
"$B/saffron-data-compose" generate --out "$out/data" --rows "${ROWS:-2000000}" --test-rows 1000 --features 26 --ids 250000 --dense 13
PYTHONPATH=tests/bench "$python" -B tests/bench/checkpoint.py "$B" "$out/data" "$work/run" "$out" "${PERIOD:-30}" "${TURNS:-4}"
