#!/usr/bin/env bash
# A job of four heads on one trainer and on two: ESMM's two, classes, and a number; samples with weights and in groups. The
# first head sees one number only, so whatever it has learned its scores are in the order of that number: its AUC and that
# of the groups are known exactly without it.
. "$(dirname "$0")/lib.sh"
job_folder job 2 features,x
"$python" - "$work/job" <<'PY' || fail "the rows could not be written"
import json, random, sys
folder, draw = sys.argv[1], random.Random(7)
def rows(name, n):
    out = []
    for i in range(n):
        x, user, shelf = draw.randrange(-20, 21), draw.randrange(60), draw.randrange(3)
        clicked = int(draw.random() < 1 / (1 + 2.718 ** (-x / 8)))
        bought = int(clicked and user % 2)
        out.append((clicked, bought, shelf, round(x / 10 + user % 2, 3), draw.choice([0.5, 1, 2]), x, user, f"s{shelf}"))
    with open(f"{folder}/{name}", "w") as f:
        f.write("clicked\tbought\tshelf\tstars\tw\tx\tuser\tsees\tin\n")
        f.writelines("\t".join(map(str, r)) + f"\tg{r[6]}\n" for r in out)
    return out
def auc(rows):
    won = pairs = 0
    for a in (r for r in rows if r[0]):
        for b in (r for r in rows if not r[0]):
            pairs += a[4] * b[4]
            won += a[4] * b[4] * ((a[5] > b[5]) + (a[5] == b[5]) / 2)
    return won / pairs if pairs else None
rows("train.tsv", 6000)
test = rows("test.tsv", 1500)
groups = [[r for r in test if r[6] == u] for u in range(60)]
groups = [(auc(g), sum(r[4] for r in g)) for g in groups if auc(g) is not None]
json.dump({"auc": auc(test), "group_auc": sum(a * w for a, w in groups) / sum(w for _, w in groups), "groups": len(groups)},
          open(f"{folder}/known.json", "w"))
open(f"{folder}/embedding.yml", "w").write("defaults: {dim: 8, optimizer: {type: adagrad, learning_rate: 0.1}}\n"
                                           "tables: {user: {}, sees: {}}\nfeatures: {user: {}, sees: {}}\n")
open(f"{folder}/data.yml", "a").write("""  clicked: label
  bought: label
  shelf: {kind: label, classes: 3}
  stars: {kind: label, real: true}
  w: weight
  x: dense
  user: feature
  sees: feature
  in: group
""")
open(f"{folder}/model.yml", "w").write("""layers:
  - {name: click, type: linear, inputs: [x], size: 1}
  - {name: all, type: concat, inputs: [features, x]}
  - {name: deep, type: mlp, inputs: [all], sizes: [16], last: relu}
  - {name: buy, type: linear, inputs: [deep], size: 1}
  - {name: sort, type: linear, inputs: [deep], size: 3}
  - {name: many, type: linear, inputs: [deep], size: 1}
  - {name: ctr, type: bce, inputs: [click], label: clicked}
  - {name: ctcvr, type: bce, inputs: [click, buy], label: bought, weight: 2}
  - {name: which, type: softmax_ce, inputs: [sort], label: shelf, weight: 0.5}
  - {name: rating, type: mse, inputs: [many], label: stars}
optimizer: {type: adam, learning_rate: 0.02}
""")
PY

# The same to the last digit on any number of trainers: rank 0 has all samples.
for trainers in 1 2; do
    local_run --config "$work/job" --trainers "$trainers" --epochs $((3 * trainers))
    expect_success
    "$python" - "$work" <<'PY' || fail "$trainers trainers: heads are not as expected"
import json, sys
summary, known = (json.load(open(f"{sys.argv[1]}/{name}")) for name in ("run/summary.json", "job/known.json"))
heads = {h["name"]: h for h in summary["heads"]}
ctr, ctcvr, which, rating = (heads[n] for n in ("ctr", "ctcvr", "which", "rating"))
print(ctr, ctcvr, which, rating, known, sep="\n")
assert list(heads) == ["ctr", "ctcvr", "which", "rating"] and [h["weight"] for h in heads.values()] == [1, 2, 0.5, 1]
assert [h["kind"] for h in heads.values()] == ["bce", "bce", "softmax_ce", "mse"]
assert abs(ctr["auc"] - known["auc"]) < 1e-8 and ctr["groups"] == known["groups"]
assert abs(ctr["group_auc"] - known["group_auc"]) < 1e-8
assert summary["test_auc"] == ctr["auc"] and summary["test_logloss"] == ctr["logloss"] == ctr["loss"]
assert summary["train_loss"] == ctr["train_loss"] and ctr["normalized_entropy"] < 0.95
assert ctcvr["auc"] > 0.85 and 0.8 < ctcvr["calibration"] < 1.2
assert which["accuracy"] > 0.99 and which["logloss"] < 0.2
assert rating["mse"] < 0.3 and rating["loss"] == rating["mse"] and "auc" not in rating
PY
done

# Something wrong in the model or in the data.
while IFS='|' read -r set want; do
    "$B/saffron" local --config "$work/job" --run-dir "$work/bad" --set "$set" >"$work/out" 2>"$work/err"
    [ $? -eq 2 ] || fail "--set $set was not refused with exit 2"
    grep -q -- "$want" "$work/err" || fail "--set $set: the refusal does not say: $want"
    rm -rf "$work/bad"
done <<'SETS'
data.columns.shelf={kind: label, classes: 4}|layer 'which': label 'shelf': expected 3 classes, in data.yml it has 4
data.columns.clicked={kind: label, real: true}|layer 'ctr': label 'clicked': expected 2 classes, in data.yml it has 0, being any number
data.columns.bought=ignore|layer 'ctcvr': label: no label is called 'bought'
SETS
printf '2\t0\t0\t0\t1\t1\t1\ts\tg\n1\t0\t3\t0\t1\t1\t1\ts\tg\n1\t0\t1\tnan\t1\t1\t1\ts\tg\n' >>"$work/job/train.tsv"
local_run --config "$work/job" --epochs 1
expect_success
expect "samples_quarantined == 3"
for want in "clicked: expected 0 or 1, got '2'" "shelf: expected a class of 0..2, got '3'" "stars: expected a finite number, got 'nan'"; do
    cat "$work"/run/quarantine/* | grep -qF "$want" || fail "no bad row says: $want"
done
