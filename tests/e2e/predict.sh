#!/usr/bin/env bash
# --predict: every test row once with its key, of four heads, on one trainer and on two; the numbers of the summary come out of
# the file again; a saved model alone gives the same file; what cannot be done is one line; a full disk costs the file, and
# neither the model nor the evaluation.
. "$(dirname "$0")/lib.sh"
job_folder job 2 features,x
sed -i 's/^train:.*/format: csv\ntrain: [train.csv]\ntest: [test-*.csv]/; s/^test: .*tsv.*//' "$work/job/data.yml"
"$python" - "$work/job" <<'PY' || fail "the rows could not be written"
import random, sys
folder, draw = sys.argv[1], random.Random(7)
def rows(name, first, n):
    with open(f"{folder}/{name}", "w") as f:
        f.write("clicked,bought,shelf,stars,w,x,user,sees,id\n")
        for i in range(first, first + n):
            x, user, shelf = draw.randrange(-20, 21), draw.randrange(60), draw.randrange(3)
            clicked = int(draw.random() < 1 / (1 + 2.718 ** (-x / 8)))
            key = ["", "row\t%d", "row %d", "back\\slash %d", "%d"][i % 5 if i != first else 0]
            f.write(f"{clicked},{int(clicked and user % 2)},{shelf},{round(x / 10 + user % 2, 3)},{draw.choice([0.5, 1, 2])},"
                    f"{x},{user},s{shelf},{key % i if '%' in key else 'n%d' % i if i != 5000 else ''}\n")
rows("train.csv", 0, 4000)
rows("test-1.csv", 5000, 700)
rows("test-2.csv", 6000, 377)
open(f"{folder}/embedding.yml", "w").write("defaults: {dim: 8, optimizer: {type: adagrad, learning_rate: 0.1}}\n"
                                           "tables: {user: {}, sees: {}}\nfeatures: {user: {}, sees: {}}\n")
