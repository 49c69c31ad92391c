#!/usr/bin/env bash
# `exact`: any role is killed at any moment, `local --restart on-failure` keeps it up, and the job ends with the bits of a run that nothing
# happened to (tests/e2e/exact_kills.py). RUNS of them (`make exact-kills` asks for 100), by seeds from SEED on. The last line is
# `runs N identical N`.
. "$(dirname "$0")/lib.sh"
RUNS=${RUNS:-3} SEED=${SEED:-1}
if [ -d "$data/frappe_sub" ]; then
    job=(--config configs/frappe --data "$data/frappe_sub" --set data.batch_size=256)
elif [ -d "$data/adult" ]; then
    job=(--config configs/adult --data "$data/adult")
else
    job=("${short[@]}")
fi
job+=(--set global.mode=full --set global.exact=true --set global.save_state=true --set global.checkpoint.every_steps=20
    --trainers 2 --middlewares 2 --embedding-servers 2)

# ---- what is told of it ----
went_back() {
    "$B/saffron" status --run-dir "$work/run" 2>/dev/null |
        grep -qE '^generation [0-9]+: the job went back to a checkpoint [0-9]+ times?, and made [0-9]+ steps again$'
}
# hit -- and give it some seconds; just behind a checkpoint there is nothing to go back for.
hit() {
    local tries=60
    kill -9 "$(cat "$work/run/pids/embedding_server-1")"
    until went_back || [ $((tries -= 1)) -eq 0 ]; do
        sleep 0.05
    done
}
local_start "${job[@]}" --epochs 100000 --restart on-failure
wait_for 60 "training" is_training
for _ in 1 2 3 4 5 6; do
    went_back || hit
done
went_back || fail "the job does not go back"
for name in trainer/0 trainer/1 embedding_server/0; do
    grep -qE "^$name exited with status 75: \`exact\`: embedding_server/1.0 lacks [0-9]+ batches that trainers have; all roles go back to .*starting it again in 0\.[0-9] s$" \
        "$work/out" || fail "$name does not say why it goes back"
done
! grep -qE '^(middleware|data_compose)/[0-9] exited' "$work/out" || fail "others went back too"
kill -TERM "$supervisor"
wait_end 60
nothing_left

# ---- the bits ----
runs=$B/exact-kills # what a run that failed left stays there
rm -rf "$runs"
mkdir -p "$runs"
PYTHONDONTWRITEBYTECODE=1 "$python" tests/e2e/exact_kills.py "$B" "$runs" "$RUNS" "$SEED" "${job[@]}" --epochs 2
