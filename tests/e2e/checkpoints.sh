#!/usr/bin/env bash
# The commands over checkpoints, on small ones whose every row is known (tests/lib/made_checkpoints.h): what they print of good ones and
# say of damaged ones, that their exit statuses are right, and that an export has exactly the rows that the chain stands for.
. "$(dirname "$0")/lib.sh"
all=$work/checkpoints
mkdir "$all"
"$B/tests/e2e/make_checkpoints" "$all" || fail "no checkpoints were made"
cp -r "$all" "$work/good"

# says STATUS PATTERN ARG... -- the command ends with it; a line of what it prints matches, or the whole where that has several lines.
says() {
    local want=$1 pattern=$2
    shift 2
    timeout $((60 * slow)) "$B/saffron" "$@" >"$work/said" 2>&1
    local status=$?
    [ "$status" -eq "$want" ] || fail "$*: exit status $status, expected $want: $(cat "$work/said")"
    grep -qE -e "$pattern" "$work/said" || fail "$*: expected '$pattern', got: $(cat "$work/said")"
}
# also PATTERN... -- of the same command.
also() {
    local pattern
    for pattern; do
        grep -qE -e "$pattern" "$work/said" || fail "expected '$pattern', got: $(cat "$work/said")"
    done
}
again() {
    chmod -R u+w "$all"
    rm -rf "$all"
    cp -r "$work/good" "$all"
}

# ---- what is there ----
says 0 '^NAME +STEP +GOES ON FROM +MADE +ROWS +BYTES +STATE$' checkpoints "$all"
[ "$(cut -d' ' -f1 "$work/said" | tr '\n' ' ')" = "NAME whole-30 step-30 step-20 step-10 " ] ||
    fail "checkpoints: not the newest first: $(cat "$work/said")"
also '^whole-30 +30 +full +2023-11-1[45] [0-9:]{8} +[0-9,]+ +[0-9.]+ kB +whole$' \
    '^step-30 +30 +step-20 .* whole$' '^step-20 +20 +step-10 .* whole, suspect$' '^step-10 +10 +full .* 6,000 +[0-9.]+ kB +whole$'
says 0 '^step-20 ' checkpoints "$all/step-20"
[ "$(wc -l <"$work/said")" -eq 2 ] || fail "checkpoints of one: $(cat "$work/said")"

says 0 '^step-10 +good: [0-9.]+ kB in 5 files$' verify "$all"
[ "$(grep -c ' good: ' "$work/said")" -eq 4 ] || fail "verify: not four that are good: $(cat "$work/said")"
says 0 '^step-20 +good' verify "$all" step-20
[ "$(cut -d' ' -f1 "$work/said" | tr '\n' ' ')" = "step-10 step-20 " ] || fail "verify step-20: $(cat "$work/said")"
says 0 '^whole-30 +good' verify "$all/whole-30"
[ "$(wc -l <"$work/said")" -eq 1 ] || fail "verify of one folder: $(cat "$work/said")"

says 0 '^checkpoint +whole-30, full$' inspect "$all"
says 0 '^checkpoint +step-20, goes on from step-10$' inspect "$all" step-20
also '^job +fixture, hybrid, seed 3; saffron 0$' '^step +20, age 20, epoch 1, learning factor 1$' \
    '^ledger +2 of 2 splits, 27 batches finished, holes 3$' '^data +320 samples trained, 0 dropped, in 0 s; of splits that have ended 2,000 rows read, 2 quarantined$' \
    '^user +4 sgd +[0-9,]+ +428 +2,672 +[0-9.]+ kB +[0-9a-f]{16}$' '^item +4 adagrad ' \
    '^rows\.00001 +1 +32768\.\.65535 +[0-9.]+ kB +0 +0 B +[0-9a-f]{16}$' '^dense\.safetensors +- +- '
