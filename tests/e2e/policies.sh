#!/usr/bin/env bash
# A real job under each policy of its tables, switched by --set alone: admission, a capacity with LRU and LFU, a capacity
# that evicts nothing, expiry, a memory cap, 16-bit rows. It ends, keeps within what was allowed, counts what it did,
# loses no sample, and still learns. The last pages of the servers are read as a push gateway gets them.
. "$(dirname "$0")/lib.sh"
mkdir "$work/pushed"
"$python" tests/e2e/metrics.py gateway "$work/pushed" >"$work/port" 2>"$work/gateway.log" &
helper=$!
until [ -s "$work/port" ]; do sleep 0.02; done

# What is resident at the end is to be the tables': nothing is saved, which takes memory.
servers=(--embedding-servers 2 --set global.embedding_server.workers=2 --set data.batch_size=64 --set global.save=none)
# job NAME ARG... -- run it; what it came to stands in $work/NAME.
job() {
    local name=$1
    shift
    rm -f "$work"/pushed/*
    SAFFRON_METRICS_GATEWAY_ADDR=127.0.0.1:$(cat "$work/port") local_run "${short[@]}" --quiet "${servers[@]}" "$@"
    expect_success
    mkdir "$work/$name"
    mv "$work/pushed" "$work/run/summary.json" "$work/$name"
    mkdir "$work/pushed"
}

lru='embedding.defaults.eviction={type: lru, rows: 1000}'
job plain
job admit --set embedding.defaults.admission.type=count --set embedding.defaults.admission.sketch_bytes=65536 \
    --set 'embedding.tables.c8.admission={type: probability, probability: 0.2}'
job lru --set "$lru" --set embedding.defaults.dtype=bfloat16
job lfu --set "${lru/lru/lfu}" --set embedding.tables.c8.eviction.type=none --set embedding.tables.c7.eviction.bytes=200000
job wide --set embedding.defaults.dim=512 --model mlp --set data.synthetic.test_rows=1000
servers[1]=1 # its cap is half of what the rows would take
cap=(--set global.embedding_server.memory=1048576)
job cap "${cap[@]}"
grep -q 'WARN embedding_server/0 rows_refused table=.* why="global.embedding_server.memory is used up"' \
    "$work/run/logs/embedding_server-0.log" || fail "the log does not say that rows were refused"
job cap_lru "${cap[@]}" --set embedding.defaults.eviction.type=lru
kill "$helper"

"$python" - "$work" <<'PY' || fail "see above"
import glob, json, re, sys
work, bad = sys.argv[1], []

def check(text, true):
    if not true:
        bad.append(text)
        print("not true:", text)

class Job:
    """The summary, and by table the sums over both servers' last pages."""
    def __init__(self, name):
        self.name, self.series = name, {}
        self.summary = json.load(open(f"{work}/{name}/summary.json"))
        for index, page in enumerate(sorted(glob.glob(f"{work}/{name}/pushed/embedding_server-*"))):
            for line in open(page):
                m = re.match(r"saffron_embedding_server_(\w+)(?:\{(.*)\})? (\S+)$", line)
                if m:
                    labels = tuple(sorted(re.findall(r'(\w+)="([^"]*)"', m[2] or "") + [("server", str(index))]))
                    self.series.setdefault(m[1], {})[labels] = float(m[3])
        self.tables = sorted({dict(k)["table"] for k in self.series["rows"]})
        parts = {t: self("rows_created_total", table=t) - self("rows_evicted_total", table=t)
                 - self("rows_expired_total", table=t) for t in self.tables}
        check(f"{name}: rows are those made and not gone", all(self("rows", table=t) == parts[t] for t in self.tables))
        check(f"{name}: rows of the summary", self("rows") == self.summary["rows_total"])
        check(f"{name}: refused of the summary", self("rows_refused_total") == self.summary["rows_refused"])
        each = self("table_bytes") / self("rows")
        check(f"{name}: bytes per row, {each}", abs(each - self.summary["bytes_per_row"]) < 0.01 * each)
        self.line = {w: int(self(f"rows_{w}_total")) for w in ("created", "evicted", "expired", "not_admitted", "refused")}
        print(f"{name}: AUC {self.summary['test_auc']:.4f}, {self('rows'):.0f} rows, {each:.1f} bytes each, {self.line}")

    def __call__(self, name, **labels):
        found = [v for k, v in self.series[name].items() if set(labels.items()) <= set(k)]
        check(f"{self.name} has {name} {labels}", found)
        return sum(found)

    def only(self, *what):
        """These counters moved, the others did not."""
        for w, n in self.line.items():
            check(f"{self.name}: {w} {n}", (n > 0) == (w in ("created", *what)))

    def learns(self, loss):
        check(f"{self.name}: AUC", self.summary["test_auc"] > plain.summary["test_auc"] - loss)

plain = Job("plain")
plain.only()
check("plain: AUC", plain.summary["test_auc"] > 0.6)
check("plain: no budget", plain("budget_bytes") == 0)

admit = Job("admit")
admit.only("not_admitted")
admit.learns(0.05)
for t in ("c7", "c8"): # by count, and by lot
    check(f"admit, {t}: fewer rows", admit("rows", table=t) < 0.9 * plain("rows", table=t))

# Four owners, each with its share rounded up.
lru, lfu = Job("lru"), Job("lfu")
lru.only("evicted")
lfu.only("evicted", "refused")
for job in (lru, lfu):
    job.learns(0.05)
    for t in job.tables:
        check(f"{job.name}, {t}: {job('rows', table=t)} rows", job("rows", table=t) <= 1000 + 4)
        full = job("rows_evicted_total", table=t) + job("rows_refused_total", table=t) > 0
        check(f"{job.name}, {t}: full where plain has more", not full or plain("rows", table=t) > 900)
check("lfu, c8: refuses and evicts nothing", lfu("rows_refused_total", table="c8") == lfu("rows_refused_total") > 0
      and lfu("rows_evicted_total", table="c8") == 0)
held = lfu("table_bytes", table="c7")
check(f"lfu, c7: {held} bytes", 100000 < held <= 200000 and lfu("rows_evicted_total", table="c7") > 0)
check("lru: 16-bit rows", lru("row_bytes") / lru("rows") == 8 + 4 + 32 + 64)

cap, cap_lru = Job("cap"), Job("cap_lru")
cap.only("refused")
check("cap_lru: evicts", cap_lru.line["evicted"] > 0)
for job in (cap, cap_lru):
    job.learns(0.08)
    check(f"{job.name}: cap", 0 < job("budget_used_bytes") <= job("budget_bytes") == 1048576)
    check(f"{job.name}: bytes {job('table_bytes')}", job("table_bytes") <= 1048576)

# What the tables say they take is what the kernel sees: beside it a server has its program, buffers and the filter,
# as much as where rows are small.
wide = Job("wide")
for server in "01":
    grown = wide("memory_bytes", kind="resident", server=server) - plain("memory_bytes", kind="resident", server=server)
    said = wide("table_bytes", server=server) - plain("table_bytes", server=server)
    print(f"wide, server {server}: resident grew by {grown / 1e6:.1f} MB, the tables by {said / 1e6:.1f} MB")
    check(f"wide, server {server}: the tables are what grew", said > 20e6 and abs(grown - said) < 0.2 * said)
sys.exit(bool(bad))
PY

# What `exact` allows is the same on any number of servers, bit for bit: 16-bit rows that are rounded by chance, admission
# by lot, drawn initial values.
for n in 1 3; do
    local_run --config configs/synthetic --set data.synthetic.rows=10000 --set data.synthetic.test_rows=4000 --quiet \
        --set global.mode=full --set global.exact=true --embedding-servers "$n" --set embedding.defaults.dtype=bfloat16 \
        --set 'embedding.defaults.admission={type: probability, probability: 0.3}' \
        --set 'embedding.defaults.initializer={type: xavier_uniform, rows: 1000}'
    expect_success
    "$python" -c 'import json, sys
f = json.load(open(sys.argv[1]))
print([f[k] for k in ("train_loss", "test_auc", "test_logloss", "rows_total")])' "$work/run/summary.json" >"$work/exact-$n"
    grep -o 'dense_digest=[0-9a-f]*' "$work/run/logs/trainer-0.log" >>"$work/exact-$n" || fail "the trainer told no digest"
done
diff "$work/exact-1" "$work/exact-3" || fail "exact: one server and three differ"

# A row goes a second or two after its last gradient, and comes back with the next; the job goes on meanwhile.
expires() {
    curl -sS -m 10 "http://$admin/status" | "$python" -c 'import json, sys
tables = json.load(sys.stdin)["tables"]
sys.exit(not (any(t["expired"] > 100 and t["rows"] > 0 for t in tables)
    and all(t["rows"] == t["created"] - t["expired"] and t["policy"]["ttl_seconds"] == 1 for t in tables)))'
}
local_start "${long[@]}" "${servers[@]}" --set embedding.defaults.ttl_seconds=1
wait_for $((40 * slow)) "it trains" is_training
admin=$(sed -n 's/.* admin=\([0-9.:]*\)$/\1/p' "$work/run/logs/embedding_server-0.log")
wait_for $((30 * slow)) "rows expire" expires
kill -INT "$supervisor"
wait_end $((20 * slow))
nothing_left
