#!/usr/bin/env bash
# `saffron import`: a saved model into a job that trains, of other numbers of ranks and servers; all ranks end with the same
# weights, which are the imported ones where nothing is learnt afterwards. What cannot be imported changes nothing; whoever dies on
# the way, the job ends with one line or goes on.
. "$(dirname "$0")/lib.sh"
still=(--set model.optimizer.learning_rate=0 --set embedding.defaults.optimizer.learning_rate=0)

import() { # WORDS... -- exit status in $status, what it said in $work/imported
    timeout 120 "$B/saffron" import --run-dir "$work/run" "$@" >"$work/imported" 2>&1
    status=$?
}

# holds DIR DIR KIND -- the second model has the first one's dense tensors, and its rows; `only`: no others. State is not compared.
holds() {
    "$python" - "$@" <<'PY'
import glob, json, struct, sys

def model(folder):
    dense, rows = None, {}
    for path in [folder + "/dense.safetensors"] + glob.glob(folder + "/table.*.safetensors"):
        data = open(path, "rb").read()
        size = struct.unpack("<Q", data[:8])[0]
        head = json.loads(data[8:8 + size])
        note = head.pop("__metadata__")
        tensor = {k: data[8 + size + v["data_offsets"][0]:8 + size + v["data_offsets"][1]] for k, v in head.items()}
        if "table" not in note:
            dense = tensor
            continue
        n = head["ids"]["shape"][0]
        for i in range(n):
            width = len(tensor["rows"]) // n
            rows[note["table"], tensor["ids"][8 * i:8 * i + 8]] = tensor["rows"][width * i:width * i + width]
    return dense, rows

(dense, rows), (other, more) = model(sys.argv[1]), model(sys.argv[2])
if dense != other:
    sys.exit("other dense weights")
wrong = sum(more.get(key) != row for key, row in rows.items())
if wrong or not rows:
    sys.exit(f"{wrong} of {len(rows)} rows are others")
print(len(rows), "rows,", len(more) - len(rows), "more")
PY
}

local_run "${short[@]}" --embedding-servers 2 --set global.save_state=true
expect_success
mv "$work/run" "$work/first"
model=$work/first/model

# import_into TIMES -- a job of $ranks and $servers, with $words; 1: it was over before the model was there.
# shellcheck disable=SC2317 # long_enough calls it
import_into() {
    local_start "${short[@]}" "${still[@]}" "${words[@]}" --trainers "$ranks" --embedding-servers "$servers" \
        --set data.epochs=$((12 * ranks * $1)) --seed 7
    meanwhile 60 "training" is_training || return
    import "$model"
    [ "$status" -ne 0 ] || return 0
    ! grep -q 'state now=done' "$work/run/logs/trainer-0.log" || return
    fail "$way: exit status $status: $(cat "$work/imported")"
}
for way in "1 1" "2 3" "2 1 --set global.mode=full"; do
    read -r ranks servers words <<<"$way"
    read -r -a words <<<"$words"
    long_enough import_into
    grep -qx "imported: $model" "$work/imported" || fail "it says: $(cat "$work/imported")"
    wait_end 120
    [ "$status" -eq 0 ] || fail "$way: the job ended with $status: $(cat "$work/err")"
    grep -qE 'imported step=[1-9][0-9]* with_state=1 steps=[0-9]+ from=' "$work"/run/logs/trainer-0.log || fail "$way: no line in the log"
    grep -qE 'rows_imported rows=[1-9][0-9]* with_state=[1-9][0-9]* from=' "$work"/run/logs/embedding_server-0.log || fail "$way: no line in a server's log"
    holds "$model" "$work/run/model" || fail "$way: not the model that was imported"
    expect "samples_read == samples_trained"
done

