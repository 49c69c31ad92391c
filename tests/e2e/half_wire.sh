#!/usr/bin/env bash
# A wire of 16 bits (rows, embeddings and both kinds of gradients rounded to the nearest on their way) trains what a
# wire of float32 trains: on real data the mean AUC of SEEDS="1 2 3" loses at most 0.001. One seed tells less: 0.003. In `full`,
# where a run repeats itself, so that all there is between two runs is the wire; hybrid runs differ among themselves by
# more than this.
#   WIRE="bfloat16 float16"   the types that are compared with float32
. "$(dirname "$0")/lib.sh"
seeds=${SEEDS:-1}
read -ra seed_list <<<"$seeds"
wires=${WIRE:-bfloat16}
read -ra wire_list <<<"$wires"
tolerance=0.001
[ "${#seed_list[@]}" -ge 3 ] || tolerance=0.003
mode=${MODE:-full}

# train JOB SET NAME DTYPE -- all seeds; summaries in $work/JOB-NAME-SEED.json.
train() {
    local seed
    for seed in "${seed_list[@]}"; do
        local_run --config "configs/$1" --data "$data/$2" --seed "$seed" --quiet \
            --set "global.mode=$mode" --set "global.wire.dtype=$4"
        expect_success
        expect "samples_quarantined == 0"
        cp "$work/run/summary.json" "$work/$1-$3-$seed.json"
    done
}

# compare JOB -- and the wire is what it was told to be: its payloads are half as large.
compare() {
    "$python" - "$work" "$1" "$tolerance" "$seeds" "${wire_list[@]}" <<'PY' || fail "$1: a 16-bit wire loses quality, or is none"
import json, sys
work, job, tolerance, seeds, *wires = sys.argv[1:]
def runs(name):
    return [json.load(open(f"{work}/{job}-{name}-{seed}.json")) for seed in seeds.split()]
def mean(name):
    aucs = [run["test_auc"] for run in runs(name)]
    print(f"{job}: {name} AUC " + " ".join(f"{auc:.5f}" for auc in aucs))
    return sum(aucs) / len(aucs)
def bytes_of(name):
    return runs(name)[0]["bytes_per_sample"]
bad, single, whole = False, mean("reference"), bytes_of("reference")
for wire in wires:
    lost, part = single - mean("wire-" + wire), bytes_of("wire-" + wire)
    print(f"{job}: wire {wire} loses {lost:+.5f}, at most {tolerance}")
    bad |= lost > float(tolerance)
    for hop in "middleware_to_trainer", "trainer_to_middleware":
        ratio = part[hop] / whole[hop]
        print(f"{job}: {hop} {whole[hop]:.0f} > {part[hop]:.0f} bytes a sample")
        bad |= not (0.99 < ratio < 1.01 if wire == "float32" else 0.45 < ratio < 0.6)
sys.exit(bad)
PY
}

for row in adult:adult frappe:frappe_sub; do
    job=${row%%:*} set=${row#*:}
    need_data "$set"
    train "$job" "$set" reference float32
    for wire in "${wire_list[@]}"; do
        train "$job" "$set" "wire-$wire" "$wire"
    done
    compare "$job"
done
