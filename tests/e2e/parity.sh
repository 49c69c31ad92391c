#!/usr/bin/env bash
# The numbers of PyTorch (scripts/fixtures/jobs.py), reached by real processes: rows of data in, through middlewares and 1, 2 and 3
# embedding servers in `exact`, each step's loss, dense weights and rows of tables out. And by two ranks, each with half of the batch.
. "$(dirname "$0")/lib.sh"
golden=tests/golden/jobs.txt
sgd=(--max-steps 1 --set model.optimizer.type=sgd --set model.optimizer.learning_rate=1)
for table in user tag item; do
    sgd+=(--set "embedding.tables.$table.optimizer.type=sgd" --set "embedding.tables.$table.optimizer.learning_rate=1")
done
export LOG_LEVEL=debug # the loss of each step

# same MODEL WHAT SERVERS ARG...
same() {
    local model=$1 what=$2 servers=$3
    shift 3
    local_run --quiet --config "$work/jobs/$model" --init-from "$work/jobs/$model/init" --embedding-servers "$servers" "$@"
    expect_success
    "$python" -B tests/e2e/parity.py "$what" "$golden" "$model" "$work/run" "$servers" >"$work/compared" ||
        fail "$servers embedding server(s), $*: $(cat "$work/compared")"
    echo "$servers embedding server(s): $(cat "$work/compared")"
}

models=$("$python" -B tests/e2e/parity.py jobs "$golden" "$work/jobs") || fail "the jobs could not be written"
for model in $models; do
    for servers in 1 2 3; do
        same "$model" steps "$servers"
        same "$model" gradients "$servers" "${sgd[@]}"
    done
    same "$model" steps 2 --middlewares 2 --trainers 2 --set data.batch_size=4
done
