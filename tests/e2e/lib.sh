# tests/e2e/lib.sh -- what the end-to-end scripts share; sourced, never run (it is not executable).
#
# A script runs from the top of the tree, works in $work (gone at its end), calls the programs of $B, and
# ends with 0, with fail, or with skip (77, the last line is the reason).
# shellcheck shell=bash
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
B=${1:-${SAFFRON_BUILD:-build/release}}
export SAFFRON_MODELS_DIR=$PWD/configs/models
data=${SAFFRON_TEST_DATA:-../shared/data}
slow=1 # as tests/run.sh: sanitizers make everything a few times slower
! ldd "$B/saffron" 2>/dev/null | grep -qE 'lib[at]san' || slow=4
work=$(mktemp -d "${TMPDIR:-/tmp}/saffron-e2e.XXXXXX")
# shellcheck disable=SC2034 # used by the scripts
{
    python=/usr/bin/python3
    short=(--config configs/synthetic --set data.synthetic.rows=40000 --set data.synthetic.test_rows=10000)
    long=(--config configs/synthetic --set data.epochs=1000)
    roles=(trainer data_compose middleware embedding_server)
}

at_exit() {
    local status=$? pid
    # A supervisor that a failed script leaves behind takes its roles with it.
    for pid in $(jobs -rp); do
        kill -9 "$pid" 2>/dev/null
    done
    [ "$status" -ne 1 ] || show_run
    rm -rf "$work"
}
trap at_exit EXIT

fail() {
    echo "FAILED: $*"
    exit 1
}

skip() {
    echo "$*"
    exit 77
}

