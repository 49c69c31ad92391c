#!/usr/bin/env bash
# The committed numbers of PyTorch are those that the script beside them computes today.
. "$(dirname "$0")/lib.sh"
"$python" -c 'import torch' 2>/dev/null || skip "no PyTorch: $python cannot import torch (python3-torch)"

# compare GOLDEN SCRIPT
compare() {
    "$python" "scripts/fixtures/$2" >"$work/golden" 2>"$work/err" || fail "scripts/fixtures/$2 does not run"
    if ! cmp -s "$work/golden" "tests/golden/$1"; then
        diff "tests/golden/$1" "$work/golden" | head -n 10
        fail "tests/golden/$1 is not what scripts/fixtures/$2 makes"
    fi
}
compare sparse_optimizers.h sparse_optimizers.py
compare dense_optimizers.txt dense_optimizers.py
compare layers.txt layers.py
compare jobs.txt jobs.py
