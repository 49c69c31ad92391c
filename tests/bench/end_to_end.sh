#!/usr/bin/env bash
# What a whole job costs: configs/bench with one process of each role, with 2 and 4 embedding servers, and with 2
# middlewares. CPU time of each role for a trained sample, bytes on each hop, and samples per second beside the same
# model in one PyTorch process that has its data in memory already.
#
# CPU times are the processes' own accounts of training (summary.json, cpu_us_per_sample): from the first batch on, evaluation
# and starting up left out. Demanded: data-compose, middleware and embedding server together at most 5 us a sample, and
# the other shapes within 10 % of the first. Shapes run in turns, ROUNDS (3) times; medians count. On a machine that is
# busy or slow no round begins after two minutes.
#   SHAPES="servers1 servers4"   only these      WIRE=float32   element type on all four paths
#   MODEL=dcn_v2|deepfm   instead of dlrm: as many samples of it as the peer's three epochs have, one of each role, to
#                 end_to_end_MODEL.json. Layers have the peer's sizes; its DeepFM has the weights of the first order in a table beside.
#   PRECISION=bfloat16   of the matrix products, the peer's too      THREADS=2   of the trainer
# The peer is a script that is not ours: SAFFRON_TORCH_REFERENCE (default ../shared/bench/torch_reference.py); without
# it there is no limit to compare with.
. "$(dirname "$0")/lib.sh"
reference=${SAFFRON_TORCH_REFERENCE:-../shared/bench/torch_reference.py}
blas=${SAFFRON_OPENBLAS:-/usr/lib/x86_64-linux-gnu/openblas-openmp/libblas.so.3}
rounds=${ROUNDS:-3}
wire=${WIRE:-bfloat16}
model=${MODEL:-dlrm}
precision=${PRECISION:-float32}
name=end_to_end
every_shape="servers1 servers2 servers4 middlewares2"
model_args=(--set "model.precision=$precision" --set "global.trainer.threads=${THREADS:-1}")
case $model in
dlrm) peer=dlrm params= ;; # those of configs/bench
dcn_v2) peer=dcnv2 params='crosses: 3, deep: [256, 128]' ;;
deepfm) peer=deepfm params='deep: [256, 128, 1]' ;;
*) die "no model '$model': expected dlrm, dcn_v2 or deepfm" ;;
esac
peer_args=(--set synth --model "$peer" --threads 2 --epochs 3)
[ "$precision" = float32 ] || peer_args+=(--bf16)
if [ "$model" != dlrm ]; then
    name+=_$model every_shape=servers1
    sed "s/^use: .*/use: $model/; s/^params: .*/params: {$params}/" configs/bench/model.yml >"$work/model.yml"
    export SAFFRON_MODEL_CONFIG=$work/model.yml
    model_args+=(--max-steps 147)
fi
read -ra shapes <<<"${SHAPES:-$every_shape}"
declare -A shape_args=(
    [servers1]="" [servers2]="--embedding-servers 2" [servers4]="--embedding-servers 4" [middlewares2]="--middlewares 2"
)

make_bench_data 2000000 100000

run_ours() { # SHAPE ROUND
    local args
    [ -n "${shape_args[$1]+there}" ] || die "no shape '$1': expected ${!shape_args[*]}"
    read -ra args <<<"${shape_args[$1]}"
    "$B/saffron" local --config configs/bench --data "$bench_data" --run-dir "$work/$1-$2" --timeout 200 --quiet \
        --set "global.wire.dtype=$wire" "${model_args[@]}" ${args[@]+"${args[@]}"} >"$work/run.out" 2>&1 ||
        die "$1, round $2: $(cat "$work/run.out")"
}

run_peer() {
    # With OpenBLAS on plain pthreads two threads are slower than one, which would be no fair comparison.
    [ -e "$blas" ] || die "$blas is not there: install libopenblas0-openmp (SAFFRON_OPENBLAS names another)"
    LD_PRELOAD=$blas "$python" "$reference" "${peer_args[@]}" >"$work/peer-$1.jsonl" ||
        die "round $1: $reference failed"
}

if [ ! -f "$reference" ]; then
    echo "no $reference: nothing to compare with (SAFFRON_TORCH_REFERENCE)"
fi
for ((round = 1; round <= rounds; round++)); do
    [ "$round" -eq 1 ] || [ "$SECONDS" -lt 120 ] || break
    for shape in "${shapes[@]}"; do
        run_ours "$shape" "$round"
    done
    [ ! -f "$reference" ] || run_peer "$round"
done

PYTHONPATH=tests/bench "$python" -B - "$work" "$out/$name.json" "$wire" "$model" "${peer_args[*]}" "${shapes[@]}" <<'PY'
import glob, json, sys
import report
work, path, wire, model, peer_args, *shapes = sys.argv[1:]
LIMIT_US, SHAPES_RATIO = (5.0, 0.9) if model == "dlrm" else (None, None) # others are too short: many rows are new to the tables
PATH = ("data_compose", "middleware", "embedding_server")

def median_of(runs, get):
    return report.median([get(run) for run in runs])

runs = {shape: [json.load(open(f)) for f in sorted(glob.glob(f"{work}/{shape}-*/summary.json"))] for shape in shapes}
first, peer = runs[shapes[0]], [json.loads(line)["median_sps"] for f in sorted(glob.glob(work + "/peer-*.jsonl"))
                                for line in open(f) if '"summary"' in line]
entries = [report.entry("end_to_end", median_of(first, lambda s: s["samples_per_second"]), "samples/s", report.median(peer),
                        "torch_reference " + peer_args)]
base = None
for shape in shapes:
    for role in runs[shape][0]["cpu_us_per_sample"]:
        entries.append(report.entry(f"cpu_{role}_{shape}", median_of(runs[shape], lambda s: s["cpu_us_per_sample"][role]),
                                    "us/sample"))
    cost = median_of(runs[shape], lambda s: sum(s["cpu_us_per_sample"][role] for role in PATH))
    entries.append(report.entry(f"cpu_path_{shape}", cost, "us/sample", LIMIT_US, "data-compose, middleware, embedding server",
                                more_is_better=False, demanded=LIMIT_US and 1))
    if base is None:
        base = cost
    else:
        entries.append(report.entry(f"cpu_path_{shape}_beside_{shapes[0]}", cost, "us/sample", base, shapes[0],
                                    more_is_better=False, demanded=SHAPES_RATIO))
for hop in sorted(first[0]["bytes_per_sample"]):
    entries.append(report.entry(hop, median_of(first, lambda s: s["bytes_per_sample"][hop]), "bytes/sample"))
entries.append(report.entry("wire_bytes_of_an_element", {"float32": 4}.get(wire, 2), "bytes"))
entries.append(report.entry("rounds", len(first), "runs"))
entries.append(report.entry("test_auc", median_of(first, lambda s: s["test_auc"]), "AUC"))
entries.append(report.entry("rss_all", median_of(first, lambda s: sum(s["peak_rss_bytes"].values())), "bytes"))
report.write(path, entries)
PY
