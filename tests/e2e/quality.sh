#!/usr/bin/env bash
# What a job must reach, as its users would measure it: the mean of three seeds on real data, and the whole
# default job against the best AUC that its generator allows. Prints every figure.
#   MODELS=all   instead: the models of configs/models by name, and `hybrid` beside `full` (`make quality`, ten minutes)
. "$(dirname "$0")/lib.sh"

# three_seeds JOB SET ARG... -- their summaries in $work/JOB-SEED.json; every row accounted for each time.
three_seeds() {
    local job=$1 set=$2 seed
    shift 2
    for seed in 1 2 3; do
        local_run --config "configs/$job" --data "$data/$set" --seed "$seed" --quiet "$@"
        expect_success
        cp "$work/run/summary.json" "$work/$job-$seed.json"
    done
}

# mean_of JOB SET AUC_MIN LOGLOSS_MAX ARG...
mean_of() {
    local job=$1 set=$2 auc_min=$3 logloss_max=$4
    shift 4
    three_seeds "$job" "$set" "$@"
    "$python" - "$job" "$work" "$auc_min" "$logloss_max" "$*" <<'PY' || fail "$job: the mean of three seeds falls short"
import json, sys
job, work, auc_min, logloss_max = sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4])
args = sys.argv[5]
runs = [json.load(open(f"{work}/{job}-{seed}.json")) for seed in (1, 2, 3)]
auc = sum(r["test_auc"] for r in runs) / 3
logloss = sum(r["test_logloss"] for r in runs) / 3
print(f"{job} {args}: mean test AUC {auc:.5f} (at least {auc_min}), log loss {logloss:.5f} (at most {logloss_max}), "
      f"{runs[0]['samples_per_second']:.0f} samples/s")
sys.exit(not (auc >= auc_min and logloss <= logloss_max))
PY
}

# hybrid_as_full JOB SET ARG... -- with staleness 4, within 0.002 of `full`.
hybrid_as_full() {
    local job=$1 set=$2 mode
    shift 2
    for mode in hybrid full; do
        three_seeds "$job" "$set" --set "global.mode=$mode" --set global.staleness=4 "$@"
        mkdir "$work/$mode" && mv "$work/$job"-?.json "$work/$mode"
    done
    "$python" - "$work" "$job $*" <<'PY' || fail "$job $*: hybrid is not as good as full"
import glob, json, sys
work, what = sys.argv[1:]
auc = {m: sum(json.load(open(p))["test_auc"] for p in glob.glob(f"{work}/{m}/*")) / 3 for m in ("hybrid", "full")}
print(f"{what}: mean test AUC {auc['hybrid']:.5f} with staleness 4, {auc['full']:.5f} in full")
sys.exit(not auc["hybrid"] >= auc["full"] - 0.002)
PY
    rm -r "$work/hybrid" "$work/full"
}

if [ "${MODELS:-}" = all ]; then
    need_data adult
    need_data frappe_sub
    for model in dlrm dcn_v2 deepfm wide_deep finalmlp; do
        mean_of adult adult 0.902 0.325 --model $model
        hybrid_as_full adult adult --model $model
    done
    mean_of frappe frappe_sub 0.946 1 --model deepfm --epochs 8
    mean_of frappe frappe_sub 0.943 1 --model dlrm --epochs 8
    mean_of frappe frappe_sub 0.930 1 --model dcn_v2 --epochs 2
    mean_of frappe frappe_sub 0.927 1 --model wide_deep --epochs 2
    for model in dlrm dcn_v2 deepfm wide_deep finalmlp; do
        hybrid_as_full frappe frappe_sub --model $model
    done
    exit 0
fi

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
