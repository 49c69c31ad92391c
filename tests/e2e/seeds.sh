# tests/e2e/seeds.sh -- variants of a job on real data, each trained with all SEEDS (1), and their mean AUC compared;
# sourced after lib.sh, never run (it is not executable).
#
# One seed tells less than three: a script that compares has a wider tolerance for it.
# shellcheck shell=bash disable=SC2154 # work, data, python: of lib.sh
seeds=${SEEDS:-1}
read -ra seed_list <<<"$seeds"

# tolerance_of_seeds ONE THREE -- the one that the number of seeds allows.
tolerance_of_seeds() {
    if [ "${#seed_list[@]}" -ge 3 ]; then echo "$2"; else echo "$1"; fi
}

# train_seeds JOB SET VARIANT ARG... -- summaries in $work/JOB-VARIANT-SEED.json.
train_seeds() {
    local job=$1 set=$2 variant=$3 seed
    shift 3
    for seed in "${seed_list[@]}"; do
        local_run --config "configs/$job" --data "$data/$set" --seed "$seed" --quiet "$@"
        expect_success
        expect "samples_quarantined == 0"
        cp "$work/run/summary.json" "$work/$job-$variant-$seed.json"
    done
}

# compare_auc JOB loses|differs TOLERANCE REFERENCE VARIANT... -- status 1 where the mean AUC of a variant loses more than
# the tolerance, or differs by more to either side.
compare_auc() {
    "$python" - "$work" "$seeds" "$@" <<'PY'
import json, sys
work, seeds, job, how, tolerance, reference, *variants = sys.argv[1:]
def mean(variant):
    aucs = [json.load(open(f"{work}/{job}-{variant}-{seed}.json"))["test_auc"] for seed in seeds.split()]
    print(f"{job}: {variant} AUC " + " ".join(f"{auc:.5f}" for auc in aucs))
    return sum(aucs) / len(aucs)
whole, worst = mean(reference), 0
for variant in variants:
    lost = whole - mean(variant)
    print(f"{job}: {variant} {'loses' if how == 'loses' else 'differs by'} {lost:+.5f}, at most {tolerance}")
    worst = max(worst, lost if how == "loses" else abs(lost))
sys.exit(worst > float(tolerance))
PY
}
