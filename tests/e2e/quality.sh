#!/usr/bin/env bash
# What a job must reach, as its users would measure it: the mean of three seeds on real data, and the whole
# default job against the best AUC that its generator allows. Prints every figure.
. "$(dirname "$0")/lib.sh"

# mean_of JOB SET ARG... -- three seeds; every row accounted for each time.
mean_of() {
    local job=$1 set=$2 seed
    shift 2
    for seed in 1 2 3; do
        local_run --config "configs/$job" --data "$data/$set" --seed "$seed" --quiet
        expect_success
        cp "$work/run/summary.json" "$work/$job-$seed.json"
    done
    "$python" - "$job" "$work" "$@" <<'PY' || fail "$job: the mean of three seeds falls short"
import json, sys
job, work, auc_min, logloss_max = sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4])
runs = [json.load(open(f"{work}/{job}-{seed}.json")) for seed in (1, 2, 3)]
auc = sum(r["test_auc"] for r in runs) / 3
logloss = sum(r["test_logloss"] for r in runs) / 3
print(f"{job}: mean test AUC {auc:.5f} (at least {auc_min}), log loss {logloss:.5f} (at most {logloss_max}), "
      f"{runs[0]['samples_per_second']:.0f} samples/s")
sys.exit(not (auc >= auc_min and logloss <= logloss_max))
PY
}

local_run --config configs/synthetic --quiet
expect_success
expect "test_auc > test_auc_best_possible - 0.01" "samples_trained == 2000000" "0.75 <= test_auc_best_possible <= 0.85"
"$python" - "$work/run/summary.json" <<'PY'
import json, sys
s = json.load(open(sys.argv[1]))
print(f"synthetic: test AUC {s['test_auc']:.5f} of at best {s['test_auc_best_possible']:.5f}, "
      f"{s['samples_per_second']:.0f} samples/s")
PY
need_data adult
need_data frappe_sub
mean_of adult adult 0.902 0.325
mean_of frappe frappe_sub 0.930 1