also '^suspect +made while the loss or the gradients stood above what was usual$'
says 0 '"suspect": true' inspect "$all" step-20 --json
says 0 '"name": "step-30"' inspect "$all" step-30 --json
"$python" - "$work/said" <<'PY' || fail "inspect --json: not what is there"
import json, sys
it = json.load(open(sys.argv[1]))
assert it["chain"] == ["step-10", "step-20", "step-30"] and it["goes_on_from"] == "step-20", it["chain"]
assert (it["step"], it["age"], it["epoch"], it["owners"]) == (30, 30, 1, 2)
assert it["ledger"] == {"splits": 2, "batches_finished": 37, "holes": 3, "rows_read": 3000, "rows_quarantined": 3}
assert [t["name"] for t in it["tables"]] == ["user", "item"]
assert it["tables"][1]["bytes"] == it["tables"][1]["rows"] * (8 + 4 * 4 + 4 * 4)
assert [f["name"] for f in it["files"]] == ["rows.00000", "rows.00001", "dense.safetensors", "dense_state.safetensors", "model.yml"]
assert it["files"][1]["shard_first"] == it["files"][0]["shard_end"] == 32768
assert len(it["hashes"]["parts"]) == 5 and it["hashes"]["parts"]["embedding"] != "0" * 16
PY

# ---- differences ----
says 0 '^equal$' diff "$all/step-30" "$all/whole-30"
also '^user +2,6[0-9]{2} +0 +0 +0$' '^top\.0\.weight +12 +0 -$' '^step +30 +30$' '^finished, only here +0 +0$'
says 0 '^equal$' diff "$all/step-20" "$all/step-20" --memory 1MiB
says 1 '^different$' diff "$all/step-10" "$all/step-20"
# 3,000 ids: 428 go, 2,572 stay, of which those that 5 divides (600 - 85) change; 100 come.
also '^user +2,057 +515 +428 +100$' '^item +2,057 +515 +428 +100$' '^finished, only here +0 +10$' '^step +10 +20$' \
    '^top\.0\.weight +12 +1 1$' '^top\.0\.bias +4 +0 -$' '^top\.0\.weight\.sum +12 +0 -$'
says 1 '^item +2,057 +515 +100 +428$' diff "$all/step-20" "$all/step-10"
says 2 'no checkpoint is in it' diff "$all/step-10" "$work"
says 2 'expected A B' diff "$all/step-10"
says 2 "memory: expected bytes, 1MiB or more, as in 512MiB, got '3'" diff "$all/step-10" "$all/step-20" --memory 3

# ---- exports ----
cat >"$work/check.py" <<'PY'
import glob, json, struct, sys
folder, at, state = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "state"

def number(id):  # as tests/lib/made_checkpoints.c
    n = 1 if 1 <= id <= 3000 else 0
    if at >= 2:
        n = 0 if id % 7 == 0 else n
        n = 2 if id > 3000 or n and id % 5 == 0 else n
    if at >= 3:
        n = 3 if n and id % 3 == 0 else n
        n = 0 if 3000 < id <= 3010 else n
        n = 3 if id == 7 else n
    return n

def tensors(path):
    data = open(path, "rb").read()
    size = struct.unpack("<Q", data[:8])[0]
    head = json.loads(data[8:8 + size])
    notes = head.pop("__metadata__")
    return notes, {k: (t, data[8 + size + t["data_offsets"][0]:8 + size + t["data_offsets"][1]]) for k, t in head.items()}

want = {id: number(id) for id in range(1, 3101) if number(id)}
saves, owners = set(), set()
for table, floats in ("user", 0), ("item", 4):
    got = {}
    for path in glob.glob(f"{folder}/table.{table}.*.safetensors"):
        notes, t = tensors(path)
        saves.add(notes["save"]); owners.add(notes["owners"])
        n = t["ids"][0]["shape"][0]
        ids = struct.unpack(f"<{n}q", t["ids"][1])
        rows = struct.unpack(f"<{4 * n}f", t["rows"][1])
        assert set(t) == {"ids", "rows"} | ({"state.sum"} if state and floats else set()), set(t)
        assert ("optimizer" in notes) == state
        sums = struct.unpack(f"<{floats * n}f", t["state.sum"][1]) if state and floats else []
        for i, id in enumerate(ids):
            assert id not in got
            got[id] = rows[4 * i:4 * i + 4], sums[floats * i:floats * i + floats]
    assert set(got) == set(want), (table, set(got) ^ set(want))
    for id, (row, sums) in got.items():
        assert row == tuple(id + 0.5 * want[id] + 0.25 * d for d in range(4)), (table, id, row)
        assert all(s == want[id] for s in sums)
