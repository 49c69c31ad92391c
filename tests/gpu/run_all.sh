#!/usr/bin/env bash
# tests/gpu/run_all.sh [FOLDER] -- on a machine with a GPU: build, check, measure, and write one report, in under 9 minutes.
#
# Needs nvcc, gcc and make; no root, no network, no packages. Where PyTorch is, the same models are measured in it; where compute-sanitizer is, the
# kernels' tests run under it. FOLDER (docs/gpu): of report-CARD-DATE.md, and of the raw logs in report-CARD-DATE/. Each part has a time limit, and
# one that fails does not stop the others. Exit status: 0, 1 (a test failed, or what has to be there did not build), 2 (no nvcc, no make), 77 (no GPU).
#   PYTHON=python3   which has torch;  JOBS=N   of make
#   EMULATED=1       with tests/gpu/emulated/ instead of nvcc and a GPU: to see that this script works. Its report says so, and has no figures
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 2
folder=${1:-docs/gpu}
python=${PYTHON:-python3}
B=build/gpu${EMULATED:+-emulated}
begun=$SECONDS
failed=0

home=${CUDA_HOME:-$(command -v nvcc 2>/dev/null | sed 's,/bin/nvcc$,,')}
export CUDA_HOME=${home:-/usr/local/cuda}
[ -x "$CUDA_HOME/bin/nvcc" ] || [ -n "${EMULATED:-}" ] || {
    echo "run_all: no nvcc in CUDA_HOME, PATH or /usr/local/cuda: nothing can be built for a GPU" >&2
    exit 2
}
if ! command -v make >/dev/null || ! command -v gcc >/dev/null; then
    echo "run_all: make and gcc are needed" >&2
    exit 2
fi
card=${EMULATED:+emulated}
[ -n "$card" ] || card=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -n 1)
[ -n "$card" ] || {
    echo "run_all: no GPU answers (nvidia-smi names none): nothing is measured" >&2
    exit 77
}
export LD_LIBRARY_PATH=$CUDA_HOME/lib64${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export LIBRARY_PATH=$CUDA_HOME/lib64${LIBRARY_PATH:+:$LIBRARY_PATH}

name=report-$(echo "$card" | tr -cs 'A-Za-z0-9\n' - | tr '[:upper:]' '[:lower:]' | sed 's/-$//')-$(date +%F)
logs=$folder/$name
report=$folder/$name.md
mkdir -p "$logs" "$B"
results=$logs/results.txt # PART STATUS SECONDS
: >"$results"

# part NAME LIMIT COMMAND... -- its log is $logs/NAME.log; all parts together stay under 530 s.
part() {
    local name=$1 limit=$2 left=$((530 - SECONDS + begun)) status at=$SECONDS
    shift 2
    [ "$limit" -le "$left" ] || limit=$left
    if [ "$limit" -lt 5 ]; then
        echo "no time was left" >"$logs/$name.log"
        status=124
    else
        timeout -k 5 "$limit" "$@" >"$logs/$name.log" 2>&1
        status=$?
    fi
    echo "$name $status $((SECONDS - at))" >>"$results"
    echo "$name: status $status, $((SECONDS - at)) s"
    return "$status"
}

# ---- build and tests ----
part build 150 make -f tests/gpu/bare.mk -k -j "${JOBS:-$(nproc)}" B="$B" EMULATED="${EMULATED:-}" all || failed=1

tests=() # without NCCL its test is not built: the report says so
for source in tests/gpu/test_*.c; do
    test=$(basename "$source" .c)
    [ "$test" = test_nccl ] && [ -z "${EMULATED:-}" ] && [ -z "$(scripts/cuda.sh nccl auto)" ] || tests+=("$test")
done
for test in "${tests[@]}"; do
    part "$test" 40 "$B/$test" || failed=1
done
steps=10000
[ -z "${EMULATED:-}" ] || steps=200
# Whole models beside the CPU's, and memory that stays flat.
part test_device 120 env SAFFRON_GPU_LIBRARY="$PWD/$B/saffron-cuda.so" SAFFRON_TEST_STEPS="$steps" "$B/test_device" || failed=1

# ---- measurements: before the sanitizer, which may take what time is left ----
part bench_kernels 60 "$B/bench_kernels" || failed=1
part bench_model 90 "$B/bench_model" || failed=1
figures() { # all `figure NAME VALUE` lines
    cat "$logs"/bench_*.log "$logs"/torch*.log 2>/dev/null | grep '^figure '
}
figure() {
    figures | awk -v name="$1" '$2 == name { value = $3 } END { print value }'
}
if [ -z "${EMULATED:-}" ] && "$python" -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
    counts=""
    for model in dlrm dcn_v2; do
        count=$(figure "parameters.$model")
        [ -z "$count" ] || counts="$counts${counts:+,}$model=$count"
    done
    part torch 200 "$python" tests/gpu/bench/torch_step.py --parameters "$counts"
else
    echo "PyTorch with CUDA is not installed for $python" >"$logs/torch.log"
fi

sanitizer=$(command -v compute-sanitizer || ls "$CUDA_HOME/bin/compute-sanitizer" 2>/dev/null)
[ -z "${EMULATED:-}" ] || sanitizer=""
for tool in memcheck racecheck; do
    [ -n "$sanitizer" ] || continue
    for test in "${tests[@]}"; do
        part "$tool-$test" 25 "$sanitizer" --tool "$tool" --error-exitcode 9 "$B/$test"
        case $? in 0 | 77 | 124 | 137) ;; *) failed=1 ;; esac
    done
done

