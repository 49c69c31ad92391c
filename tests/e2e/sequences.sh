#!/usr/bin/env bash
# A job with a sequence (pooling none, its mean taken in the network) and a table whose ids are hashed into few rows, with all
# roles as processes: it learns, the table stays within its rows, and its bytes are those that `saffron plan` counts.
. "$(dirname "$0")/lib.sh"
job_folder job 2 user,liked,history,seen
"$python" - "$work/job" <<'PY' || fail "the rows could not be written"
import random, sys
draw = random.Random(5)
taste = [draw.choice((-1, 1)) for _ in range(200)]
def rows(name, n):
    with open(f"{sys.argv[1]}/{name}", "w") as f:
        f.write("y\tuser\thistory\tseen\n")
        for i in range(n):
            items = [draw.randrange(200) for _ in range(draw.randrange(1, 9))]
            user = draw.randrange(300)
            liked = sum(taste[k] for k in items) + (1 if user % 3 else -1) * 1.5 > 0
            # `seen`: no id twice, for its bytes alone
            seen = "|".join(f"s{name[:2]}{3 * i + k}" for k in range(3))
            f.write(f"{int(liked)}\tu{user}\t{'|'.join(f'i{k}' for k in items)}\t{seen}\n")
rows("train.tsv", 20000)
rows("test.tsv", 2000)
open(f"{sys.argv[1]}/embedding.yml", "w").write("""
defaults: {dim: 8, optimizer: {type: adagrad, learning_rate: 0.1}}
tables: {user: {hash: {functions: 2, rows: 120}}, item: {}, seen: {hash: {functions: 2, rows: 1000000000}}}
features:
  user: {}
  history: {table: item, pooling: none, max_length: 8}
  seen: {pooling: none, max_length: 3}
""")
layers = open(f"{sys.argv[1]}/model.yml").read().split("\n", 1)
liked = "  - {name: liked, type: masked_pool, inputs: [history, history.mask], pooling: sum}"
open(f"{sys.argv[1]}/model.yml", "w").write("\n".join([layers[0], liked, layers[1]]))
open(f"{sys.argv[1]}/data.yml", "a").write("""  y: label
  user: feature
  history: {kind: feature, separator: "|"}
  seen: {kind: feature, separator: "|"}
""")
PY

# One epoch: in the second the net learns `seen` by heart, and its AUC falls by chance as far as to 0.85.
local_run --config "$work/job" --embedding-servers 2 --set data.epochs=1
expect_success
# Rows: those of 300 users are at most 120, of items 200; of `seen` 2 for each of 3 ids of 20,000 samples.
expect "samples_trained == 20000" "samples_dropped == 0" "test_samples == 2000" "test_auc > 0.9" \
    "320 + 119000 <= rows_total <= 320 + 120000"

# Of `seen` alone the bytes are known: no id comes twice.
cp -r "$work/job" "$work/seen"
cat >"$work/seen/embedding.yml" <<'YML'
defaults: {dim: 8}
tables: {seen: {hash: {functions: 2, rows: 1000000000}}}
features: {seen: {pooling: none, max_length: 3}}
YML
sed -i 's/^  \(user\|history\): .*/  \1: ignore/' "$work/seen/data.yml"
cat >"$work/seen/model.yml" <<'YML'
layers:
  - {name: mean, type: masked_pool, inputs: [seen, seen.mask]}
  - {name: top, type: mlp, inputs: [mean], sizes: [1]}
  - {name: loss, type: bce, inputs: [top]}
YML
for wire in float32 bfloat16; do
    local_run --config "$work/seen" --embedding-servers 2 --set "global.wire.dtype=$wire"
    expect_success
    "$B/saffron" plan --config "$work/seen" --embedding-servers 2 --set global.embedding_server.workers=1 \
        --set "global.wire.dtype=$wire" --rows 120k --ids seen=3 --distinct 1 --json >"$work/plan.json" 2>"$work/err" || fail "no plan: $(cat "$work/err")"
    "$python" - "$work/plan.json" "$work/run/summary.json" <<'PY' || fail "its bytes are not as planned, wire $wire"
import json, sys
plan, run = (json.load(open(path))["bytes_per_sample"] for path in sys.argv[1:3])
bad = False
for hop in ("data_compose_to_middleware", "middleware_to_embedding_server", "embedding_server_to_middleware",
            "middleware_to_trainer", "trainer_to_middleware"):
    print(f"{hop}: {run[hop]:.1f}, planned {plan[hop]:.1f}")
    bad |= not 0.95 <= run[hop] / plan[hop] <= 1.05
sys.exit(bad)
PY
done

# One thing wrong at a time: exit 2 and a line that names it.
while IFS='|' read -r set want; do
    "$B/saffron" local --config "$work/job" --run-dir "$work/bad" --set "$set" >"$work/out" 2>"$work/err"
    [ $? -eq 2 ] || fail "--set $set was not refused with exit 2: $(cat "$work/err")"
    grep -q -- "$want" "$work/err" || fail "--set $set: the refusal does not say: $want: $(cat "$work/err")"
    rm -rf "$work/bad"
done <<'SETS'
embedding.features.history.max_length=65535|batch_size: expected at most 15, got 64
embedding.tables.user.hash.rows=0|both or neither
model.layers=[{name: a, type: masked_pool, inputs: [history, user.mask]}, {name: loss, type: bce, inputs: [a]}]|input 'user.mask'
model.layers=[{name: a, type: masked_pool, inputs: [history, user]}, {name: loss, type: bce, inputs: [a]}]|expected a mask
SETS
