#!/usr/bin/env bash
# Several of each role train what one of each trains: on real data, with the same global batch, the quality
# is the same and every row is accounted for. Shapes are trainers x middlewares x embedding servers x
# data-composes. SEEDS="1 2 3" takes the mean of more seeds than one, and holds it to 0.002.
. "$(dirname "$0")/lib.sh"
. tests/e2e/seeds.sh
tolerance=$(tolerance_of_seeds 0.006 0.002) # hybrid runs of one shape differ by 0.006
shapes=(1x1x1x1 2x2x2x2 1x1x3x1 2x1x2x3)

# train_shape JOB SET SHAPE ROWS
train_shape() {
    local t m e c seed
    IFS=x read -r t m e c <<<"$3"
    train_seeds "$1" "$2" "$3" --trainers "$t" --middlewares "$m" --embedding-servers "$e" --data-composes "$c" \
        --set "data.batch_size=$((1024 / t))"
    for seed in "${seed_list[@]}"; do
        grep -q "\"samples_trained\": $4," "$work/$1-$3-$seed.json" || fail "$1 $3: not all $4 samples were trained"
    done
}

for row in adult:adult:$((5 * 32561)) frappe:frappe_sub:$((2 * 57722)); do
    IFS=: read -r job set rows <<<"$row"
    need_data "$set"
    for shape in "${shapes[@]}"; do
        train_shape "$job" "$set" "$shape" "$rows"
    done
    compare_auc "$job" differs "$tolerance" "${shapes[@]}" || fail "$job: the number of roles changed the quality"
done