# ---- the report ----
# ratio A B -- A / B, or nothing where one is missing
ratio() {
    [ -z "$1" ] || [ -z "$2" ] || awk -v a="$1" -v b="$2" 'BEGIN { printf "%.2f", a / b }'
}
# verdict VALUE LIMIT least|most
verdict() {
    [ -n "$1" ] || {
        echo open
        return
    }
    awk -v v="$1" -v l="$2" -v how="$3" 'BEGIN { ok = how == "least" ? v >= l : v <= l; print ok ? "pass" : "FAIL" }'
}
fastest_compiled() {
    figures | awk -v at="torch.$1.8192.bfloat16." 'index($2, at) == 1 && $2 !~ /eager$/ { print $3 }' | sort -n | head -n 1
}
row() {
    echo "| $1 | $2 | ${3:-} | $(verdict "${3:-}" "$4" "$5") |"
}

# outcome PART
outcome() {
    awk -v part="$1" '$1 == part { status = $2 == 0 ? "pass" : "FAIL" } END { print status == "" ? "open" : status }' "$results"
}

acceptance() {
    local model batch
    echo "| figure | demanded | measured | |"
    echo "| --- | --- | --- | --- |"
    echo "| tests of the GPU | all pass | $(awk '$1 ~ /^test_/ { n++; bad += $2 != 0 } END { print n - bad " of " n + 0 }' "$results") | $(
        awk '$1 ~ /^test_/ { n++; bad += $2 != 0 } END { print bad || !n ? "FAIL" : "pass" }' "$results") |"
    for model in dlrm dcn_v2; do
        row "$model, 8,192, bfloat16: PyTorch eager / ours" ">= 1.3 (stretch 2)" \
            "$(ratio "$(figure "torch.$model.8192.bfloat16.eager")" "$(figure "wall.$model.8192.bfloat16")")" 1.3 least
        row "$model, 8,192, bfloat16: fastest torch.compile / ours" ">= 1.0 (stretch 1.3)" \
            "$(ratio "$(fastest_compiled "$model")" "$(figure "wall.$model.8192.bfloat16")")" 1.0 least
        for batch in 8192 65536; do
            row "$model, $batch, bfloat16: fed / alone" "<= 1.10" \
                "$(ratio "$(figure "fed.$model.$batch.bfloat16")" "$(figure "wall.$model.$batch.bfloat16")")" 1.10 most
        done
    done
    echo "| memory, steps | flat over 10,000 | $(sed -n 's/\([0-9]* steps\): .*/\1/p' "$logs/test_device.log") | $(outcome test_device) |"
    echo "| a world of one through NCCL | passes | | $(outcome test_nccl) |"
    row "kernels of 16 MiB or more below 70 % of a copy" 0 "$(figure kernels_below_70_percent)" 0 most
}

# defined PREFIX HEADER -- PREFIX_MAJOR.MINOR.PATCH as the header defines them
defined() {
    find "$CUDA_HOME/include/" /usr/include -maxdepth 1 -name "$2" -exec cat {} + 2>/dev/null |
        awk -v p="$1" '$1 == "#define" && $2 ~ "^" p "_(MAJOR|MINOR|PATCH)$" { v = v (v == "" ? "" : ".") $3 } END { print v == "" ? "not found" : v }'
}

versions() {
    [ -n "${EMULATED:-}" ] || echo "- card, driver: $(nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv,noheader | head -n 1)"
    [ ! -x "$CUDA_HOME/bin/nvcc" ] || echo "- CUDA: $("$CUDA_HOME/bin/nvcc" --version | sed -n 's/.*release.*, V//p')"
    echo "- cuBLASLt $(defined CUBLAS_VER cublas_api.h), NCCL $(defined NCCL nccl.h) (of their headers)"
    echo "- host: $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $(nproc) cores; $(gcc --version | head -n 1)"
    echo "- PyTorch: $(grep -m 1 PyTorch "$logs/torch.log")"
    echo "- source: $(git describe --always --dirty 2>/dev/null || echo unknown)"
}

{
    printf '# GPU report: %s, %s\n\n' "$card" "$(date +%F)"
    versions
    # shellcheck disable=SC2016 # Markdown's
    printf '\nMade by `tests/gpu/run_all.sh`; raw logs: `%s/`. What the columns mean: `tests/gpu/bench/`.\n' "$name"
    printf '\n## Acceptance\n\n'
    acceptance
    printf '\nOurs is the wall clock of a step; PyTorch'"'"'s are CUDA events around one. Open: not measured in this run.\n'
    printf '\n## Models\n\n'
    grep -hE '^(\||ceilings)' "$logs/bench_model.log" | sed 's/^\(ceilings.*\)/\1\n/'
    printf '\n## PyTorch\n\n'
    grep -h '^|' "$logs/torch.log" || cat "$logs/torch.log"
    printf '\n## Kernels\n\n'
    grep -hE '^(\||copy)' "$logs/bench_kernels.log" | sed 's/^\(copy.*\)/\1\n/'
    printf '\n## Parts\n\n| part | status | seconds |\n| --- | --- | --- |\n'
    sed 's/\([^ ]*\) \([^ ]*\) \(.*\)/| \1 | \2 | \3 |/' "$results"
    [ -z "${EMULATED:-}" ] || printf '\nEmulated: what is above says that this script works, and nothing of a GPU.\n'
    [ -n "$sanitizer" ] || printf '\ncompute-sanitizer is not installed: nothing ran under it.\n'
} >"$report"
echo "run_all: $report, $((SECONDS - begun)) s, $([ "$failed" = 0 ] && echo "all tests passed" || echo "SOMETHING FAILED")"
exit "$failed"