# The ends of all logs, for whoever reads the failure.
show_run() {
    local file
    for file in "$work"/out "$work"/err "$work"/*/logs/*.log; do
        [ -s "$file" ] || continue
        echo "--- ${file#"$work"/}"
        tail -n 8 "$file"
    done
}

need_data() {
    [ -d "$data/$1" ] || skip "no data set $1: $data/$1 is not there (SAFFRON_TEST_DATA says where sets are)"
}

# job_folder NAME EPOCHS INPUTS -- $work/NAME with all of a small job but its rows, embedding.yml and columns: data.yml ends
# in `columns:`, to be appended to; the net is one layer of 16 over INPUTS.
job_folder() {
    mkdir "$work/$1"
    printf 'mode: hybrid\nstaleness: 2\n' >"$work/$1/global.yml"
    printf 'train: [train.tsv]\ntest: [test.tsv]\nbatch_size: 64\nblock_rows: 256\nshuffle_rows: 256\nepochs: %s\ncolumns:\n' \
        "$2" >"$work/$1/data.yml"
    printf 'layers:\n  - {name: all, type: concat, inputs: [%s]}\n  - {name: top, type: mlp, inputs: [all], sizes: [16, 1]}\n' \
        "$3" >"$work/$1/model.yml"
    printf '  - {name: loss, type: bce, inputs: [top]}\noptimizer: {type: adam, learning_rate: 0.01}\n' >>"$work/$1/model.yml"
}

# local_run ARG... -- `saffron local` to its end in $work/run; exit status in $status.
local_run() {
    rm -rf "$work/run"
    "$B/saffron" local --run-dir "$work/run" --timeout $((240 * slow)) "$@" >"$work/out" 2>"$work/err"
    status=$?
}

# Start it in the background, in a way that Ctrl-C (SIGINT) can reach it; pid in $supervisor.
local_start() {
    rm -rf "$work/run" "$work/out" "$work/err"
    "$python" -c 'import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])' \
        "$B/saffron" local --run-dir "$work/run" --timeout $((240 * slow)) "$@" >"$work/out" 2>"$work/err" &
    supervisor=$!
}

# meanwhile SECONDS WHAT COMMAND... -- until the command succeeds; 1: the run ended before that.
meanwhile() {
    local tries=$(($1 * 20)) what=$2
    shift 2
    until "$@"; do
        kill -0 "$supervisor" 2>/dev/null || return 1
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || fail "in vain: $what"
        sleep 0.05
    done
}

# wait_for ... -- likewise; a run that ends before that has failed.
wait_for() {
    meanwhile "$@" || fail "the run ended while waiting for: $2"
}

# long_enough FUNCTION -- for a job that has to outlast what is done to it, on a machine of any speed: FUNCTION multiplies its epochs by
# what it is called with, first by 1. Where the job was over too soon it says so (status 1), and is called again, for more of them.
long_enough() {
    local times
    for times in 1 4 16 64; do
        "$1" "$times" && return
        [ -z "${supervisor:-}" ] || wait_end $((60 * slow))
        expect "'error' not in f" # it was over, and nothing else
        echo "$1: the job was over too soon, with $times times its epochs"
    done
    fail "$1: however long the job, it is over too soon"
}

is_training() {
    [ -s "$work/out" ] && grep -q ' samples' "$work/out"
}

# has_stepped STEPS [RANK] -- a trainer has made so many: its page says so. What a model has learnt goes by that, not by time.
has_stepped() {
    local admin step
    admin=$(sed -n 's/.* admin=\(127\.0\.0\.1:[0-9]*\)$/\1/p' "$work/run/logs/trainer-${2:-0}.log" 2>/dev/null | tail -n 1)
    step=$(curl -s -m 2 "http://${admin:-127.0.0.1:9}/status" | "$python" -c 'import json, sys; print(json.load(sys.stdin)["step"])' 2>/dev/null)
    [ "${step:-0}" -ge "$1" ]
}

# wait_end SECONDS [PID WHAT] -- of $supervisor, or of another process that was started here; its exit status in $status.
wait_end() {
    local tries=$(($1 * 50)) pid=${2:-${supervisor:-}} what=${3:+"$3: "}
    while kill -0 "$pid" 2>/dev/null; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || fail "${what}still running after $1 s"
        sleep 0.02
    done
    wait "$pid"
    status=$?
}

nothing_left() {
    local file pid
    for file in "$work"/run/pids/*; do
        [ -e "$file" ] || continue
        pid=$(cat "$file")
        # A zombie that nobody reaps has ended too: not every container has an init that does.
        grep -qE '^State:[[:space:]]+[^ZX[:space:]]' "/proc/$pid/status" 2>/dev/null || continue
        fail "process $pid of $(basename "$file") is still there"
    done
}

# expect PYTHON... -- each expression over the fields of the summary is true.
expect() {
    "$python" - "$work/run/summary.json" "$@" <<'PY' || fail "summary.json is not as expected"
import json, sys
fields = json.load(open(sys.argv[1]))
bad = [e for e in sys.argv[2:] if not eval(e, dict(fields, f=fields))]
if bad:
    print(json.dumps(fields, indent=1))
for e in bad: # last, where it is seen
    print("not true:", e)
sys.exit(1 if bad else 0)
PY
}

summary_fields="job mode model dataset seed epochs steps samples_read samples_trained samples_quarantined"
summary_fields+=" samples_dropped train_seconds samples_per_second train_loss test_auc test_logloss"
summary_fields+=" test_samples test_auc_best_possible staleness_max rows_total bytes_per_row bytes_per_sample"
summary_fields+=" cpu_seconds cpu_us_per_sample peak_rss_bytes checkpoint loss_spikes"

# What holds for every run that succeeded. (A job of one step may be over before a role has used CPU for it.)
expect_success() {
    local staleness
    [ "$status" -eq 0 ] || fail "exit status $status"
    staleness=$(sed -n 's/^staleness: *//p' "$work/run/config/global.yml")
    expect "'error' not in f" \
        "not [k for k in '$summary_fields'.split() if k not in f]" \
        "samples_read == samples_trained + samples_quarantined + samples_dropped" \
        "samples_dropped == 0" "samples_trained > 0" "steps > 0" "train_seconds > 0" \
        "sum(restarts.values()) > 0 or abs(samples_per_second * train_seconds / samples_trained - 1) < 1e-3" \
        "1 <= staleness_max <= $staleness" "rows_total > 0" "bytes_per_row > 0" \
        "set(cpu_seconds) == {'data_compose', 'middleware', 'embedding_server', 'trainer'}" \
        "all((0 if steps > 1 else -1) < cpu_us_per_sample[r] * samples_trained < 1e6 * cpu_seconds[r] for r in cpu_seconds)" "all(v > 1 << 20 for v in peak_rss_bytes.values())"
    nothing_left
}
