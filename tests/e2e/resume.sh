#!/usr/bin/env bash
# A job that begins with a model and its optimizers' state goes on where that one ended: two epochs in one job, and one epoch, then
# another in a second job with another number of servers, end in the same bits of weights, rows and state. In `exact`, with
# nothing shuffled, for the order of an epoch is drawn by its number in the job; and with as many batches in a split as both
# ranks share evenly, for which rank has a batch goes by its number in the job too. All optimizers of tables, rows in 16 bits (whose
# rounding is drawn), dropout, a schedule. Then what is refused.
. "$(dirname "$0")/lib.sh"
small=(--config configs/synthetic --set data.synthetic.rows=32768 --set data.synthetic.test_rows=2048 --set data.shuffle=false)
cat >"$work/model.yml" <<'END'
layers:
  - {name: all, type: concat, inputs: [dense, features]}
  - {name: bn, type: batchnorm, inputs: [all]}
  - {name: hidden, type: mlp, inputs: [bn], sizes: [32], activation: relu}
  - {name: dropped, type: dropout, inputs: [hidden], rate: 0.2}
  - {name: logit, type: linear, inputs: [dropped], size: 1}
  - {name: loss, type: bce, inputs: [logit]}
optimizer: {type: adam, learning_rate: 0.001}
schedule: {type: linear, steps: 64, warmup: 5}
END
export SAFFRON_MODEL_CONFIG=$work/model.yml
exactly=(--set global.mode=full --set global.exact=true --set global.save_state=true
    --set embedding.tables.c1.optimizer.type=adam --set embedding.tables.c2.optimizer.type=ftrl
    --set embedding.tables.c3.optimizer.type=rowwise_adagrad --set embedding.tables.c3.dtype=bfloat16
    --set embedding.tables.c4.optimizer.type=sgd --set embedding.tables.c5.optimizer.type=adam --set embedding.tables.c5.dtype=float16)

