#!/usr/bin/env bash
# Every model of configs/models: told by --describe, and trained for one short epoch to better than a guess. The bounds are
# what 80,000 rows of the default job are worth, less some room; MMoE and DIN, which want two labels and a sequence, have a
# job of their own.
. "$(dirname "$0")/lib.sh"

declare -A bound=([autoint]=0.70 [dcn_v2]=0.71 [deepfm]=0.71 [dlrm]=0.71 [finalmlp]=0.71 [mlp]=0.71 [wide_deep]=0.71)

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
    case $model in mmoe | din) continue ;; esac
    [ -n "${bound[$model]:-}" ] || fail "no row here for $file"
    describe "$model" --config configs/synthetic
    local_run --config configs/synthetic --set data.synthetic.rows=80000 --set data.synthetic.test_rows=10000 --epochs 1 \
        --model "$model" --quiet
    expect_success
    expect "model == '$model'" "test_auc >= ${bound[$model]}"
    grep -o 'AUC 0\.[0-9]*' "$work/out" | sed "s/^/$model: /"
done

# A click, of every other row and one in twenty the wrong way round: the history has an item of the target's kind, one of five.
# Neither of them alone, nor how long the history is, says anything. A purchase, and whether it was liked: user and item say it.
job_folder shop 5 item
"$python" - "$work/shop" <<'PY' || fail "the rows could not be written"
import random, sys
folder, draw = sys.argv[1], random.Random(11)
def rows(name, n):
    with open(f"{folder}/{name}", "w") as f:
        f.write("clicked\tbought\tliked\tuser\titem\thistory\n")
        for i in range(n):
            user, item, clicked = draw.randrange(100), draw.randrange(50), draw.random() < 0.5
            history = [k for k in draw.sample(range(50), 50) if (k - item) % 5][:draw.randrange(1, 7)]
            if clicked:
                history[draw.randrange(len(history))] = draw.randrange(item % 5, 50, 5)
            clicked ^= draw.random() < 0.05
            bought, liked = user % 2 and item % 3 > 0, user % 3 == 0 or item % 2
            f.write(f"{int(clicked)}\t{int(bought > 0)}\t{int(liked > 0)}\tu{user}\ti{item}\t{'|'.join(f'i{k}' for k in history)}\n")
rows("train.tsv", 20000)
rows("test.tsv", 4000)
open(f"{folder}/embedding.yml", "w").write("""defaults: {dim: 8, initializer: {type: normal, mean: 0, std: 0.3}, optimizer: {type: adagrad, learning_rate: 0.1}}
tables: {user: {}, item: {}}
features: {user: {}, item: {}, history: {table: item, pooling: none, max_length: 6}}
""")
open(f"{folder}/data.yml", "a").write("""  clicked: label
  bought: label
  liked: label
  user: feature
  item: feature
  history: {kind: feature, separator: "|"}
""")
open(f"{folder}/model.yml", "w").write("use: mmoe\noptimizer: {type: adam, learning_rate: 0.003}\n")
PY
# train_shop MODEL LABELS ARG... -- its table, and its training on the label columns LABELS to an AUC above 0.9 of each head: the best
# possible one of `clicked` is 0.95.
train_shop() {
    local model=$1 labels=$2 column
    shift 2
    for column in clicked bought liked; do
        [[ " $labels " == *" $column "* ]] || set -- "$@" --set "data.columns.$column=ignore"
    done
    describe "$model" --config "$work/shop" "$@"
    local_run --config "$work/shop" --model "$model" --quiet "$@"
    expect_success
    expect "model == '$model'" "len(heads) == len('$labels'.split())" "all(h['auc'] > 0.9 for h in heads)"
    "$python" - "$work/run/summary.json" <<'PY'
import json, sys
summary = json.load(open(sys.argv[1]))
for head in summary["heads"]:
    print(f"{summary['model']}: {head['name']} AUC {head['auc']:.4f}")
PY
}
train_shop mmoe "liked bought" --set model.params.first_label=liked
train_shop din clicked
