#!/usr/bin/env bash
# The model that a job leaves in model/: all of it and no more than asked for; another job that begins with it has its scores,
# whatever the number of servers; what cannot be written or read is one line. In PyTorch: docs/saved-model.md, by guide.sh.
. "$(dirname "$0")/lib.sh"
still=(--set model.optimizer.learning_rate=0 --set embedding.defaults.optimizer.learning_rate=0 --max-steps 1)

# What the files say, read by nothing but the format's definition: rows of all tables, and the notes add up.
saved_rows() {
    "$python" - "$1" <<'PY'
import glob, json, struct, sys
rows, sets = 0, {}
for path in glob.glob(sys.argv[1] + "/table.*.safetensors"):
    data = open(path, "rb").read()
    size = struct.unpack("<Q", data[:8])[0]
    head = json.loads(data[8:8 + size])
    note, (n,) = head["__metadata__"], head["ids"]["shape"]
    assert head["ids"]["dtype"] == "I64" and head["rows"]["shape"][0] == n, path
    begin, end = head["ids"]["data_offsets"]
    ids = struct.unpack(f"<{n}q", data[8 + size + begin:8 + size + end])
    known = sets.setdefault(note["table"], set())
    assert len(set(ids)) == n and not known & set(ids), path
    known.update(ids)
    rows += n
print(rows)
PY
}

scores() { # RUN
    "$python" -c 'import json, sys; f = json.load(open(sys.argv[1])); print(f["test_auc"], f["test_logloss"])' "$1/summary.json"
}

local_run "${short[@]}" --embedding-servers 2 --set global.embedding_server.workers=2
expect_success
rows=$(saved_rows "$work/run/model") || fail "model/ is not whole"
expect "rows_total == $rows"
[ "$(find "$work/run/model" -name 'table.c5.*' | wc -l)" -eq 4 ] || fail "expected a file of each of 4 workers"
grep -qE '^the model: [0-9.]+ MB in [0-9]+ files of .*/run/model$' "$work/out" || fail "it does not say what was saved"
[ -z "$(find "$work/run/model" -name '*.tmp*')" ] || fail "temporary files are left"
mv "$work/run" "$work/first"

# The same scores, from one server to two to one of three workers; its model file alone, and what it saves is the same again.
export SAFFRON_MODEL_CONFIG=$work/first/model/model.yml
for way in "--embedding-servers 1" "--embedding-servers 3" "--set global.embedding_server.workers=3"; do
    read -r -a words <<<"$way"
    local_run "${short[@]}" --init-from "$work/first/model" "${still[@]}" "${words[@]}"
    expect_success
    [ "$(scores "$work/run")" = "$(scores "$work/first")" ] ||
        fail "$way: scores $(scores "$work/run"), expected $(scores "$work/first")"
    expect "rows_total == $rows"
done
unset SAFFRON_MODEL_CONFIG
"$python" - "$work/first/model" "$work/run/model" <<'PY' || fail "the weights that were loaded are not those that were saved"
import struct, sys
def weights(path):
    data = open(path + "/dense.safetensors", "rb").read()
    return data[8 + struct.unpack("<Q", data[:8])[0]:]
assert weights(sys.argv[1]) == weights(sys.argv[2]) != b""
PY
# Two ranks begin alike; training goes on from there.
local_run "${short[@]}" --init-from "$work/first/model" --trainers 2 --max-steps 10
expect_success
expect "test_auc > $(scores "$work/first" | cut -d' ' -f1) - 0.02"

# ---- while it trains ----
local_start "${long[@]}" --embedding-servers 2 --trainers 2
wait_for 60 "training" is_training
job=$("$python" -c 'import json, sys; f = json.load(open(sys.argv[1])); print("--job", f["job"], "--nats", f["nats"])' "$work/run/local.json")
for way in "--run-dir $work/run" "$job"; do
    read -r -a words <<<"$way"
    timeout 60 "$B/saffron" export "${words[@]}" >"$work/exported" 2>&1 || fail "export $way: $(cat "$work/exported")"
    # Of 16 owners' tables, and more where one grew meanwhile.
    grep -qE '^the model: [0-9.]+ [kM]B in (18|19|[2-9][0-9]) files of .*/export-[0-9-]+$' "$work/exported" || fail "export: $(cat "$work/exported")"
done
exports=("$work"/run/export-*)
[ "${#exports[@]}" -eq 2 ] || fail "two exports, and folders ${exports[*]}"
for way in "${exports[@]}"; do
    rows=$(saved_rows "$way") || fail "$way is not whole"
    [ "$rows" -gt 1000 ] || fail "$way: $rows rows"
