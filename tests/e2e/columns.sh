#!/usr/bin/env bash
# A job of one's own with every kind and option of a column, on two data-composes: lists, integer ids, rare ids made
# one, clip, empty fields, weights, groups, keys. Every third label is a lie of weight 0, so both the loss and the
# AUC must use the weights.
. "$(dirname "$0")/lib.sh"
job_folder job 3 features,dense
"$python" - "$work/job" <<'PY' || fail "the rows could not be written"
import sys
def rows(name, n):
    with open(f"{sys.argv[1]}/{name}", "w") as f:
        f.write("y\tw\tuser\ttags\tage\twho\tname\tnote\n")
        for i in range(n):
            truth, lie = i * 7 // 3 % 2, i % 3 == 0
            user = 2 * (i % 10) + truth if i % 8 else -1 - i  # 20 frequent ones, or one of its own
            tags = "" if i % 5 == 0 and i % 8 else f"t{i % 6 * 2 + truth}|t{i % 4 * 2 + truth}"
            age = ["", "7", "99999", "-3.5"][i % 4]
            f.write(f"{truth ^ lie}\t{0 if lie else 1 + i % 2}\t{user}\t{tags}\t{age}\t{i // 4}\trow {i}\tx\n")
rows("train.tsv", 6000)
rows("test.tsv", 1500)
open(f"{sys.argv[1]}/embedding.yml", "w").write(
    "defaults: {dim: 8, optimizer: {type: adagrad, learning_rate: 0.1}}\n"
    "tables: {user: {}, tags: {}}\nfeatures: {user: {}, tags: {pooling: mean, max_length: 2}}\n")
open(f"{sys.argv[1]}/data.yml", "a").write("""  y: label
  w: weight
  user: {kind: feature, integer: true, min_frequency: 20}
  tags: {kind: feature, separator: "|"}
  age: {kind: dense, missing: 5, clip: [0, 100], transform: log1p, standardize: true}
  who: {kind: group, integer: true}
  name: key
  note: ignore
""")
PY
local_run --config "$work/job" --data-composes 2
expect_success
# Without the weights a third of the pairs would be upside down. Rows: 20 users and the rare one, 10 tags.
expect "samples_read == 3 * 6000" "samples_quarantined == 0" "test_samples == 1500" "test_auc > 0.95" \
    "rows_total == 20 + 1 + 10"
grep -q 'frequencies ids=770 kept=20' "$work"/run/logs/data_compose-1.log ||
    fail "the second data-compose does not tell what it counted"

# Weights of ids tell the label, nothing else does: each of two ids in random order weighs much or little. A feature keeps the last
# three of its ids, the true one among them; every tenth row has none, and a wide table says what is missing then.
job_folder weighted 3 features
"$python" - "$work/weighted" <<'PY' || fail "the rows with weights could not be written"
import sys
def rows(name, n):
    with open(f"{sys.argv[1]}/{name}", "w") as f:
        f.write("y\tids\tempty\n")
        for i in range(n):
            truth = i * 7 // 3 % 2
            pair = [f"a:{2 - 2 * truth}", f"b:{2 * truth}"]
            ids = "|".join([f"x{i % 50}:nan"] * (i % 3) + pair[:: 1 - i // 5 % 2 * 2] + ["c"])
            f.write(f"{truth}\t{'' if i % 10 == 0 else ids}\t{f'none{truth}' if i % 10 == 0 else ''}\n")
rows("train.tsv", 4000)
rows("test.tsv", 1000)
open(f"{sys.argv[1]}/embedding.yml", "w").write(
    "defaults: {dim: 8, optimizer: {type: adagrad, learning_rate: 0.1}}\n"
    "tables: {ids: {}, empty: {}}\nfeatures: {ids: {max_length: 3, truncate: head}, empty: {}}\n")
open(f"{sys.argv[1]}/data.yml", "a").write("""  y: label
  ids: {kind: feature, separator: "|", weight_separator: ":"}
  empty: {kind: feature, missing: none}
""")
PY
local_run --config "$work/weighted"
expect_success
expect "samples_read == 3 * 4000" "samples_quarantined == 0" "test_samples == 1000" "test_auc > 0.95" \
    "rows_total == 3 + 2"

# One thing wrong at a time: exit 2 and a line that names it.
while IFS='|' read -r set want; do
    "$B/saffron" local --config "$work/job" --run-dir "$work/bad" --set "$set" >"$work/out" 2>"$work/err"
    [ $? -eq 2 ] || fail "--set $set was not refused with exit 2"
    grep -q -- "$want" "$work/err" || fail "--set $set: the refusal does not say: $want"
    rm -rf "$work/bad"
done <<'SETS'
data.columns.y={kind: label, clip: [0, 1]}|goes with kind dense, this column is kind label
data.columns.note=weight|expected at most one column of kind weight
data.columns.tags.separator=ab|expected one character
data.columns.age.clip=[3, 2]|expected low <= high
SETS
