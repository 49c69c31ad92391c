#!/usr/bin/env bash
# `saffron plan` beside what is there: 20 M rows in a real embedding server, by real NATS and TCP, take the memory that was
# predicted, within 5 %; and a real job has the links, descriptors and bytes per sample that were.
. "$(dirname "$0")/lib.sh"
fill=$B/tests/e2e/fill
[ -x "$fill" ] || fail "no program $fill: run make B=$B unit"

# ---- 20 M rows of four kinds, and some of a table that has no room for all of them ----
rows=(wide=8000000 items=5000000 recent=4000000 slow=3000000 few=600000)
[ "$slow" -eq 1 ] || rows=(wide=400000 items=300000 recent=200000 slow=100000 few=50000) # sanitizers multiply memory
cp -r configs/synthetic "$work/job"
cat >"$work/job/embedding.yml" <<'YML'
tables:
  wide: {dim: 32, dtype: bfloat16, optimizer: {type: rowwise_adagrad}}
  items: {dim: 16, optimizer: {type: adagrad}}
  recent: {dim: 16, dtype: float16, optimizer: {type: sgd}, ttl_seconds: 86400, eviction: {type: lfu, rows: 9000000}}
  slow: {dim: 8, optimizer: {type: adam}}
  few: {dim: 16, optimizer: {type: rowwise_adagrad}, eviction: {type: lru, bytes: 40000000}}
features:
  c1: {table: wide}
  c2: {table: items}
  c3: {table: recent}
  c4: {table: slow}
  c5: {table: wide}
  c6: {table: items}
  c7: {table: recent}
  c8: {table: few}
YML
"$B/saffron" plan --config "$work/job" --set global.embedding_server.workers=2 "${rows[@]/#/--rows=}" --json \
    >"$work/plan.json" 2>"$work/err" || fail "no plan: $(cat "$work/err")"

# free_ports N -- the first of N ports in a row that nobody has.
free_ports() {
    "$python" - "$1" <<'PY'
import random, socket, sys
n = int(sys.argv[1])
while True:
    first, taken = random.randrange(20000, 32000), []
    try:
        for port in range(first, first + n):
            taken.append(socket.socket())
            taken[-1].bind(("127.0.0.1", port))
    except OSError:
        continue
    print(first)
    break
PY
}

first=$(free_ports 3)
nats-server -a 127.0.0.1 -p "$first" >"$work/nats.log" 2>&1 &
nats=$!
"$B/saffron-embedding-server" --index 0 --size 1 --nats "nats://127.0.0.1:$first" --config "$work/job" --fixed-ports \
    --port $((first + 1)) --admin-port 0 --set global.embedding_server.workers=2 >"$work/server.log" 2>&1 &
supervisor=$!
wait_for 20 "the server" grep -q 'state now=ready' "$work/server.log"
"$fill" "$work/job" 2 $((first + 1)) "${rows[@]}" >"$work/fill" 2>&1 || fail "fill: $(cat "$work/fill")"
cat "$work/fill"
admin=$(sed -n 's/.*admin=\(127\.0\.0\.1:[0-9]*\)$/\1/p' "$work/server.log")
sleep 2 # its timer has looked at what is behind the rows
"$python" - "http://$admin/status" "$work/plan.json" "$slow" <<'PY' || fail "it was not as planned: $(cat "$work/fill")"
import json, sys, urllib.request
status = json.load(urllib.request.urlopen(sys.argv[1], timeout=10))
plan = json.load(open(sys.argv[2]))
exact, bad = sys.argv[3] == "1", []

def near(what, got, want, share, least=0):
    off = got / want - 1
    line = f"{what}: {got:,.0f}, planned {want:,.0f}: {100 * off:+.2f} %"
    print(line)
    if abs(off) > share and abs(got - want) > least:
        bad.append(line)

near("rows", status["rows_total"], plan["rows"], 0)
if exact:
    near("resident", status["rss_bytes"], plan["processes"]["embedding_server"]["memory_bytes"], 0.05)
else:  # a sanitizer's own memory is no part of a plan
    print("resident:", status["rss_bytes"])
tables = status["tables"]
for name, planned in plan["tables"].items():
    table = next(t for t in tables if t["name"] == name) if isinstance(tables, list) else tables[name]
    near(f"rows of {name}", table["rows"], planned["rows"], 0)
    for kind, share in ("rows", 0), ("index", 0.005), ("slack", 0.05):
        near(f"{kind} bytes of {name}", table["bytes"][kind], planned["bytes"][kind], share, 1 << 20)
if bad:
    print("not as planned:", *bad, sep="\n  ")
sys.exit(bool(bad))
PY
kill "$supervisor"
wait_end 20 "$supervisor" "the server, stopped"
[ "$status" -eq 0 ] || fail "the server: exit status $status"
kill "$nats"
wait "$nats"

# ---- links, descriptors and bytes per sample of a job ----
shape=(--trainers 2 --middlewares 2 --embedding-servers 2 --data-composes 2 --set global.middleware.loops=2
    --set global.embedding_server.workers=3)
local_start --config configs/synthetic "${shape[@]}" --set data.synthetic.rows=300000 \
    --set data.synthetic.test_rows=1000 --epochs 4
wait_for 60 "training" is_training
for role in "${roles[@]}"; do
    pid=$(cat "$work/run/pids/$role-0")
    echo "$role $(find "/proc/$pid/fd" -maxdepth 1 -type l | wc -l) $(find "/proc/$pid/fd" -lname 'socket:*' | wc -l)"
done >"$work/files"
admin=$(sed -n 's/.*admin=\(127\.0\.0\.1:[0-9]*\)$/\1/p' "$work/run/logs/middleware-0.log" | head -n 1)
"$python" -c 'import json, sys, urllib.request
print(json.load(urllib.request.urlopen(sys.argv[1], timeout=10))["distinct_ratio"])' "http://$admin/status" >"$work/distinct"
wait_end $((120 * slow))
expect_success
"$B/saffron" plan --config configs/synthetic "${shape[@]}" --rows 1k --distinct "$(cat "$work/distinct")" --json \
    >"$work/plan.json" 2>"$work/err" || fail "no plan: $(cat "$work/err")"
"$python" - "$work/plan.json" "$work/run/summary.json" "$work/files" <<'PY' || fail "a job is not as planned"
import json, sys
plan, run = (json.load(open(path)) for path in sys.argv[1:3])
bad = []
for role, files, sockets in (line.split() for line in open(sys.argv[3])):
    process = plan["processes"][role]
    line = f"{role}: {files} descriptors, {sockets} sockets, planned {process['descriptors']}, {process['links']} links"
    print(line)
    if not process["descriptors"] - 4 <= int(files) <= process["descriptors"] or int(sockets) < process["links"]:
        bad.append(line)
for hop, got in run["bytes_per_sample"].items():
    if hop not in plan["bytes_per_sample"]:  # answers without a payload
        if got > 2:
            bad.append(f"{hop}: {got:.1f} bytes of a sample, which no plan has")
        continue
    want = plan["bytes_per_sample"][hop]
    line = f"{hop}: {got:.1f} bytes of a sample, planned {want:.1f}"
    print(line)
    # The last batches of a split are short, and their frames are not.
    if not 0.9 <= got / want <= 1.1:
        bad.append(line)
if bad:
    print("not as planned:", *bad, sep="\n  ")
sys.exit(bool(bad))
PY
exit 0
