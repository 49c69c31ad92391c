#!/usr/bin/env bash
# What the roles say of themselves agrees: with two of each, read from their pages once all is done. A row that one role
# counts another has counted too; the parts of a step are the time that training took; bytes are those on disk.
. "$(dirname "$0")/lib.sh"
export SAFFRON_JOB=metrics_roles
epochs=2 rows=60000 test_rows=5000 staleness=3
declare -A file=([data_compose]=data-compose [middleware]=middleware [embedding_server]=embedding-server
    [trainer]=trainer)

port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
nats-server -a 127.0.0.1 -p "$port" >"$work/nats.log" 2>&1 &
"$B/saffron-data-compose" generate --rows $rows --test-rows $test_rows --out "$work/data" >"$work/out" || fail "generate"
flags=(--nats "nats://127.0.0.1:$port" --config configs/bench --data "$work/data" --admin-port 0 --size 2
    --set "data.epochs=$epochs" --set data.batch_size=256 --set data.window=6 --set "global.staleness=$staleness"
    --set global.evaluate_every=100)
for role in "${roles[@]}"; do
    for index in 0 1; do
        "$B/saffron-${file[$role]}" "${flags[@]}" --run-dir "$work/run" --index "$index" \
            >"$work/$role.$index" 2>&1 &
        pids+=("$!")
    done
done

# address ROLE INDEX -- of its admin page.
address() {
    sed -n 's/.* admin=\(127\.0\.0\.1:[0-9]*\)$/\1/p' "$work/$1.$2" | head -n 1
}

all_done() {
    local role index
    for role in "${roles[@]}"; do
        for index in 0 1; do
            kill -0 "${pids[0]}" 2>/dev/null || fail "a role has ended"
            curl -s -m 2 "http://$(address "$role" "$index")/status" >"$work/$role.$index.json" || return 1
            [ "$role" != trainer ] || grep -q '"done": *true' "$work/$role.$index.json" || return 1
        done
    done
}

tries=$((60 * slow))
until all_done; do
    tries=$((tries - 1))
    [ "$tries" -gt 0 ] || fail "not done: $(tail -n 3 "$work"/*.[01])"
    sleep 0.5
done
for role in "${roles[@]}"; do
    for index in 0 1; do
        curl -s -m 5 "http://$(address "$role" "$index")/metrics" >"$work/$role.$index.page" || fail "no page of $role/$index"
    done
done

"$python" - "$work" $epochs $rows $test_rows $staleness "$slow" <<'PY' || fail "the pages do not agree"
import json, math, os, re, sys
work, epochs, rows, test_rows, staleness, slow = sys.argv[1], *map(int, sys.argv[2:])
bad = []

def check(text, holds):
    if not holds:
        bad.append(text)
        print("not true:", text)

