#!/usr/bin/env bash
# Rows of 16 bits, rounded stochastically, train what float32 rows train: on real data the mean AUC of SEEDS="1 2 3"
# loses at most 0.001. In `full`, where a run repeats itself, so that all there is between two runs is the rows; hybrid
# runs differ among themselves by more than this.
. "$(dirname "$0")/lib.sh"
. tests/e2e/seeds.sh
tolerance=$(tolerance_of_seeds 0.003 0.001)

for row in adult:adult frappe:frappe_sub; do
    job=${row%%:*} set=${row#*:}
    need_data "$set"
    for dtype in float32 bfloat16 float16; do
        train_seeds "$job" "$set" "$dtype" --set "global.mode=${MODE:-full}" --set "embedding.defaults.dtype=$dtype"
    done
    compare_auc "$job" loses "$tolerance" float32 bfloat16 float16 || fail "$job: 16-bit rows lose quality"
done
