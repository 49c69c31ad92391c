#!/usr/bin/env bash
# The largest batches that there may be: 65,535 samples of 16 ids each, no id twice, so that their rows and gradients go in
# parts (middleware/cut.c); and what is over the limits, which is refused before anything starts, or is a bad row.
. "$(dirname "$0")/lib.sh"
samples=65535
mkdir "$work/job"
"$python" - "$work/job" $samples <<'PY' || fail "the rows could not be written"
import sys
folder, samples = sys.argv[1], int(sys.argv[2])
with open(f"{folder}/train.tsv", "w") as train, open(f"{folder}/test.tsv", "w") as test:
    train.write("y\ta\tb\tc\td\tmany\n1\t1\t2\t3\t4\t" + "|".join(["5"] * 13) + "\n")  # 13 of at most 12: a bad row
    test.write("y\ta\tb\tc\td\tmany\n")
    for i in range(samples):
        ids = [str(16 * i + k) for k in range(16)]
        line = f"{i % 3 % 2}\t" + "\t".join(ids[:4]) + "\t" + "|".join(ids[4:]) + "\n"
        train.write(line)
        if i < 2000:
            test.write(line)
open(f"{folder}/global.yml", "w").write("mode: hybrid\nstaleness: 2\n")
open(f"{folder}/embedding.yml", "w").write("""
defaults: {dim: 4, optimizer: {type: adagrad, learning_rate: 0.2}}
tables: {all: {}}
features: {a: {table: all}, b: {table: all}, c: {table: all}, d: {table: all}, many: {table: all, max_length: 12}}
""")
open(f"{folder}/model.yml", "w").write("""
layers:
  - {name: x, type: concat, inputs: [a, b, c, d, many]}
  - {name: top, type: mlp, inputs: [x], sizes: [1]}
  - {name: loss, type: bce, inputs: [top]}
optimizer: {type: adam, learning_rate: 0.001}
""")
open(f"{folder}/data.yml", "w").write(f"""
train: [train.tsv]
test: [test.tsv]
batch_size: {samples}
splits: 1
epochs: 3
columns:
  y: label
  a: {{kind: feature, integer: true}}
  b: {{kind: feature, integer: true}}
  c: {{kind: feature, integer: true}}
  d: {{kind: feature, integer: true}}
  many: {{kind: feature, integer: true, separator: "|"}}
""")
PY

mkdir "$work/pushed"
"$python" tests/e2e/metrics.py gateway "$work/pushed" >"$work/port" 2>"$work/gateway.log" &
helper=$!
until [ -s "$work/port" ]; do sleep 0.02; done
gateway=127.0.0.1:$(cat "$work/port")

# A credit of 16 MiB: 12 MiB of gradients for each of two owners are 4 parts of at most 4 MiB; 8 MiB of rows fit with them.
SAFFRON_METRICS_GATEWAY_ADDR=$gateway local_run --config "$work/job" --embedding-servers 2 --set global.embedding_server.workers=1 \
    --set global.middleware.loops=1 --set global.link.credit=16777216
expect_success
expect "steps == 3" "samples_trained == 3 * $samples" "samples_quarantined == 3" "rows_total == 16 * $samples" \
    "test_samples == 2000" "test_auc > 0.99"
"$python" - "$work/pushed/middleware-0" <<'PY' || fail "the batches did not go in parts"
import re, sys
asked = sum(map(float, re.findall(r'saffron_middleware_request_seconds_count\{[^}]*method="ApplyGradients"[^}]*\} (\S+)',
                                  open(sys.argv[1]).read())))
print(f"{asked:.0f} parts of gradients for 3 batches and 2 owners")
sys.exit(asked < 3 * 2 * 3)
PY

kill $helper
wait $helper 2>/dev/null

# One thing too much at a time: exit 2 and a line that names the key, what it is and what it may be.
while IFS='|' read -r set want; do
    "$B/saffron" local --config "$work/job" --run-dir "$work/bad" --set "$set" >"$work/out" 2>"$work/err"
    [ $? -eq 2 ] || fail "--set $set was not refused with exit 2: $(cat "$work/err")"
    grep -q -- "$want" "$work/err" || fail "--set $set: the refusal does not say: $want: $(cat "$work/err")"
    [ "$(wc -l <"$work/err")" -le 2 ] || fail "--set $set: more than one line: $(cat "$work/err")"
    rm -rf "$work/bad"
done <<'SETS'
data.batch_size=65536|batch_size: expected an integer in 1..65535, got '65536'
embedding.features.many.max_length=13|batch_size: expected at most 61680, got 65535: a sample may have 17 ids (max_length of lists), and a batch 1048576
embedding.tables.all.hash={functions: 2, rows: 1000}|batch_size: expected at most 32768, got 65535: a sample may take 32 rows, hashed tables counted, and a batch 1048576
SETS
