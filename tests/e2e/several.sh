#!/usr/bin/env bash
# Several of each role train what one of each trains: on real data, with the same global batch, the quality
# is the same and every row is accounted for. Shapes are trainers x middlewares x embedding servers x
# data-composes. SEEDS="1 2 3" takes the mean of more seeds than one, and holds it to 0.002.
. "$(dirname "$0")/lib.sh"
seeds=${SEEDS:-1}
read -ra seed_list <<<"$seeds"
tolerance=0.002
[ "${#seed_list[@]}" -ge 3 ] || tolerance=0.006 # one seed: hybrid runs of one shape differ by this much

# train JOB SET SHAPE ROWS -- all seeds of one shape; summaries in $work/JOB-SHAPE-SEED.json.
train() {
    local job=$1 set=$2 shape=$3 rows=$4 seed t m e c
    IFS=x read -r t m e c <<<"$shape"
    for seed in "${seed_list[@]}"; do
        local_run --config "configs/$job" --data "$data/$set" --seed "$seed" --quiet --trainers "$t" \
            --middlewares "$m" --embedding-servers "$e" --data-composes "$c" \
            --set "data.batch_size=$((1024 / t))"
        expect_success
        expect "samples_trained == $rows" "samples_quarantined == 0"
        cp "$work/run/summary.json" "$work/$job-$shape-$seed.json"
    done
}

compare() {
    local job=$1
    shift
    "$python" - "$work" "$job" "$tolerance" "$seeds" "$@" <<'PY' || fail "$job: the number of roles changed the quality"
import json, sys
work, job, tolerance, seeds, *shapes = sys.argv[1:]
def auc(shape):
    runs = [json.load(open(f"{work}/{job}-{shape}-{seed}.json"))["test_auc"] for seed in seeds.split()]
    return sum(runs) / len(runs)
one = auc("1x1x1x1")
print(f"{job}: 1x1x1x1 AUC {one:.5f}")
worst = 0
for shape in shapes:
    difference = auc(shape) - one
    worst = max(worst, abs(difference))
    print(f"{job}: {shape} AUC {one + difference:.5f} ({difference:+.5f}, at most {tolerance})")
sys.exit(worst > float(tolerance))
PY
}

shapes=(2x2x2x2 1x1x3x1 2x1x2x3)
need_data adult
need_data frappe_sub
for shape in 1x1x1x1 "${shapes[@]}"; do
    train adult adult "$shape" $((5 * 32561))
    train frappe frappe_sub "$shape" $((2 * 57722))
done
compare adult "${shapes[@]}"
compare frappe "${shapes[@]}"
