#!/usr/bin/env bash
# libsvm, one table for ten features, no dense column (so no bottom network).
. "$(dirname "$0")/lib.sh"
need_data frappe_sub
local_run --config configs/frappe --data "$data/frappe_sub"
expect_success
expect "job == 'frappe'" "epochs == 2" "samples_read == 2 * 57722" "samples_quarantined == 0" "loss_spikes == 0" \
    "test_samples == 28860" "test_auc >= 0.925"
