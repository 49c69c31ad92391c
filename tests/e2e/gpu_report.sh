#!/usr/bin/env bash
# tests/gpu/run_all.sh, which is for a day with a GPU, over the emulated one: it builds all with a C++ compiler alone, every part passes, and its
# report has a verdict on each and no figure; where there is neither GPU nor emulation it says so.
. "$(dirname "$0")/lib.sh"
EMULATED=1 timeout 500 tests/gpu/run_all.sh "$work/report" >"$work/out" 2>&1 || fail "$(cat "$work/out")"
report=$(ls "$work"/report/report-emulated-*.md) || fail "no report"
tests=$(find tests/gpu -maxdepth 1 -name 'test_*.c' | wc -l)
grep -q "^| tests of the GPU | all pass | $((tests + 1)) of $((tests + 1)) | pass |" "$report" || fail "$(cat "$report")"
grep -q '^| memory, steps | flat over 10,000 | 200 steps | pass |' "$report" || fail "$(cat "$report")"
grep -q '^| bench_model | 0 |' "$report" || fail "$(cat "$report")"
grep -q '^Emulated: ' "$report" || fail "an emulated report does not say so"
! grep -h '^figure ' "$work"/report/report-emulated-*/*.log || fail "an emulated GPU has figures"

if ! command -v nvidia-smi >/dev/null; then
    CUDA_HOME=$work/none tests/gpu/run_all.sh "$work/none" >"$work/out" 2>&1
    status=$?
    [ "$status" -eq 2 ] || fail "no nvcc: status $status"
    grep -q '^run_all: no nvcc in CUDA_HOME' "$work/out" || fail "$(cat "$work/out")"
fi
