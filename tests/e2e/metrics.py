"""Pages of metrics, for tests/e2e/metrics.sh: is one well-formed, is all there, do the roles agree?

  metrics.py check ROLE PAGE FAMILY...   the page obeys the format, and has these families and saffron's own
  metrics.py agree DIR                   the last pages of a whole job, as its roles pushed them: DIR/ROLE-INDEX
  metrics.py gateway DIR                 be a push gateway: prints its port, writes each page to DIR/ROLE-INDEX
"""
import http.server
import os
import re
import sys

SAMPLE = re.compile(r'([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:[a-z_]+="(?:[^"\\\n]|\\["\\n])*",?)+)\})? (\S+)')

# Made by the runtime, so in every role.
COMMON = """info start_time_seconds ready nats_connected cpu_seconds_total memory_bytes peak_resident_bytes open_files
open_files_limit log_messages_total send_queue_bytes loop_busy_seconds_total loop_turn_seconds sent_bytes_total
saved_bytes_total received_bytes_total frames_bad_total reconnects_total links_refused_total purpose_cpu_seconds_total
hop_bytes_total link_credit_bytes link_paused_total""".split()
ASKS = {
    "data_compose": ["PutBatch", "TrainBatch", "AwaitPhase", "EndOfEpoch", "NothingYet", "TellFinished"],
    "trainer": ["LookupBatch", "PushGradients", "ReleaseBatch", "Cut", "AwaitCut", "EndCut", "TellLedger", "GoBackRows"],
    "middleware": ["LookupRows", "ApplyGradients"],
    "embedding_server": [],
}
SELDOM = ["ReleaseBatch", "Cut", "AwaitCut", "EndCut", "TellLedger", "GoBackRows", "GoBack"]  # not in every job
GROUP = ["StepHeader", "JoinGroup", "FetchState", "ReduceChunk", "TellPhase", "Scores", "NoteFinished", "GoBack",
         "AskCommunicator"]
SERVES = {
    "data_compose": [],
    "trainer": ["TrainBatch", "AwaitPhase", "EndOfEpoch", "NothingYet", "TellFinished"],
    "middleware": ["PutBatch", "LookupBatch", "PushGradients", "ReleaseBatch"],
    "embedding_server": ["LookupRows", "ApplyGradients", "Cut", "AwaitCut", "EndCut", "TellLedger", "GoBackRows"],
}


def wrong(text):
    print(text)
    sys.exit(1)


def labels_of(text):
    return dict(re.findall(r'([a-z_]+)="((?:[^"\\]|\\.)*)"', text or ""))


def read(path):
    """{family: type}, [(name, labels, value)]; complains of whatever is not in order."""
    types, samples, seen, current = {}, [], set(), None
    for number, line in enumerate(open(path, encoding="utf-8").read().split("\n")[:-1], 1):
        at = "%s:%d: %s" % (os.path.basename(path), number, line)
        if line.startswith("# HELP "):
            current = line.split(" ")[2]
            if current in types or len(line.split(" ", 3)) < 4:
                wrong("not one HELP with words: " + at)
            continue
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            if name != current or kind not in ("counter", "gauge", "histogram"):
                wrong("TYPE does not follow its HELP: " + at)
            if (kind == "counter") != name.endswith("_total"):
                wrong("counters end in _total, others do not: " + at)
            types[name] = kind
            continue
        found = SAMPLE.fullmatch(line)
        if not found:
            wrong("not a sample: " + at)
        name, labels, value = found.groups()
        family = re.sub("_(bucket|sum|count)$", "", name) if types.get(current) == "histogram" else name
        if family != current or types.get(family) is None:
            wrong("stands outside its family: " + at)
        if (name, labels) in seen:
            wrong("twice: " + at)
        seen.add((name, labels))
        samples.append((name, labels_of(labels), float(value)))
    return types, samples


def total(samples, name, **labels):
    return sum(v for n, l, v in samples if n == name and all(l.get(k) == w for k, w in labels.items()))


def check_labels(samples):
    """Lines of one family have labels of the same names: else sums over them mean nothing."""
    names = {}
    for n, labels, _ in samples:
        if names.setdefault(n, sorted(labels)) != sorted(labels):
            wrong("%s has labels %s and labels %s" % (n, names[n], sorted(labels)))


def check_histograms(types, samples):
    for name in [n for n, kind in types.items() if kind == "histogram"]:
        rows = {}
        for n, labels, value in samples:
            if n == name + "_bucket":
                key = tuple(sorted((k, v) for k, v in labels.items() if k != "le"))
                rows.setdefault(key, []).append((float(labels["le"]), value))
        for key, row in rows.items():
            if row != sorted(row) or [v for _, v in row] != sorted(v for _, v in row) or row[-1][0] != float("inf"):
                wrong("%s%s: buckets do not grow: %s" % (name, key, row))
            if row[-1][1] != total(samples, name + "_count", **dict(key)):
                wrong("%s%s: +Inf is not the count" % (name, key))