done
# Two at a time both end, and so does one whose NATS dies on the way.
timeout 60 "$B/saffron" export --run-dir "$work/run" >"$work/exported.0" 2>&1 &
other=$!
timeout 60 "$B/saffron" export --run-dir "$work/run" >"$work/exported" 2>&1 || fail "one of two: $(cat "$work/exported")"
wait "$other" || fail "the other of two: $(cat "$work/exported.0")"
server=$(cat "$work/run/pids/embedding_server-1")
# shellcheck disable=SC2317 # wait_for calls it
newest_save() {
    curl -s -m 5 "http://$(sed -n 's/.* admin=\(127\.0\.0\.1:[0-9]*\)$/\1/p' "$work/run/logs/trainer-0.log")/status" |
        "$python" -c 'import json, sys; print(json.load(sys.stdin)["save"]["name"])'
}
# shellcheck disable=SC2317 # likewise
is_under_way() {
    local name
    name=$(newest_save 2>/dev/null) && [ "$name" != "$before" ]
}
before=$(newest_save)
kill -STOP "$server"
timeout 60 "$B/saffron" export --run-dir "$work/run" >"$work/exported" 2>&1 &
other=$!
wait_for 30 "the export is under way" is_under_way
nats=$(cat "$work/run/pids/nats")
kill -9 "$nats"
# shellcheck disable=SC2317 # likewise
nats_is_new() { [ "$(cat "$work/run/pids/nats")" != "$nats" ]; }
wait_for 30 "another nats-server" nats_is_new
kill -CONT "$server"
wait "$other" || fail "without NATS for a while: $(cat "$work/exported")"
kill -0 "$supervisor" || fail "the run has ended of it"
"$B/saffron" stop --run-dir "$work/run" >/dev/null
wait_end 20
nothing_left
"$B/saffron" export "${words[@]}" >"$work/exported" 2>&1 && fail "export of a job that is not there: $(cat "$work/exported")"
mv "${exports[1]}" "$work/export"
local_run "${short[@]}" --init-from "$work/export" "${still[@]}"
expect_success
expect "rows_total >= $rows"

# ---- how much ----
local_run "${short[@]}" --max-steps 5 --set global.save=dense --quiet
expect_success
[ "$(ls "$work/run/model")" = "$(printf 'dense.safetensors\nmodel.yml')" ] || fail "save: dense left $(ls "$work/run/model")"
local_run "${short[@]}" --max-steps 5 --set global.save=none --quiet
expect_success
[ -z "$(ls "$work/run/model")" ] || fail "save: none left $(ls "$work/run/model")"

# ---- what goes wrong ----
refused() { # STATUS WORDS ARG...
    local want=$1 text=$2
    shift 2
    local_run "${short[@]}" --quiet "$@"
    [ "$status" -eq "$want" ] || fail "$*: exit status $status, expected $want: $(cat "$work/err")"
    grep -qF -- "$text" "$work/err" || fail "$*: expected '$text', got: $(cat "$work/err")"
    nothing_left
}
refused 2 "--init-from /nowhere: no saved model: there is no /nowhere/dense.safetensors" --init-from /nowhere
SAFFRON_INIT_FROM=/nowhere refused 2 "--init-from /nowhere: no saved model: there is no /nowhere/dense.safetensors"
cp -r "$work/first/model" "$work/broken"
rm "$work/broken/table.c5.0.0.safetensors"
refused 2 "it has no rows of table c5: there is no $work/broken/table.c5.0.0.safetensors" --init-from "$work/broken"
cp "$work/first/model/table.c5.0.0.safetensors" "$work/broken"
rm "$work/broken/table.c5.3.0.safetensors"
refused 1 "table.c5.3.0.safetensors: cannot be opened: No such file" --init-from "$work/broken"
refused 2 "dense.safetensors: tensor 'logit.1.weight': expected F32 [64, 256], got F32 [128, 256]" \
    --init-from "$work/first/model" --set 'model.params.top=[256, 64, 1]'

# A file stands where the folder has to be, once the job trains: it is trained, and says what is missing.
local_start "${short[@]}" --epochs 10 --set global.embedding_server.workers=1 # it trains for longer than that takes
wait_for 60 "the folder" test -d "$work/run/model"
rmdir "$work/run/model"
echo >"$work/run/model"
wait_end 120
[ "$status" -eq 1 ] || fail "exit status $status, though the model was not saved"
grep -q 'the model is trained, but was not saved: .*/run/model: cannot make folder' "$work/err" || fail "no reason: $(cat "$work/err")"
expect "'not saved' in error" "test_auc > 0.6" "samples_read == samples_trained"
nothing_left
exit 0