# ---- what is refused: the job goes on ----
cp -r "$model" "$work/cut"
truncate -s -100 "$work/cut/table.c5.1.0.safetensors"
local_start "${short[@]}" --embedding-servers 2 --trainers 2 --set data.epochs=100000 --set embedding.tables.c8.optimizer.type=sgd
wait_for 60 "training" is_training
for way in "1:$work/cut/table.c5.1.0.safetensors: no safetensors file:$work/cut" \
    "1:cannot be opened: No such file or directory:/nowhere" \
    "1:table.c8.0.0.safetensors: has the optimizer's state of 'adagrad', table c8 has 'sgd': expected the same:$model"; do
    import "${way##*:}"
    [ "$status" -eq "${way%%:*}" ] || fail "import ${way##*:}: exit status $status, expected ${way%%:*}: $(cat "$work/imported")"
    text=${way#*:}
    grep -q "^saffron: the model was not imported, the job goes on without it: .*${text%:*}" "$work/imported" ||
        fail "expected '${text%:*}', got: $(cat "$work/imported")"
done
grep -q imported "$work/run/logs/trainer-0.log" && fail "it was imported all the same"
import "$model" --replace --fresh-state
[ "$status" -eq 0 ] || fail "with a fresh state: $(cat "$work/imported")"
grep -qE 'imported step=[1-9][0-9]* with_state=0 steps=[0-9]+ ' "$work/run/logs/trainer-0.log" || fail "no line in the log"
kill -0 "$supervisor" || fail "the run has ended of it"
kill -INT "$supervisor"
wait_end 60

# With its state the model would be behind the schedule's end, and learn nothing more.
local_start "${short[@]}" --embedding-servers 1 --set data.epochs=100000 --set 'model.schedule={type: linear, steps: 3}'
wait_for 60 "training" is_training
import "$model"
[ "$status" -eq 1 ] || fail "behind the schedule's end: exit status $status: $(cat "$work/imported")"
grep -qE 'the job goes on without it: .*schedule.steps: expected more than the [0-9]+ steps that the saved model has made, got 3' \
    "$work/imported" || fail "behind the schedule's end it says: $(cat "$work/imported")"
kill -0 "$supervisor" || fail "behind the schedule's end: the run has ended of it"
kill -INT "$supervisor"
wait_end 60

local_start "${short[@]}" --embedding-servers 1 --trainers 2 --set data.epochs=100000 --set global.mode=async
wait_for 60 "training" is_training
import "$model"
[ "$status" -eq 1 ] || fail "async: exit status $status: $(cat "$work/imported")"
# shellcheck disable=SC2016 # the backquotes are the message's
grep -qx 'saffron: the model was not imported, the job goes on without it: trainer/0: no import in mode `async` with several trainers: each has weights of its own' \
    "$work/imported" || fail "async: it says: $(cat "$work/imported")"
kill -0 "$supervisor" || fail "async: the run has ended of it"
kill -INT "$supervisor"
wait_end 60

local_start "${short[@]}" --embedding-servers 2 --trainers 2 --set data.epochs=100000
wait_for 60 "training" is_training

# ---- whoever dies when rows have begun to change ----
# shellcheck disable=SC2317 # wait_for calls it
stage_is() { # NUMBER of trainer/0's import, or later
    local port
    port=$(grep -oh 'admin=[0-9.:]*' "$work/run/logs/trainer-0.log" | tail -1 | cut -d= -f2)
    "$python" - "http://$port/status" "$1" <<'PY'
import json, sys, urllib.request
try:
    now = json.load(urllib.request.urlopen(sys.argv[1])).get("import")
except OSError: # not listening yet, or no more
    sys.exit(1)
sys.exit(not now or now["state"] == "failed" or not int(sys.argv[2]) <= now["stage"] < 4)
PY
}

# shellcheck disable=SC2317 # likewise
is_past() { # NUMBER; or it has ended
    stage_is "$1" || ! kill -0 "$command" 2>/dev/null
}

# A server is held up, so that the import stays in its midst; one that went through before that is done again.
begin_import() {
    local server tries=10
    server=$(cat "$work/run/pids/embedding_server-1")
    while [ "$tries" -gt 0 ]; do
        "$B/saffron" import --run-dir "$work/run" "$model" --fresh-state >"$work/imported" 2>&1 &
        command=$!
        disown "$command"
        wait_for 60 "the import" is_past 2
        kill -STOP "$server"
        wait_for 60 "rows that change" is_past 3
        sleep 0.5
        stage_is 3 && return
        kill -CONT "$server"
        wait_for 60 "its end" is_past 9
        tries=$((tries - 1))
    done
    fail "no import was held up"
}
begin_import
kill -9 "$command"
kill -CONT "$(cat "$work/run/pids/embedding_server-1")"
wait_end 60
[ "$status" -eq 1 ] || fail "exit status $status of a job whose import was left"
grep -q 'an import was cut off when rows may have begun to change: nobody has asked for it any more; begin anew with --init-from' "$work/err" ||
    fail "no reason: $(cat "$work/err")"
nothing_left

local_start "${short[@]}" --embedding-servers 2 --set data.epochs=100000
wait_for 60 "training" is_training
begin_import
kill -9 "$(cat "$work/run/pids/embedding_server-1")"
wait_end 60
kill "$command"
[ "$status" -eq 1 ] || fail "exit status $status of a job whose server was killed"
grep -q 'embedding_server/1 was killed by signal 9' "$work/err" || fail "no reason: $(cat "$work/err")"
nothing_left
exit 0