notes, dense = tensors(f"{folder}/dense.safetensors")
saves.add(notes["save"])
assert len(saves) == 1 and len(owners) == 1, (saves, owners)
assert notes["standardize.a"] == "0.5 2" and ("state" in notes) == state, notes
assert struct.unpack("<12f", dense["top.0.weight"][1])[3] == 3 + at
assert open(f"{folder}/model.yml").read() == "layers: []\n"
print(owners.pop())
PY
for way in "step-10 1" "step-30 3" "whole-30 3"; do
    read -r name at <<<"$way"
    rm -rf "$work/model"
    says 0 "^the model of $name, step ${at}0: [0-9.]+ kB in 4 files of " export "$all/$name" "$work/model"
    "$python" "$work/check.py" "$work/model" "$at" none >/dev/null || fail "export of $name has other rows"
done
says 0 'kB in 5 files of ' export "$all" "$work/newest" --state
"$python" "$work/check.py" "$work/newest" 3 state >/dev/null || fail "export of the newest has other rows"
says 2 'model: expected a new or an empty folder, it has ' export "$all/step-10" "$work/model"
says 2 'expected CHECKPOINT FOLDER' export "$all/step-10"
says 2 'step-10: is a checkpoint, expected a saved model' import --job none "$all/step-10"

# ---- back ----
exec 9>"$all/.lock"
flock -n 9 || fail "the lock is taken"
says 2 'a job makes checkpoints there: stop it first' rollback "$all" step-20
exec 9>&-
rm "$all/step-20/rows.00000"
says 1 'nothing was set aside: .*rows\.00000' rollback "$all" step-20
again
says 0 '^the newest checkpoint is step-20, of step 20; set aside: 2$' rollback "$all" step-20
[ "$(ls "$all")" = "$(printf 'step-10\nstep-20\nstep-30.abandoned\nwhole-30.abandoned')" ] || fail "rollback left $(ls "$all")"
says 0 '^checkpoint +step-20' inspect "$all"
says 0 'step 20; set aside: 0$' rollback "$all" step-20
says 2 "no checkpoint is called 'step-30'" rollback "$all" step-30
again

# ---- what is damaged: found, by file, place and reason; and what goes on from it ----
flip() { # FILE BYTE -- another value there
    "$python" -c 'import sys
data = bytearray(open(sys.argv[1], "rb").read())
data[int(sys.argv[2])] ^= 4
open(sys.argv[1], "wb").write(data)' "$1" "$2"
}
flip "$all/step-20/rows.00001" 5000
says 1 '^step-20 +BAD: .*/step-20/rows\.00001: .*byte [0-9]+: .*checksum' verify "$all"
also '^step-10 +good' '^step-30 +BAD: it goes on from step-20, which is not good$' '^whole-30 +good'
says 2 'step-20/rows\.00001: .*checksum' diff "$all/step-30" "$all/whole-30"
rm -rf "$work/model"
says 1 'step-20/rows\.00001: .*checksum' export "$all/step-30" "$work/model"
[ ! -e "$work/model/dense.safetensors" ] || fail "an export that failed looks like a model"
again
truncate -s -100 "$all/step-10/rows.00000"
says 0 '^step-10 .*rows\.00000: it has [0-9]+ bytes, expected [0-9]+$' checkpoints "$all"
says 1 '^step-10 +BAD: .*/step-10/rows\.00000: ' verify "$all" step-20
again
mv "$all/step-10/rows.00001" "$work/away"
cp "$all/step-10/rows.00000" "$all/step-10/rows.00001"
says 1 '^step-10 +BAD: .*/step-10/rows\.0000[01]: ' verify "$all/step-10"
again
cp "$all/step-10/rows.00000" "$all/step-20/rows.00000"
says 1 '^step-20 +BAD: .*/step-20/rows\.00000: ' verify "$all/step-20"
says 2 'step-20/rows\.00000: ' diff "$all/step-20" "$all/step-10"
again
rm "$all/whole-30/dense.safetensors"
says 1 '^whole-30 +BAD: .*dense\.safetensors' verify "$all"
says 0 '^whole-30 .*dense\.safetensors: it is missing' checkpoints "$all"
again
flip "$all/whole-30/dense.safetensors" 280
says 1 '^whole-30 +BAD: .*dense\.safetensors' verify "$all/whole-30"
says 2 'dense\.safetensors' diff "$all/whole-30" "$all/step-30"
again
flip "$all/step-20/manifest.json" 100
says 0 '^step-20 +- .*manifest\.json: ' checkpoints "$all"
says 1 '^step-20 +BAD: .*manifest\.json: ' verify "$all"
also "^step-30 +BAD: checkpoint 'step-30' needs 'step-20' .*, which is not there$" '^step-10 +good'
says 1 'manifest\.json: ' inspect "$all" step-20
again
rm -r "$all/step-10"
says 1 "^step-20 +BAD: checkpoint 'step-20' needs 'step-10' .*, which is not there$" verify "$all"
says 0 '^step-20 .*step-10' checkpoints "$all"
says 1 'step-10' export "$all/step-20" "$work/other"
[ ! -e "$work/other" ] || fail "a folder for an export that cannot be"
again
mv "$all/step-10" "$work/elsewhere"
ln -s "$work/elsewhere" "$all/step-10"
says 1 'which is not there$|step-10 +BAD' verify "$all"