open(f"{folder}/data.yml", "a").write("""  clicked: label
  bought: label
  shelf: {kind: label, classes: 3}
  stars: {kind: label, real: true}
  w: weight
  x: {kind: dense, standardize: true}
  user: feature
  sees: feature
  id: key
""")
open(f"{folder}/model.yml", "w").write("""layers:
  - {name: all, type: concat, inputs: [features, x]}
  - {name: deep, type: mlp, inputs: [all], sizes: [16], last: relu}
  - {name: click, type: linear, inputs: [x], size: 1}
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

# check FILE... -- the files' rows are the test rows, each once, and what they say is what the summary says.
cat >"$work/check.py" <<'PY'
import csv, glob, json, math, struct, sys
work, files = sys.argv[1], sys.argv[2:]
test = {}
for path in glob.glob(f"{work}/job/test-*.csv"):
    for row in csv.DictReader(open(path)):
        assert row["id"] not in test
        test[row["id"]] = row
found = {}
for path in files:
    lines = open(path, encoding="utf-8", newline="").read().split("\n")
    assert lines.pop() == "" and lines[0] == "key\tctr\tctcvr\twhich.0\twhich.1\twhich.2\trating", lines[0]
    for line in lines[1:]:
        key, *scores = line.split("\t")
        key = key.replace("\\\\", "\0").replace("\\t", "\t").replace("\0", "\\")
        assert key not in found, f"{key!r} twice"
        found[key] = [float(s) for s in scores]
        for text, value in zip(scores, found[key]):  # all that a float32 has is there
            assert struct.unpack("f", struct.pack("f", value))[0] == value or "%.9g" % struct.unpack("f", struct.pack("f", value))[0] == text
assert set(found) == set(test), (len(found), len(test), sorted(set(found) ^ set(test))[:5])

def auc(column, label):
    order = sorted((found[k][column], float(r["w"]), r[label] == "1") for k, r in test.items())
    pairs = below = positives = negatives = 0.0
    for i, (score, weight, one) in enumerate(order):
        if i == 0 or score != order[i - 1][0]:
            ties_p = sum(w for s, w, y in order if s == score and y)
            ties_n = sum(w for s, w, y in order if s == score and not y)
            pairs += ties_p * (below + ties_n / 2)
            below += ties_n
        positives += weight * one
        negatives += weight * (not one)
    return pairs / (positives * negatives)
summary = json.load(open(f"{work}/run/summary.json"))
heads = {h["name"]: h for h in summary["heads"]}
total = sum(float(r["w"]) for r in test.values())
mean = lambda value: sum(float(r["w"]) * value(found[k], r) for k, r in test.items()) / total
got = {"auc": auc(0, "clicked"), "auc2": auc(1, "bought"),
       "loss": mean(lambda s, r: -math.log(max(1e-7, s[2 + int(r["shelf"])]))),
       "mse": mean(lambda s, r: (s[5] - struct.unpack("f", struct.pack("f", float(r["stars"])))[0]) ** 2)}
want = {"auc": heads["ctr"]["auc"], "auc2": heads["ctcvr"]["auc"], "loss": heads["which"]["loss"], "mse": heads["rating"]["mse"]}
assert summary["test_samples"] == len(test) and all(h["nonfinite"] == 0 for h in heads.values())
for name in got:
    assert abs(got[name] - want[name]) <= 1e-9 * max(1, abs(want[name])), (name, got, want)
PY

for way in "1:--epochs 2" "2:--data-composes 2 --embedding-servers 2 --set global.evaluate_every=9 --epochs 3"; do
    read -r -a words <<<"${way#*:}"
    local_run --config "$work/job" --trainers "${way%%:*}" --predict "$work/scores.tsv" "${words[@]}"
    expect_success
    grep -qE "^the scores of 1,077 rows: $work/scores.tsv" "$work/out" || fail "it does not say what was written"
    "$python" "$work/check.py" "$work" "$work"/scores.tsv* || fail "$way: the file is not what it should be"
    [ -z "$(find "$work" -maxdepth 1 -name '*.partial')" ] || fail "$way: a part is left"
    if [ "${way%%:*}" -eq 1 ]; then
        [ "$(echo "$work"/scores.tsv*)" = "$work/scores.tsv" ] || fail "one trainer left $(echo "$work"/scores.tsv*)"
        mv "$work/run" "$work/first"
        mv "$work/scores.tsv" "$work/first.tsv"
    fi
done
[ "$(echo "$work"/scores.tsv*)" = "$work/scores.tsv.0 $work/scores.tsv.1" ] || fail "two trainers left $(echo "$work"/scores.tsv*)"
rm "$work"/scores.tsv.*

# The saved model alone, without the training files: the same scores; nothing is trained, and no model is saved.
for trainers in 1 2; do
    for mode in hybrid full async; do
        local_run --config "$work/job" --trainers "$trainers" --init-from "$work/first/model" --epochs 0 --set global.mode=$mode \
            --set 'data.train=[nowhere.csv]' --predict "$work/again.tsv" --embedding-servers 2
        [ "$status" -eq 0 ] || fail "epochs 0, $mode, $trainers trainers: exit status $status"
        expect "steps == 0" "samples_read == samples_trained == 0" "epochs == 0" "train_loss is None"
        [ -z "$(ls "$work/run/model")" ] || fail "epochs 0: a model was saved"
        "$python" "$work/check.py" "$work" "$work"/again.tsv* || fail "epochs 0, $mode, $trainers trainers: another file"
        cmp -s <(sort "$work/first.tsv") <(sort -u "$work"/again.tsv*) || fail "epochs 0, $mode, $trainers trainers: other scores"
        nothing_left
        rm "$work"/again.tsv*
    done
done

# A wide head: its most probable class. A row whose score is beyond float32 is counted, and written as it is.
job_folder wide 1 x
"$python" - "$work/wide" <<'PY' || fail "the rows could not be written"
import sys
folder = sys.argv[1]
for name, n in ("train", 640), ("test", 130):
    with open(f"{folder}/{name}.tsv", "w") as f:
        f.write("shelf\tstars\tx\tu\tid\n")
        for i in range(n):
            f.write(f"{i % 3}\t{i % 3}\t{'3e38' if (name, i) in (('test', 7), ('test', 100)) else i % 3}\t{i % 3}\t{name}{i}\n")
open(f"{folder}/embedding.yml", "w").write("defaults: {dim: 4, optimizer: {type: adagrad, learning_rate: 0.1}}\ntables: {u: {}}\nfeatures: {u: {}}\n")
open(f"{folder}/data.yml", "a").write("  shelf: {kind: label, classes: 65}\n  stars: {kind: label, real: true}\n  x: dense\n  u: feature\n  id: key\n")
open(f"{folder}/model.yml", "w").write("""layers:
  - {name: wild, type: mul, inputs: [x, x]}
  - {name: sort, type: mlp, inputs: [u], sizes: [32, 65]}
  - {name: many, type: linear, inputs: [wild], size: 1}
  - {name: rating, type: mse, inputs: [many], label: stars}
  - {name: which, type: softmax_ce, inputs: [sort], label: shelf}
optimizer: {type: adam, learning_rate: 0.02}
""")
PY
local_run --config "$work/wide" --epochs 30 --predict "$work/wide.tsv"
[ "$status" -eq 0 ] || fail "scores that are not finite: exit status $status"
expect "test_samples == 128" "heads[0]['nonfinite'] == 2" "heads[0]['mse'] < 1" "samples_trained == 30 * 640"
grep -q 'scores_not_finite head=rating samples=2 of=130' "$work/run/logs/trainer-0.log" || fail "no warning of scores that are not finite"
grep -qF '(128 samples and 2 left out: their score is not finite)' "$work/out" || fail "the result does not say it"
"$python" - "$work/wide.tsv" <<'PY' || fail "a wide head, or a score that is not finite, is not as expected"
import sys
lines = open(sys.argv[1]).read().splitlines()
assert lines[0].split("\t") == ["key", "rating", "which.class", "which.probability"], lines[0]
rows = {key: rest for key, *rest in (line.split("\t") for line in lines[1:])}
assert set(rows) == {f"test{i}" for i in range(130)}
assert {key for key, row in rows.items() if row[0] in ("inf", "-inf", "nan")} == {"test7", "test100"}
assert all(row[1] == str(int(key[4:]) % 3) and 0.5 < float(row[2]) <= 1 for key, row in rows.items())
PY

# ---- what cannot be done ----
refused() { # WORDS ARG...
    local text=$1
    shift
    rm -rf "$work/run"
    "$B/saffron" local --config "$work/job" --run-dir "$work/run" "$@" >"$work/out" 2>"$work/err"
    [ $? -eq 2 ] || fail "$* was not refused with exit 2: $(cat "$work/err")"
    grep -qF -- "$text" "$work/err" || fail "$*: expected '$text', got: $(cat "$work/err")"
    [ ! -e "$work/run" ] || fail "$*: refused, but something has started"
}
refused "--predict p: data.yml has no column to know a row by: expected one of kind \`key\`" --predict p --set data.columns.id=ignore
refused "--predict p: data.yml has no \`test:\` files to score" --predict p --set data.test=[]
refused "--predict $work/no/p: there is no folder $work/no" --predict "$work/no/p"
refused "--predict $work: expected the name of a file" --predict "$work"
refused "--predict $work/first.tsv: $work/first.tsv is there already" --predict "$work/first.tsv"
touch "$work/two.0"
refused "--predict $work/two: $work/two.0 is there already" --predict "$work/two"

# A name that is no UTF-8, as JSON is, and that cannot be given in the end: the job says that it failed.
bad=$work/$'\xff'.tsv
local_run --config "$work/job" --epochs 5 --predict "$bad" --quiet &
running=$!
for ((i = 0; i < 600; i++)); do
    [ ! -e "$bad.partial" ] || break
    sleep 0.05
done
mkdir "$bad"
wait "$running"
grep -q "the scores were not written: trainer/0: see this trainer's log" "$work/err" || fail "a name that is no UTF-8: $(cat "$work/err")"
refused "data.epochs: 0 trains nothing: expected --init-from DIR" --epochs 0
refused "data.epochs: 0 trains nothing, and data.yml has no \`test:\` files" --epochs 0 --init-from "$work/first/model" --set data.test=[]

# ---- no room, and another writer ----
exec 9>"$work/other.tsv.partial"
flock 9
local_run --config "$work/job" --predict "$work/other.tsv" --quiet
[ "$status" -eq 1 ] || fail "two writers: exit status $status"
grep -q 'other.tsv.partial: another process is writing it' "$work/err" || fail "two writers: $(cat "$work/err")"
exec 9>&-
mkdir "$work/disk"
[ "$(id -u)" -eq 0 ] || skip "a full disk: needs root, to mount a small one; all else is as it should be"
mount -t tmpfs -o size=32k tmpfs "$work/disk" 2>/dev/null || skip "a full disk: no tmpfs can be mounted here; all else is as it should be"
umount_disk() {
    local status=$?
    umount -l "$work/disk" 2>/dev/null
    (exit "$status")
    at_exit
}
trap umount_disk EXIT
local_run --config "$work/job" --predict "$work/disk/scores.tsv" --quiet
[ "$status" -eq 1 ] || fail "a full disk: exit status $status, expected 1: $(cat "$work/err")"
grep -q 'the scores were not written: trainer/0: .*scores.tsv.partial: cannot write at byte [0-9]*: No space left on device' "$work/err" ||
    fail "a full disk: $(cat "$work/err")"
[ "$(grep -c . "$work/err")" -eq 1 ] || fail "a full disk: more than one line: $(cat "$work/err")"
[ -z "$(ls "$work/disk")" ] || fail "a full disk: it left $(ls "$work/disk")"
[ -s "$work/run/model/dense.safetensors" ] || fail "a full disk: the model was not saved"
nothing_left
expect "test_auc > 0.7" "'not written' in error" "samples_read == samples_trained"