class Role:
    def __init__(self, role, index):
        self.name = f"{role}/{index}"
        self.status = json.load(open(f"{work}/{role}.{index}.json"))
        self.series = {}
        for line in open(f"{work}/{role}.{index}.page"):
            m = re.match(rf"saffron_{role}_(\w+)(?:\{{(.*)\}})? (\S+)$", line)
            if m:
                labels = tuple(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', m[2] or ""))
                self.series.setdefault(m[1], {})[labels] = float(m[3])

    def __call__(self, name, **labels):
        """The sum of the series that have these labels; none is an error."""
        found = [v for k, v in self.series.get(name, {}).items() if set(labels.items()) <= set(k)]
        check(f"{self.name} has {name} {labels or ''}", found)
        return sum(found)

    def is_same(self, *names):
        values = [n if isinstance(n, (int, float)) else self(n) for n in names]
        check(f"{self.name}: {' == '.join(map(str, names))}: {values}", len(set(values)) == 1)

    def __str__(self):
        return self.name

C, M, E, T = ([Role(r, i) for i in (0, 1)] for r in ("data_compose", "middleware", "embedding_server", "trainer"))
total = lambda of, name, **labels: sum(r(name, **labels) for r in of)
retried = total(C, "batches_retried_total")
train_bytes, test_bytes = (os.path.getsize(f"{work}/data/{f}.tsv") for f in ("train", "test"))
evaluations = len(T[0].status["evaluations"])
check(f"there were evaluations in the midst of epochs: {evaluations}", evaluations > epochs)

# Trainers: time, staleness, quality.
for t in T:
    parts = {p: t("step_seconds_sum", part=p) for p in ("wait", "header", "compute", "reduce", "commit")}
    wall = t.status["train_seconds"]
    print(f"{t}: {sum(parts.values()):.3f} of {wall:.3f} s:", ", ".join(f"{p} {s:.3f}" for p, s in parts.items()))
    check(f"{t}: parts {parts} add up to {wall} s", abs(sum(parts.values()) / wall - 1) < 0.05)
    check(f"{t}: two ranks reduce", parts["reduce"] > 0 and parts["compute"] > 0 and parts["commit"] > 0)
    for p in parts:
        check(f"{t}: every step observes {p}", t("step_seconds_count", part=p) == t("steps_total") > 0)
    t.is_same("wait_seconds_total", parts["wait"])
    t.is_same("permits", staleness, t.status["staleness_limit"])
    check(f"{t}: mean staleness", 1 <= t.status["staleness_mean"] <= t.status["staleness_max"] <= staleness)
    check(f"{t}: parts of /status", all(abs(t.status["step_seconds"][p] - s) < 1e-6 for p, s in parts.items()))
    at_most = 1 << (staleness - 1).bit_length()
    t.is_same("staleness_count", t("staleness_bucket", le=str(at_most)))
    check(f"{t}: staleness", t("batches_trained_total") <= t("staleness_count") <= t("staleness_sum"))
    check(f"{t}: nothing is held", t("queue_batches") == t("batches_open") == t("permits_used") == 0)
    t.is_same("evaluate_seconds_count", evaluations)
    t.is_same("world", 2)
    t.is_same("epochs", epochs)
    check(f"{t}: loss", abs(t("epoch_loss") - t.status["train_loss"]) < 1e-9 and 0 < t("loss") < 2)
T[0].is_same("evaluations_total", evaluations)
check("quality", abs(T[0]("test_auc") - T[0].status["test_auc"]) < 1e-9 and math.isnan(T[1]("test_auc")))
check("head", abs(T[0]("head_auc", head="loss", set="test") - T[0].status["test_auc"]) < 1e-9)
head = T[0].status["heads"][0]
check("entropy", abs(T[0]("head_normalized_entropy", head="loss", set="test") - head["normalized_entropy"]) < 1e-9)
check("no classes", math.isnan(T[0]("head_accuracy", head="loss", set="test")) and "accuracy" not in head)
check("steps", T[0]("steps_total") == T[1]("steps_total") == T[0].status["step"])

# Rows and batches, from hand to hand.
samples = epochs * rows
read, trained = total(C, "rows_read_total"), total(T, "samples_trained_total")
check(f"rows: {read} read, {trained} trained, expected {samples}", read == trained == samples)
for c in C:
    c.is_same("batch_seconds_count", "batches_done_total", "parse_seconds_count")
    check(f"{c}: nothing is open", c("batches_open") == c("queue_batches") == 0)
    c.is_same("read_bytes_total", c.status["bytes_read"], epochs * train_bytes + evaluations * test_bytes)
    check(f"{c}: times", 0 < c("parse_seconds_sum") < 60 * slow and c("batch_seconds_sum") > 0)
for m in M:
    m.is_same("dedup_seconds_count", "batches_put_total")
    m.is_same("pool_seconds_count", "lookups_total")
    check(f"{m}: scattered {m('scatter_seconds_count')}", m("scatter_seconds_count") >= m("pushes_total") > 0)
    check(f"{m}: times", all(m(f"{p}_seconds_sum") > 0 for p in ("dedup", "pool", "scatter")))
    check(f"{m}: nothing is held", m("batches_open") == m("reserved_bytes") == 0)
    check(f"{m}: ratio", abs(m.status["distinct_ratio"] - m("distinct_ids_total") / m("ids_total")) < 1e-9)
check("batches trained are pushed", total(M, "pushes_total") == total(T, "batches_trained_total"))
done, ids = total(C, "batches_done_total"), 26 * (samples + evaluations * test_rows)
check(f"batches put: {done}", total(M, "batches_put_total") >= done and total(M, "lookups_total") >= done)
if retried == 0:
    check("each batch is put and looked up once",
          total(M, "batches_put_total") == total(M, "lookups_total") == done)
    check("ids", total(M, "ids_total") == ids)
    check("distinct ids are rows looked up", total(M, "distinct_ids_total") == total(E, "rows_looked_up_total"))

# Embedding servers: tables, requests.
for e in E:
    e.is_same("lookup_rows_count", "lookup_seconds_count", "lookups_total")
    e.is_same("lookup_rows_sum", "rows_looked_up_total")
    e.is_same("apply_rows_count", "apply_seconds_count", "updates_total")
    check(f"{e}: rows applied", e("apply_rows_sum") == e("rows_applied_total") + e("rows_nonfinite_total"))
    e.is_same("rows", e.status["rows_total"], "rows_created_total")
    check(f"{e}: no policy, none at work", all(e(f"rows_{what}_total") == 0 for what in (
        "evicted", "expired", "not_admitted", "refused")) and e("budget_bytes") == 0)
    e.is_same("table_bytes", e.status["memory_bytes"])
    for table in e.status["tables"]:
        name, rows = table["name"], table["rows"]
        check(f"{e}, {name}: rows", rows == table["created"] == e("rows", table=name))
        check(f"{e}, {name}: bytes", {kind: e("table_bytes", table=name, kind=kind) for kind in table["bytes"]} == table["bytes"])
        each = sum(table["bytes"].values()) / rows
        check(f"{e}, {name}: bytes per row", abs(each - table["bytes_per_row"]) < 1e-6 * each
              and abs(each - e("table_bytes_per_row", table=name)) < 1e-6 * each)
    check(f"{e}: live bytes", e("table_bytes", kind="rows") == e("row_bytes") > 0)
    check(f"{e}: 26 tables, 4 kinds", len(e.series["table_bytes"]) == 104 and len(e.series["rows"]) == len(e.status["tables"]) == 26)
    check(f"{e}: a table", e("rows", table="c1") > 0 and e("table_bytes", table="c1", kind="index") > 0)
    check(f"{e}: times", e("lookup_seconds_sum") > 0 and e("apply_seconds_sum") > 0)
sys.exit(bool(bad))
PY
