"""tests/e2e/parity.py -- jobs that PyTorch has trained (scripts/fixtures/jobs.py): their files, and is what came of them the same?

  parity.py jobs GOLDEN FOLDER                    FOLDER/MODEL/ is a job, FOLDER/MODEL/init the saved model that it begins with;
                                                  prints the models
  parity.py gradients GOLDEN MODEL RUN OWNERS     of one step of SGD with the learning rate 1: what a weight has moved by
  parity.py steps GOLDEN MODEL RUN OWNERS         of all steps: each one's loss, then each weight and each row
  parity.py same GOLDEN FRESH                     is what PyTorch makes on this machine, perhaps to the last bits

|ours - theirs| <= 5e-6 max(1, |theirs|) for every number; ids and tensors are the same ones, and each of the OWNERS of the
tables has some of the rows. Standard library only.
"""
import glob
import json
import os
import re
import struct
import sys

BOUND = 5e-6
GLOBAL = "mode: full\nexact: true\nstaleness: 1\n"
DATA = """train: [train.tsv]
batch_size: %d
splits: 1
shuffle: false
columns:
  label: label
  weight: weight
  x: dense
  y: dense
  z: dense
  one: {kind: feature, integer: true}
  tags: {kind: feature, integer: true, separator: "|", weight_separator: ":"}
  more: {kind: feature, integer: true, separator: "|"}
  far: {kind: feature, integer: true, separator: "|", weight_separator: ":"}
"""
EMBEDDING = """defaults: {dim: %d, initializer: {type: constant, value: %g}}
tables:
  user: {optimizer: {type: adagrad, learning_rate: 0.05}}
  tag: {optimizer: {type: sgd, learning_rate: 0.1}}
  item: {optimizer: {type: adam, learning_rate: 0.01, eps: 1e-8}}
features:
  one: {table: user}
  tags: {table: tag}
  more: {table: tag, pooling: mean}
  far: {table: item, pooling: sqrtn}
"""
MODEL = "use: %s\nparams: {%s}\noptimizer: {type: adam, learning_rate: 0.01}\n"


def read_golden(path):
    """The training file's lines, and {case: {name: numbers, or the text of `params`, `spec`}}."""
    rows, cases, here = [], {}, None
    with open(path, encoding="utf-8") as file:
        for line in file:
            word, _, rest = line.rstrip("\n").partition(" ")
            if word == "row":
                rows.append(rest)
            elif word == "case":
                here = cases.setdefault(rest, {})
            elif word in ("params", "spec"):
                here[word] = rest
            elif word != "#":
                parse = int if re.match("(ids|first|saved|shape)\\.", word) else float
                here[word] = [parse(text) for text in next(file).split()]
                assert len(here[word]) == int(rest), "%s: %s of %s" % (path, word, here)
    return rows, cases


def under(case, prefix):
    return {name[len(prefix):]: values for name, values in case.items() if name.startswith(prefix)}


# ---- a saved model ----

def write_safetensors(path, notes, tensors):
    """tensors: [(name, type, shape, bytes)]"""
    head, at = {"__metadata__": notes}, 0
    for name, kind, shape, data in tensors:
        head[name] = {"dtype": kind, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(head).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + b"".join(data for *_, data in tensors))


