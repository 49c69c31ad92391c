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

# The last bits of matrix products are the processor's.
for name in layers dense_model batch_statistics jobs; do
    "$python" "scripts/fixtures/$name.py" >"$work/golden" 2>"$work/err" || fail "scripts/fixtures/$name.py does not run"
    "$python" -B tests/e2e/parity.py same "tests/golden/$name.txt" "$work/golden" ||
        fail "tests/golden/$name.txt is not what scripts/fixtures/$name.py makes"
done
