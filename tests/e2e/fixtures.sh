#!/usr/bin/env bash
# The committed numbers of PyTorch are those that the script beside them computes today.
. "$(dirname "$0")/lib.sh"
"$python" -c 'import torch' 2>/dev/null || skip "no PyTorch: $python cannot import torch (python3-torch)"
golden=tests/golden/sparse_optimizers.h
"$python" scripts/fixtures/sparse_optimizers.py >"$work/golden" 2>"$work/err" || fail "the script does not run"
if ! cmp -s "$work/golden" "$golden"; then
    diff "$golden" "$work/golden" | head -n 10
    fail "$golden is not what scripts/fixtures/sparse_optimizers.py makes"
fi