# same DIR DIR: the tensors of dense and dense_state, and of each table all ids with rows and state, whoever wrote them.
same() {
    "$python" - "$1" "$2" <<'PY'
import glob, json, struct, sys

def tensors(path):
    data = open(path, "rb").read()
    size = struct.unpack("<Q", data[:8])[0]
    head = json.loads(data[8:8 + size])
    notes = head.pop("__metadata__")
    return notes, {k: (v["shape"], data[8 + size + v["data_offsets"][0]:8 + size + v["data_offsets"][1]]) for k, v in head.items()}

def model(folder):
    out = {}
    for name in "dense", "dense_state":
        notes, tensor = tensors(f"{folder}/{name}.safetensors")
        out[name] = tensor, notes["step"], notes.get("optimizer_steps"), notes.get("optimizer")
    for path in glob.glob(f"{folder}/table.*.safetensors"):
        notes, tensor = tensors(path)
        table = out.setdefault((notes["table"], notes["optimizer"], tuple(sorted(tensor))), {})
        ids = tensor.pop("ids")[1]
        for i in range(len(ids) // 8):
            assert ids[8 * i:8 * i + 8] not in table
            table[ids[8 * i:8 * i + 8]] = b"".join(
                data[i * len(data) // shape[0]:(i + 1) * len(data) // shape[0]] for _, (shape, data) in sorted(tensor.items()))
    return out

a, b = map(model, sys.argv[1:])
assert a.keys() == b.keys(), (sorted(map(str, a)), sorted(map(str, b)))
for key in a:
    if a[key] != b[key]:
        if isinstance(key, tuple):
            wrong = [i for i in a[key] if a[key][i] != b[key].get(i)]
            sys.exit(f"{key}: {len(a[key])} and {len(b[key])} ids, {len(wrong)} others")
        sys.exit(f"{key}: {[x for x in a[key][0] if a[key][0][x] != b[key][0].get(x)]} {a[key][1:]} {b[key][1:]}")
print("the same", len(a) - 2, "tables")
PY
}

for ranks in 1 2; do
    local_run "${small[@]}" "${exactly[@]}" --trainers $ranks --epochs 2 --embedding-servers 2
    expect_success
    mv "$work/run" "$work/whole"
    local_run "${small[@]}" "${exactly[@]}" --trainers $ranks --epochs 1 --embedding-servers 1
    expect_success
    mv "$work/run" "$work/half"
    local_run "${small[@]}" "${exactly[@]}" --trainers $ranks --epochs 1 --embedding-servers 3 --init-from "$work/half/model"
    expect_success
    same "$work/whole/model" "$work/run/model" || fail "$ranks ranks: not the same bits"
    same "$work/half/model" "$work/run/model" >/dev/null 2>&1 && fail "nothing was trained"
    grep -q "dense_loaded with_state=1 steps=$((32 / ranks)) " "$work"/run/logs/trainer-0.log || fail "it does not say what it begins with"
    grep -qE 'rows_loaded rows=([0-9]+) with_state=\1 ' "$work"/run/logs/embedding_server-2.log || fail "nor do servers"
    [ "$ranks" -eq 2 ] || rm -r "$work/whole" "$work/half"
done

# ---- another optimizer: refused, or begun anew ----
local_run "${small[@]}" --max-steps 2 --quiet --init-from "$work/half/model" --set embedding.tables.c1.optimizer.type=sgd
[ "$status" -eq 2 ] || fail "exit status $status, expected 2"
grep -q "has the optimizer's state of 'adam', table c1 has 'sgd': expected the same, or global.load_state=false" "$work/err" ||
    fail "no reason: $(cat "$work/err")"
nothing_left
local_run "${small[@]}" "${exactly[@]}" --max-steps 2 --quiet --init-from "$work/half/model" --set model.optimizer.type=adagrad
[ "$status" -eq 2 ] || fail "exit status $status, expected 2"
grep -q "dense_state.safetensors: has the optimizer's state of 'adam', the model has 'adagrad'" "$work/err" ||
    fail "no reason: $(cat "$work/err")"
nothing_left
local_run "${small[@]}" "${exactly[@]}" --trainers 2 --epochs 1 --init-from "$work/half/model" --set global.load_state=false
expect_success
grep -q "dense_loaded with_state=0 steps=0 " "$work"/run/logs/trainer-0.log || fail "it does not begin anew"
same "$work/whole/model" "$work/run/model" >/dev/null 2>&1 && fail "the same bits without the state"
local_run "${small[@]}" --max-steps 2 --quiet --init-from "$work/half/model" --set global.load_state=false \
    --set model.optimizer.type=adagrad --set embedding.tables.c1.optimizer.type=sgd
expect_success

# ---- what is evaluated goes on nowhere: another optimizer is none of its business ----
local_run "${small[@]}" --epochs 0 --quiet --init-from "$work/half/model" \
    --set model.optimizer.type=adagrad --set embedding.tables.c1.optimizer.type=sgd
[ "$status" -eq 0 ] || fail "epochs 0: exit status $status"
expect "steps == 0"
nothing_left

# ---- behind the end of the schedule it would learn nothing ----
local_run "${small[@]}" "${exactly[@]}" --trainers 2 --epochs 1 --quiet --init-from "$work/half/model" --set model.schedule.steps=16
[ "$status" -eq 2 ] || fail "exit status $status, expected 2"
grep -q "model.yml: schedule.steps: expected more than the 16 steps that the saved model has made, got 16; or global.load_state=false" \
    "$work/err" || fail "no reason: $(cat "$work/err")"
nothing_left

# ---- a file of it that was not copied ----
cp -r "$work/half/model" "$work/part"
rm "$work/part/dense_state.safetensors"
local_run "${small[@]}" "${exactly[@]}" --max-steps 2 --quiet --init-from "$work/part"
[ "$status" -eq 2 ] || fail "exit status $status, expected 2"
grep -q "dense.safetensors: was saved with the optimizer's state, and .*/dense_state.safetensors is not there" "$work/err" ||
    fail "no reason: $(cat "$work/err")"
nothing_left

# ---- from a job that trains ----
unset SAFFRON_MODEL_CONFIG
local_start "${long[@]}" --embedding-servers 2 --trainers 2
wait_for 60 "a model that has learnt something" has_stepped 300
timeout 60 "$B/saffron" export --state --run-dir "$work/run" >"$work/exported" 2>&1 || fail "export: $(cat "$work/exported")"
"$B/saffron" stop --run-dir "$work/run" >/dev/null
wait_end 20
exports=("$work"/run/export-*)
[ -s "${exports[0]}/dense_state.safetensors" ] || fail "no state in ${exports[*]}"
mv "${exports[0]}" "$work/export"
local_run "${short[@]}" --init-from "$work/export" --max-steps 10
expect_success
grep -qE 'dense_loaded with_state=1 steps=[1-9][0-9]* ' "$work"/run/logs/trainer-0.log || fail "what was exported is not taken up"
grep -qE 'rows_loaded rows=([0-9]+) with_state=\1 ' "$work"/run/logs/embedding_server-0.log || fail "nor its rows"
expect "test_auc > 0.6"
exit 0