def read_safetensors(path):
    """Its notes and {name: numbers}."""
    with open(path, "rb") as file:
        data = file.read()
    size, = struct.unpack_from("<Q", data)
    head, out = json.loads(data[8:8 + size]), {}
    notes = head.pop("__metadata__")
    for name, tensor in head.items():
        begin, end = (8 + size + offset for offset in tensor["data_offsets"])
        kind, width = {"F32": ("f", 4), "I64": ("Q", 8)}[tensor["dtype"]]
        out[name] = struct.unpack("<%d%s" % ((end - begin) // width, kind), data[begin:end])
    return notes, out


def floats(values):
    return struct.pack("<%df" % len(values), *values)


def shapes(init):
    """Of tensors by their names, as torch.nn.Linear has them: a weight has its bias's rows, or is one row."""
    out = {name: [len(values)] for name, values in init.items()}
    for name, values in init.items():
        if name.endswith("weight"):
            rows = len(init.get(name[:-len("weight")] + "bias", [0]))
            out[name] = [rows, len(values) // rows]
    return out


def write_model(folder, inputs, case):
    init = under(case, "init.")
    shape = shapes(init)
    os.makedirs(folder)
    write_safetensors(folder + "/dense.safetensors", {}, [(name, "F32", shape[name], floats(v)) for name, v in init.items()])
    for table, rows in under(inputs, "rows.").items():
        ids = inputs["ids." + table][:inputs["saved." + table][0]]
        write_safetensors("%s/table.%s.0.0.safetensors" % (folder, table),
                          {"table": table, "owner": "0", "owners": "1", "part": "0", "last": "true"},
                          [("ids", "I64", [len(ids)], struct.pack("<%dQ" % len(ids), *ids)),
                           ("rows", "F32", [len(ids), inputs["shape.dim"][0]], floats(rows))])


def write_jobs(rows, cases, folder):
    inputs = cases.pop("inputs")
    for model, case in cases.items():
        write_model("%s/%s/init" % (folder, model), inputs, case)
        for name, text in (("global.yml", GLOBAL), ("data.yml", DATA % inputs["shape.batch"][0]),
                           ("embedding.yml", EMBEDDING % (inputs["shape.dim"][0], inputs["new"][0])),
                           ("model.yml", MODEL % (model, case["params"])), ("train.tsv", "\n".join(rows) + "\n")):
            with open("%s/%s/%s" % (folder, model, name), "w", encoding="utf-8") as file:
                file.write(text)
    print(" ".join(cases))


# ---- comparing ----

class Differences:
    def __init__(self):
        self.worst, self.numbers, self.bad = 0.0, 0, []

    def compare(self, what, ours, theirs):
        if len(ours) != len(theirs):
            self.bad.append("%s: %d numbers, expected %d" % (what, len(ours), len(theirs)))
            return
        for i, (a, b) in enumerate(zip(ours, theirs)):
            off = abs(a - b) / max(1.0, abs(b))
            self.worst, self.numbers = max(self.worst, off), self.numbers + 1
            if not off <= BOUND:
                self.bad.append("%s [%d]: %.9g, expected %.9g" % (what, i, a, b))

    def same_names(self, what, ours, theirs):
        if set(ours) != set(theirs):
            self.bad.append("%s: %s, expected %s" % (what, sorted(ours), sorted(theirs)))
        return [name for name in theirs if name in ours]


def read_tables(run, owners, diff):
    """{table: {id: row}}"""
    tables, rows_of = {}, [0] * owners
    for path in glob.glob(run + "/model/table.*.safetensors"):
        notes, tensor = read_safetensors(path)
        ids, rows = tensor["ids"], tensor["rows"]
        dim = len(rows) // max(len(ids), 1)
        table = tables.setdefault(notes["table"], {})
        diff.same_names("%s: number of owners" % path, [notes["owners"]], [str(owners)])
        diff.same_names("%s: ids of two owners" % path, set(table) & set(ids), [])
        table.update({key: rows[i * dim:(i + 1) * dim] for i, key in enumerate(ids)})
        rows_of[int(notes["owner"])] += len(ids)
    if 0 in rows_of:
        diff.bad.append("rows of each owner: %s, expected some of each" % rows_of)
    return tables


def read_losses(run):
    """Of each step, the mean over the samples of all ranks."""
    steps = {}
    for path in glob.glob(run + "/logs/trainer-*.log"):
        with open(path, encoding="utf-8") as file:
            for step, samples, loss in re.findall(r" stepped step=(\d+) \S+ samples=(\d+) loss=(\S+)", file.read()):
                steps.setdefault(int(step), []).append((int(samples), float(loss)))
    return [sum(n * loss for n, loss in steps[k]) / sum(n for n, _ in steps[k]) for k in sorted(steps)]


def compare_steps(inputs, case, run, owners, diff):
    diff.compare("loss of a step", read_losses(run), case["loss"])
    _, ours = read_safetensors(run + "/model/dense.safetensors")
    theirs = under(case, "step.")
    for name in diff.same_names("tensors", ours, theirs):
        diff.compare(name, ours[name], theirs[name])
    tables, dim = read_tables(run, owners, diff), inputs["shape.dim"][0]
    for table, rows in under(case, "step_rows.").items():
        ids = inputs["ids." + table]
        for key in diff.same_names("ids of %s" % table, tables[table], ids):
            at = ids.index(key) * dim
            diff.compare("row of %s %d" % (table, key), tables[table][key], rows[at:at + dim])


def compare_gradients(inputs, case, run, owners, diff):
    diff.compare("loss", read_losses(run), case["loss"][:1])
    _, ours = read_safetensors(run + "/model/dense.safetensors")
    init, theirs = under(case, "init."), under(case, "grad.")
    for name in diff.same_names("tensors", ours, theirs):
        diff.compare("gradient of " + name, [a - b for a, b in zip(init[name], ours[name])], theirs[name])
    tables, dim = read_tables(run, owners, diff), inputs["shape.dim"][0]
    for table, gradients in under(case, "row_grad.").items():
        ids, first, saved = (inputs[name + "." + table] for name in ("ids", "first", "saved"))
        before = inputs["rows." + table] + inputs["new"] * dim * (len(ids) - saved[0])
        for key in diff.same_names("ids of %s" % table, tables[table], set(first) | set(ids[:saved[0]])):
            start = before[ids.index(key) * dim:][:dim]
            want = gradients[first.index(key) * dim:][:dim] if key in first else [0.0] * dim
            diff.compare("gradient of %s %d" % (table, key), [a - b for a, b in zip(start, tables[table][key])], want)


def compare_golden(rows, cases, fresh, diff):
    fresh_rows, fresh_cases = read_golden(fresh)
    diff.same_names("rows", fresh_rows, rows)
    for case in diff.same_names("cases", fresh_cases, cases):
        for name in diff.same_names(case, fresh_cases[case], cases[case]):
            ours, theirs = fresh_cases[case][name], cases[case][name]
            if theirs and isinstance(theirs[0], float):
                diff.compare(case + " " + name, ours, theirs)
            elif ours != theirs:  # a text, ids
                diff.bad.append("%s %s: %s, expected %s" % (case, name, ours, theirs))


def main():
    what, golden, *rest = sys.argv[1:]
    rows, cases = read_golden(golden)
    diff = Differences()
    if what == "jobs":
        write_jobs(rows, cases, *rest)
        return
    if what == "same":
        model = rest[0]
        compare_golden(rows, cases, model, diff)
    else:
        model, run, owners = rest
        compare = {"steps": compare_steps, "gradients": compare_gradients}[what]
        compare(cases["inputs"], cases[model], run, int(owners), diff)
    print("%s, %s: %d numbers, the furthest off by %.2g of %g" % (golden if what == "same" else model, what, diff.numbers, diff.worst, BOUND))
    for line in diff.bad[:10]:
        print("  " + line)
    sys.exit(bool(diff.bad))


main()
