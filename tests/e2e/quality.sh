#!/usr/bin/env bash
# What a job must reach, as its users would measure it: the mean of three seeds on real data, and the whole
# default job against the best AUC that its generator allows. Prints every figure.
#   MODELS=all   instead: the models of configs/models by name, and `hybrid` beside `full` (`make quality`, a quarter of an
#                hour); MODELS="deepfm dlrm" only these
#   JOBS=frappe  of these models only this job's   MODE=reach|hybrid   only what they reach, or only hybrid beside full
. "$(dirname "$0")/lib.sh"
missed=() # what was not reached: told at the end, all of it

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
    "$python" - "$job" "$work" "$auc_min" "$logloss_max" "$*" <<'PY' || missed+=("$job $*: the mean of three seeds falls short")
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

# hybrid_as_full JOB SET EPOCHS MODEL ARG... -- two trainers with half of the job's batch each: with staleness 4, within 0.002 of
# `full`, both with ARG.
hybrid_as_full() {
    local job=$1 set=$2 epochs=$3 model=$4 batch mode
    shift 4
    batch=$(sed -n 's/^batch_size: *//p' "configs/$job/data.yml")
    for mode in hybrid full; do
        three_seeds "$job" "$set" --model "$model" --epochs "$epochs" --set "global.mode=$mode" --set global.staleness=4 \
            --trainers 2 --set "data.batch_size=$((batch / 2))" "$@"
        mkdir "$work/$mode" && mv "$work/$job"-?.json "$work/$mode"
    done
    "$python" - "$work" "$job" "$model" "$epochs" "$*" <<'PY' || missed+=("$job $model: hybrid is not as good as full")
import json, sys
work, job, model, epochs, args = sys.argv[1:]
runs = {m: [json.load(open(f"{work}/{m}/{job}-{seed}.json")) for seed in (1, 2, 3)] for m in ("hybrid", "full")}
auc = {m: sum(r["test_auc"] for r in runs[m]) / 3 for m in runs}
each = "; ".join(f"{m} " + " ".join("%.5f" % r["test_auc"] for r in runs[m]) for m in runs)
print(f"{job:6} {model:9} {epochs} epochs, 2 trainers {args}: mean test AUC {auc['hybrid']:.5f} hybrid with staleness 4 "
      f"(used {max(r['staleness_max'] for r in runs['hybrid'])}), {auc['full']:.5f} full, "
      f"{auc['hybrid'] - auc['full']:+.5f} (at least -0.002); {each}", flush=True)
sys.exit(not auc["hybrid"] >= auc["full"] - 0.002)
PY
    rm -r "$work/hybrid" "$work/full"
}

# enough -- the end: everything that was measured was reached.
enough() {
    [ ${#missed[@]} -eq 0 ] || fail "$(printf '%s\n' "${missed[@]}")"
    exit 0
}

# What models must reach: job, folder of its data, model, epochs, test AUC, test log loss; what hybrid beside full is told as
# well. DeepFM on adult is warmed up: without, it loses 0.004 in the first 32 steps (docs/slow.md).
must_reach() {
    cat <<'END'
adult adult dlrm 5 0.902 0.325
adult adult dcn_v2 5 0.902 0.325
adult adult deepfm 5 0.902 0.325 --set model.schedule.warmup=32
adult adult wide_deep 5 0.902 0.325
adult adult finalmlp 5 0.902 0.325
frappe frappe_sub deepfm 8 0.946 1
frappe frappe_sub dlrm 8 0.943 1
frappe frappe_sub dcn_v2 2 0.930 1
frappe frappe_sub wide_deep 2 0.927 1
END
}

if [ -n "${MODELS:-}" ]; then
    need_data adult
    need_data frappe_sub
    while read -r job set model epochs auc logloss rest <&3; do
        read -ra args <<<"$rest"
        [[ " ${JOBS:-$job} " = *" $job "* ]] || continue
        [[ " ${MODELS/all/$model} " = *" $model "* ]] || continue
        [ "${MODE:-reach}" != reach ] || mean_of "$job" "$set" "$auc" "$logloss" --model "$model" --epochs "$epochs"
        [ "${MODE:-hybrid}" != hybrid ] || hybrid_as_full "$job" "$set" "$epochs" "$model" "${args[@]}"
    done 3< <(must_reach)
    enough
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
enough
