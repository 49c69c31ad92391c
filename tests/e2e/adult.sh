#!/usr/bin/env bash
# Real data with dense and categorical columns, standardized in a pass of its own: the quality must be there.
. "$(dirname "$0")/lib.sh"
need_data adult
local_run --config configs/adult --data "$data/adult"
expect_success
expect "job == 'adult'" "dataset == 'adult'" "model == 'dlrm'" "mode == 'hybrid'" "seed == 1" "epochs == 5" \
    "samples_read == 5 * 32561" "samples_quarantined == 0" "loss_spikes == 0" "test_samples == 16281" \
    "test_auc >= 0.900" "test_logloss <= 0.330" "0.2 < train_loss < 0.4" \
    "rows_total == 102" "test_auc_best_possible is None" "checkpoint is None"
for part in config/global.yml config/embedding.yml config/data.yml config/model.yml logs/nats.log \
    logs/trainer-0.log pids/nats pids/trainer-0; do
    [ -s "$work/run/$part" ] || [ "${part%%/*}" = logs ] || fail "no $part in the run directory"
done
grep -q 'AUC 0\.9' "$work/out" || fail "the result table does not tell the AUC"

# A folder that holds a run is not written to.
"$B/saffron" local --config configs/adult --data "$data/adult" --run-dir "$work/run" 2>"$work/err"
[ $? -eq 2 ] || fail "a second run into the same folder was not refused with exit 2"
grep -q 'holds another run' "$work/err" || fail "the refusal does not say why"
