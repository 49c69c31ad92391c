#!/usr/bin/env bash
# The default job, shortened: needs no data; two composers, middlewares and embedding servers must do as well.
. "$(dirname "$0")/lib.sh"
local_run "${short[@]}"
expect_success
expect "job == 'synthetic'" "loss_spikes == 0" "0.7 < test_auc_best_possible < 0.9" "test_auc < test_auc_best_possible + 0.02" \
    "test_auc > 0.6"

local_run "${short[@]}" --epochs 1 --seed 7 --data-composes 2 --middlewares 2 --embedding-servers 2 --quiet
expect_success
expect "seed == 7" "epochs == 1" "samples_read == 40000" "loss_spikes == 0" "test_auc > 0.6"
[ "$(find "$work/run/logs" -name "*.log" | wc -l)" -eq 8 ] || fail "expected 7 roles' logs and nats.log"
! grep -q 'samples.*loss [0-9.]*$' "$work/out" || fail "--quiet, but there is progress"
