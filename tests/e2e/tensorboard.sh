#!/usr/bin/env bash
# The curves that a job leaves for TensorBoard, read back by TensorBoard's own loader: every number is the summary's, to the last
# bit of a float32 (the summary has nine digits); points are where they belong. A folder that cannot be made is a warning.
. "$(dirname "$0")/lib.sh"

# Somebody's file stands there: the job goes on without.
mkdir "$work/run"
echo >"$work/run/tensorboard"
"$B/saffron" local "${short[@]}" --run-dir "$work/run" --timeout $((240 * slow)) >"$work/out" 2>"$work/err" ||
    fail "without a place for curves: exit status $?: $(cat "$work/err")"
grep -q 'WARN trainer/0 tensorboard_ends reason=".*/run/tensorboard: cannot make folder' "$work/run/logs/trainer-0.log" ||
    fail "without a place for curves: no warning"

reader=build/venv/bin/python3
"$reader" -c 'from tensorboard.backend.event_processing import event_file_loader' 2>/dev/null ||
    skip "curves: no tensorboard for Python (make deps-test); all else is as it should be"
cat >"$work/read.py" <<'PY'
import glob, json, struct, sys
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
run = sys.argv[1]
files = glob.glob(f"{run}/tensorboard/*")
assert len(files) == 1 and "/events.out.tfevents." in files[0], files
events = list(EventFileLoader(files[0]).Load())
assert events[0].file_version == "brain.Event:2"
curves, last = {}, 0
for event in events[1:]:
    assert 1.6e9 < event.wall_time and event.wall_time >= last and event.summary.value
    last = event.wall_time
    for value in event.summary.value:  # the loader makes tensors of what was a simple_value
        (number,) = value.tensor.float_val
        curve = curves.setdefault(value.tag, {})
        assert event.step not in curve or value.tag.endswith("_loss"), (value.tag, event.step)
        curve[event.step] = number
summary = json.load(open(f"{run}/summary.json"))
heads = {h["name"]: h for h in summary["heads"]}
def same(got, want):
    return abs(got - want) <= abs(want) * 1.2e-7
KEYS = {"loss", "auc", "group_auc", "normalized_entropy", "calibration", "accuracy"}
PY

# Of several heads, with evaluations on the way; the second time with two trainers, of which one writes.
job_folder job 2 features,x
"$python" - "$work/job" <<'PY' || fail "the rows could not be written"
import random, sys
folder, draw = sys.argv[1], random.Random(7)
for name, n in ("train", 6000), ("test", 1500):
    with open(f"{folder}/{name}.tsv", "w") as f:
        f.write("clicked\tshelf\tx\tuser\tin\n")
        for i in range(n):
            x, user, shelf = draw.randrange(-20, 21), draw.randrange(60), draw.randrange(3)
            f.write(f"{int(draw.random() < 1 / (1 + 2.718 ** (-x / 8)))}\t{shelf}\t{x}\t{user}\tg{user % 7}\n")
open(f"{folder}/embedding.yml", "w").write("defaults: {dim: 8, optimizer: {type: adagrad, learning_rate: 0.1}}\n"
                                           "tables: {user: {}}\nfeatures: {user: {}}\n")
open(f"{folder}/data.yml", "a").write(
    "  clicked: label\n  shelf: {kind: label, classes: 3}\n  x: dense\n  user: feature\n  in: group\n")
open(f"{folder}/model.yml", "w").write("""layers:
  - {name: all, type: concat, inputs: [features, x]}
  - {name: click, type: linear, inputs: [all], size: 1}
  - {name: sort, type: linear, inputs: [all], size: 3}
  - {name: ctr, type: bce, inputs: [click], label: clicked}
  - {name: which, type: softmax_ce, inputs: [sort], label: shelf}
optimizer: {type: adam, learning_rate: 0.02}
""")
PY
for trainers in 1 2; do
    local_run --config "$work/job" --trainers "$trainers" --epochs 3 --set global.evaluate_every=20
    expect_success
    cat "$work/read.py" - >"$work/check.py" <<'PY'
steps, trainers = summary["steps"], int(sys.argv[2])
for name, head in heads.items():
    for key in KEYS:  # what the head has, and nothing else
        curve = curves.get(f"{name}/test_{key}")
        assert (curve is not None) == (key in head), (name, key, sorted(curves))
        assert curve is None or same(curve[steps], head[key]), (name, key, curve, head[key])
    assert max(curves[f"{name}/epoch_loss"]) == steps and len(curves[f"{name}/epoch_loss"]) == 3
    if trainers == 1:
        assert same(curves[f"{name}/epoch_loss"][steps], head["train_loss"])
    losses = curves[f"{name}/train_loss"]
    assert min(losses) == 1 and max(losses) == steps and losses[1] > losses[steps]
for evaluation in summary["evaluations"]:
    assert same(curves["ctr/test_auc"][evaluation["step"]], evaluation["auc"])
    assert same(curves["ctr/test_loss"][evaluation["step"]], evaluation["logloss"])
assert len(summary["evaluations"]) == len(curves["ctr/test_auc"]) > 3
assert set(curves["job/learning_rate"].values()) == {struct.unpack("f", struct.pack("f", 0.02))[0]}
assert all(v > 0 for v in curves["job/gradient_norm"].values())
assert len(curves["job/samples_per_second"]) >= 3
PY
    "$reader" "$work/check.py" "$work/run" "$trainers" || fail "$trainers trainers: the curves are not what they should be"
done

# One step: its loss is the summary's.
local_run --config "$work/job" --max-steps 1
expect_success
cat "$work/read.py" - >"$work/check.py" <<'PY'
assert summary["steps"] == 1
for name, head in heads.items():
    assert list(curves[f"{name}/train_loss"]) == [1] and same(curves[f"{name}/train_loss"][1], head["train_loss"])
PY
"$reader" "$work/check.py" "$work/run" || fail "one step: not its loss"

# Windows of training samples are complete in a longer job.
local_run --config configs/synthetic --set data.synthetic.rows=150000 --set data.synthetic.test_rows=1000
expect_success
cat "$work/read.py" - >"$work/check.py" <<'PY'
(at,) = curves["loss/train_auc"]
assert at == 65536 // 1024 and 0.5 < curves["loss/train_auc"][at] < 0.83 and 0.5 < curves["loss/train_calibration"][at] < 2
assert same(curves["loss/test_auc"][summary["steps"]], summary["test_auc"])
PY
"$reader" "$work/check.py" "$work/run" || fail "the window is not there"
