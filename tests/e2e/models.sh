#!/usr/bin/env bash
# Every model of configs/models: told by --describe, and trained for one short epoch to better than a guess. The bounds are
# what 80,000 rows of the default job are worth, less some room.
. "$(dirname "$0")/lib.sh"

declare -A bound=([dcn_v2]=0.71 [deepfm]=0.71 [dlrm]=0.71 [finalmlp]=0.71 [mlp]=0.71 [wide_deep]=0.71)

# describe MODEL ARG... -- its table, and no word of complaint
describe() {
    local model=$1
    shift
    "$B/saffron-trainer" --describe "$@" --model "$model" >"$work/out" 2>"$work/err" || fail "--describe of $model: $(cat "$work/err")"
    grep -q "^model $model" "$work/out" || fail "--describe of $model does not name it"
    "$B/saffron-trainer" --describe=dot "$@" --model "$model" >"$work/dot" 2>"$work/err" || fail "--describe=dot of $model: $(cat "$work/err")"
    "$python" - "$work/dot" <<'PY' || fail "--describe=dot of $model is no graph: $(cat "$work/dot")"
import re, sys
text = open(sys.argv[1]).read()
quoted = r'"(?:[^"\\]|\\.)*"'
statement = rf'\s*{quoted} (?:\[shape=box, label={quoted}\]|-> {quoted});\n'
sys.exit(not re.fullmatch(rf'digraph {quoted} \{{\n(?:{statement})+\}}\n', text))
PY
}

for file in configs/models/*.yml; do
    model=$(basename "$file" .yml)
    [ -n "${bound[$model]:-}" ] || fail "no row here for $file"
    describe "$model" --config configs/synthetic
    local_run --config configs/synthetic --set data.synthetic.rows=80000 --set data.synthetic.test_rows=10000 --epochs 1 \
        --model "$model" --quiet
    expect_success
    expect "model == '$model'" "test_auc >= ${bound[$model]}"
    grep -o 'AUC 0\.[0-9]*' "$work/out" | sed "s/^/$model: /"
done
