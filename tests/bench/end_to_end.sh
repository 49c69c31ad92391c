#!/usr/bin/env bash
# Samples per second of a whole job, configs/bench with one process of each role, beside the same model in one
# PyTorch process that has its data in memory already; and the CPU time that each role takes for a sample.
#
# The peer is a script that is not ours: SAFFRON_TORCH_REFERENCE (default ../shared/bench/torch_reference.py); without
# it there is no limit to compare with. ROUNDS (3) runs of each, in turns; medians count. On a machine that is busy or
# slow no round begins after two minutes. CPU times are of whole processes: start, evaluation and end are in them.
. "$(dirname "$0")/lib.sh"
reference=${SAFFRON_TORCH_REFERENCE:-../shared/bench/torch_reference.py}
blas=${SAFFRON_OPENBLAS:-/usr/lib/x86_64-linux-gnu/openblas-openmp/libblas.so.3}
rounds=${ROUNDS:-3}

"$B/saffron-data-compose" generate --out "$out/data" --rows 2000000 --test-rows 100000 --features 26 --ids 100000 \
    --dense 13 --seed 1

run_ours() {
    "$B/saffron" local --config configs/bench --data "$out/data" --run-dir "$work/run-$1" --timeout 200 --quiet \
        >"$work/run-$1.out" 2>&1 || die "round $1: $(cat "$work/run-$1.out")"
}

run_peer() {
    # With OpenBLAS on plain pthreads two threads are slower than one, which would be no fair comparison.
    [ -e "$blas" ] || die "$blas is not there: install libopenblas0-openmp (SAFFRON_OPENBLAS names another)"
    LD_PRELOAD=$blas "$python" "$reference" --set synth --model dlrm --threads 2 --epochs 3 >"$work/peer-$1.jsonl" ||
        die "round $1: $reference failed"
}

if [ ! -f "$reference" ]; then
    echo "no $reference: nothing to compare with (SAFFRON_TORCH_REFERENCE)"
fi
for ((round = 1; round <= rounds; round++)); do
    [ "$round" -eq 1 ] || [ "$SECONDS" -lt 120 ] || break
    run_ours "$round"
    [ ! -f "$reference" ] || run_peer "$round"
done

PYTHONPATH=tests/bench "$python" -B - "$work" "$out/end_to_end.json" <<'PY'
import glob, json, sys
import report
work, path = sys.argv[1:]
ours = [json.load(open(f)) for f in sorted(glob.glob(work + "/run-*/summary.json"))]
peer = [json.loads(line)["median_sps"] for f in sorted(glob.glob(work + "/peer-*.jsonl"))
        for line in open(f) if '"summary"' in line]
speed = report.median([s["samples_per_second"] for s in ours])
entries = [report.entry("end_to_end", speed, "samples/s", report.median(peer), "torch_reference synth dlrm, 2 threads")]
cost = {role: report.median([1e6 * s["cpu_seconds"][role] / s["samples_trained"] for s in ours])
        for role in ours[0]["cpu_seconds"]}
for role in cost:
    entries.append(report.entry("cpu_" + role, cost[role], "us/sample"))
entries.append(report.entry("cpu_all", sum(cost.values()), "us/sample"))
entries.append(report.entry("rounds", len(ours), "runs"))
entries.append(report.entry("test_auc", report.median([s["test_auc"] for s in ours]), "AUC"))
entries.append(report.entry("rss_all", report.median([sum(s["peak_rss_bytes"].values()) for s in ours]), "bytes"))
report.write(path, entries)
PY
