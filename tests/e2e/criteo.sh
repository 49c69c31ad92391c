#!/usr/bin/env bash
# Criteo's own format with its missing values: every row is accounted for. Far too few rows for a claim on quality.
. "$(dirname "$0")/lib.sh"
need_data criteo_small
local_run --config configs/criteo --data "$data/criteo_small"
expect_success
expect "job == 'criteo'" "epochs == 1" "samples_read == 6000" "samples_quarantined == 0" "loss_spikes == 0" \
    "test_samples == 2000" "steps == 24" "test_auc > 0.6"
