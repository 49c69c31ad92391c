#!/usr/bin/env bash
# Memory of middleware and embedding server over ten epochs of the same rows: after the first, in which all
# rows are made and all buffers find their size, it must not grow. Resident bytes at the end of each epoch; the
# slope is that of a straight line through epochs 2 to 10. Fails when it is over a MiB per epoch.
. "$(dirname "$0")/lib.sh"
rows=${ROWS:-100000}

"$B/saffron-data-compose" generate --out "$work/data" --rows "$rows" --test-rows 5000 --features 26 --ids 100000 \
    --dense 13 --seed 1
"$B/saffron" local --config configs/bench --data "$work/data" --run-dir "$work/run" --epochs 10 --timeout 280 --quiet \
    >"$work/out" 2>&1 &

"$python" - "$work/run" "$!" >"$work/epochs.json" <<'PY' || die "$(cat "$work/out")"
import json, os, sys, time
run, supervisor = sys.argv[1], int(sys.argv[2])
roles = ("middleware", "embedding_server")


def resident(role):
    with open(f"{run}/pids/{role}-0") as f:
        pid = f.read().strip()
    with open(f"/proc/{pid}/status") as f:
        return next(1024 * int(line.split()[1]) for line in f if line.startswith("VmRSS"))


epochs = []
while len(epochs) < 10:
    os.kill(supervisor, 0)
    try:
        with open(run + "/logs/trainer-0.log") as f:
            over = f.read().count(" epoch_over ")
    except FileNotFoundError:
        over = 0
    if over > len(epochs):
        epochs.append({role: resident(role) for role in roles})
    time.sleep(0.02)
json.dump(epochs, sys.stdout)
PY
wait "$!" || die "$(cat "$work/out")"

PYTHONPATH=tests/bench "$python" -B - "$work/epochs.json" "$out/memory.json" <<'PY'
import json, sys
import report
epochs = json.load(open(sys.argv[1]))
entries, worst = [], 0.0
for role in epochs[0]:
    late = [e[role] for e in epochs[1:]]
    middle = (len(late) - 1) / 2
    slope = sum((i - middle) * v for i, v in enumerate(late)) / sum((i - middle) ** 2 for i in range(len(late)))
    worst = max(worst, slope)
    entries.append(report.entry("rss_" + role + "_epoch_1", epochs[0][role], "bytes"))
    entries.append(report.entry("rss_" + role + "_epoch_10", late[-1], "bytes"))
    entries.append(report.entry("slope_" + role, slope, "bytes/epoch"))
entries.append(report.entry("slope_worst", max(worst, 1.0), "bytes/epoch", 2.0**20, "flat", more_is_better=False))
report.write(sys.argv[2], entries)
sys.exit(worst > 2.0**20)
PY