def check(role, path, families):
    types, samples = read(path)
    check_histograms(types, samples)
    check_labels(samples)
    prefix = "saffron_%s_" % role
    other = [name for name in types if not name.startswith(prefix)]
    missing = [name for name in COMMON + families if prefix + name not in types]
    if other or missing:
        wrong("%s: not of this role: %s; missing: %s" % (role, other, missing))
    for what, methods in (("request_seconds", ASKS[role]), ("serve_seconds", SERVES[role])):
        there = {l["method"] for n, l, _ in samples if n == prefix + what + "_count"}
        if there - set(GROUP) != set(methods) or (role == "trainer" and not set(GROUP) <= there):
            wrong("%s%s: methods %s" % (prefix, what, sorted(there)))
    for what, low, high in (("ready", 1, 1), ("nats_connected", 1, 1), ("info", 1, 1), ("open_files", 5, 1000),
                            ("memory_bytes", 1 << 20, 1 << 34), ("cpu_seconds_total", 0.001, 1e4),
                            ("sent_bytes_total", 1, 1e12), ("start_time_seconds", 1.7e9, 1e10)):
        if not low <= total(samples, prefix + what) <= high:
            wrong("%s%s is %s" % (prefix, what, total(samples, prefix + what)))
    print("%s: %d families, %d samples" % (role, len(types), len(samples)))


def agree(folder):
    """Each request was served: who asked and who served counted the same, and nothing is open or failed."""
    samples = []
    for name in os.listdir(folder):
        types, more = read(os.path.join(folder, name))
        check_histograms(types, more)
        check_labels(more)
        samples += more
    for asker in ASKS:
        for server in SERVES:
            for method in set(ASKS[asker]) & set(SERVES[server]) - {"AwaitPhase", "EndOfEpoch", "NothingYet", "TellFinished"}:
                asked = total(samples, "saffron_%s_request_seconds_count" % asker, method=method)
                served = total(samples, "saffron_%s_serve_seconds_count" % server, method=method)
                failed = total(samples, "saffron_%s_requests_failed_total" % asker, method=method)
                refused = total(samples, "saffron_%s_calls_failed_total" % server, method=method)
                left = total(samples, "saffron_%s_requests_open" % asker, method=method)
                print("%s: asked %d, served %d, failed %d, open %d" % (method, asked, served, failed, left))
                if asked != served or failed != refused or left or (asked == 0 and method not in SELDOM):
                    wrong("%s: %s and %s do not agree" % (method, asker, server))
    rows = total(samples, "saffron_embedding_server_serve_seconds_count", method="LookupRows")
    if rows != total(samples, "saffron_embedding_server_lookups_total"):
        wrong("LookupRows: %d served, %d lookups" % (rows, total(samples, "saffron_embedding_server_lookups_total")))
    pushed = total(samples, "saffron_trainer_request_seconds_count", method="PushGradients")
    if pushed < total(samples, "saffron_trainer_batches_trained_total"):
        wrong("PushGradients: %d, fewer than the batches trained" % pushed)
    for role in ASKS:
        used, parts = (total(samples, "saffron_%s_%scpu_seconds_total" % (role, part)) for part in ("", "purpose_"))
        sent, hops = (total(samples, "saffron_%s_%s_bytes_total" % (role, what)) for what in ("sent", "hop"))
        train = total(samples, "saffron_%s_purpose_cpu_seconds_total" % role, purpose="train")
        print("%s: %.3f s of CPU, %.3f by purpose, %.3f training; %d bytes, %d by hop" % (role, used, parts, train, sent, hops))
        if abs(used - parts) > 0.05 + 0.02 * used or not 0 < train < parts or not 0.95 * sent - 20000 < hops <= sent:
            wrong("%s: its parts by purpose or by hop are not the whole" % role)
    for side in ("sent", "received"):
        print("%s: %d bytes" % (side, sum(total(samples, "saffron_%s_%s_bytes_total" % (r, side)) for r in ASKS)))


class Gateway(http.server.BaseHTTPRequestHandler):
    def do_PUT(self):  # noqa: N802, the library's name
        page = self.rfile.read(int(self.headers["Content-Length"]))
        found = re.fullmatch(r"/metrics/job/[\w-]+/role/(\w+)/index/(\d+)", self.path)
        if found:
            path = os.path.join(sys.argv[2], "%s-%s" % found.groups())
            with open(path + ".part", "wb") as file:
                file.write(page)
            os.rename(path + ".part", path)
        self.send_response(200 if found else 404)
        self.end_headers()

    def log_message(self, *args):
        pass


if sys.argv[1] == "check":
    check(sys.argv[2], sys.argv[3], sys.argv[4:])
elif sys.argv[1] == "agree":
    agree(sys.argv[2])
else:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Gateway)
    print(server.server_port, flush=True)
    server.serve_forever()
