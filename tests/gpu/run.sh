#!/usr/bin/env bash
# tests/gpu/run.sh B -- run every test of B/tests/gpu on the GPU that is here (`make test-gpu`). A test that is skipped fails this:
# who asks for it has a GPU.
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 2
B=${1:-build/release}
passed=0 failed=0
for source in tests/gpu/test_*.c; do
    program=$B/${source%.c}
    timeout --kill-after=10 240 "$program"
    status=$?
    if [ "$status" -eq 77 ]; then
        echo "test-gpu: no GPU answers here (the reason is above); tests/run.sh runs what needs none" >&2
        exit 1
    fi
    if [ "$status" -eq 0 ]; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
done
echo "$passed programs passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