# ---- words ----
says 2 "expected a folder of checkpoints" checkpoints "$work/nowhere"
says 2 "no checkpoint is in it" verify "$work/model"
says 2 "expected DIR" checkpoints
says 2 "unexpected argument 'more'" verify "$all" step-10 more
says 2 "expected NAME" checkpoint --job none
says 2 "expected 1 to 63 of A-Z a-z 0-9 _ -, got '../x'" checkpoint ../x --job none
says 2 "which job" checkpoint now
for command in checkpoint checkpoints verify inspect diff rollback export; do
    says 0 'Usage: saffron '"$command"' ' "$command" --help
done

# ---- of a job that trains: one is made when asked for, is good, and another job begins with what is exported of it ----
local_start "${long[@]}" --embedding-servers 2 --set global.checkpoint.every_seconds=0
wait_for 60 "a model that has learnt something" has_stepped 300
all=$work/run/checkpoints
for name in before after; do
    says 0 "^checkpoint: $name, of step [1-9][0-9]*$" checkpoint "$name" --run-dir "$work/run"
done
says 1 'the checkpoint was not made: .*a checkpoint of this name is there' checkpoint before --run-dir "$work/run"
says 2 'a job makes checkpoints there: stop it first' rollback "$all" before
says 0 '^after .* whole$' checkpoints "$all"
says 0 '^before +good' verify "$all"
says 1 '^different$' diff "$all/before" "$all/after"
also '^step +[0-9,]+ +[0-9,]+$' '^logit\.0\.weight|^top\.0\.weight|^[a-z]+\.0\.weight'
says 0 '^the model of after, step [0-9]+: ' export "$all/after" "$work/after" --memory 1MiB
"$B/saffron" stop --run-dir "$work/run" >/dev/null
wait_end 60
nothing_left
says 0 '^before +good' verify "$all"
"$B/saffron" inspect "$all" after --json | "$python" -c 'import json, sys
it = json.load(sys.stdin)
owners = [f for f in it["files"] if "owner" in f]
assert owners and sum(f["live"] for f in owners) == sum(t["live"] for t in it["tables"]) > 0
assert all(f["live_bytes"] >= 12 * f["live"] for f in owners)' || fail "live rows of owners: not those of the tables"
rows=$("$B/saffron" inspect "$all" after --json | "$python" -c 'import json, sys; print(sum(t["live"] for t in json.load(sys.stdin)["tables"]))')
local_run "${short[@]}" --init-from "$work/after" --epochs 0
[ "$status" -eq 0 ] || fail "a job does not begin with what is exported: exit status $status"
expect "rows_total == $rows" "test_auc > 0.6"
