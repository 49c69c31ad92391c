"""A trace shows each hop of each batch that it has, and what is inside something is inside in time.

trace.py TRACE EVERY ROLES [STEPS [overlap]]: EVERY as --trace was told, ROLES how many of each role there were, STEPS that were
made (0: unknown); overlap: gradients are summed while others are still computed. Called by trace.sh.
"""
import collections
import json
import re
import sys

path, every, roles = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
events = json.load(open(path))["traceEvents"]
bad = []


def check(text, holds):
    if not holds:
        bad.append(text)


Span = collections.namedtuple("Span", "begin end name cat args row")
steps, overlap = int((sys.argv[4:] or [0])[0]), sys.argv[5:] == ["overlap"]
overlaps = []  # of each batch: its sum began before its last step back had ended
row_name, spans, arrows = {}, collections.defaultdict(list), collections.Counter()
for e in events:
    if e["ph"] == "M" and e["name"] == "thread_name":
        row = e["pid"], e["tid"]
        check(f"row {row} has one name", row_name.setdefault(row, e["args"]["name"]) == e["args"]["name"])
    elif e["ph"] == "X":
        begin = round(e["ts"] * 1000)
        spans[e["args"]["batch"]].append(  # in the order in which they ended
            Span(begin, begin + round(e["dur"] * 1000), e["name"], e["cat"], e["args"], (e["pid"], e["tid"])))
    elif e["ph"] in "sf":
        arrows[e["ph"], e["id"]] += 1
    else:
        check(f"an event that is none of ours: {e}", e["name"] in ("process_name", "saffron"))


def within(inner, outer):
    return outer.begin <= inner.begin and inner.end <= outer.end


def check_rows(batch, of):
    """On a row each span lies in the one before it, or behind it."""
    for row in {s.row for s in of}:
        check(f"batch {batch}: row {row} has a name", row in row_name)
        stack = []
        for s in sorted((s for s in of if s.row == row), key=lambda s: (s.begin, -s.end)):
            while stack and stack[-1].end <= s.begin:
                stack.pop()
            check(f"batch {batch}, {row_name.get(row)}: {s.name} crosses {stack and stack[-1].name}",
                  not stack or within(s, stack[-1]))
            stack.append(s)


def check_calls(batch, of):
    """Each request was served, while it was asked."""
    served = {s.args["call"]: s for s in of if s.cat == "serve"}
    asked = [s for s in of if s.cat == "ask"]
    check(f"batch {batch}: {len(asked)} requests, {len(served)} served", len(asked) == len(served))
    for ask in asked:
        call = ask.args["call"]
        serve = served.get(call)
        check(f"batch {batch}: {ask.name} was served", serve)
        if not serve:
            continue
        check(f"batch {batch}: {ask.name} {ask} has {serve} in it", within(serve, ask))
        check(f"batch {batch}: {ask.name}: one error", ask.args["error"] == serve.args["error"])
        check(f"batch {batch}: {ask.name}: ends", (ask.args["from"], ask.args["to"]) == (serve.args["from"], serve.args["to"]))
        check(f"batch {batch}: {ask.name}: rows", row_name[ask.row] == f"{ask.args['from']} to {ask.args['to']}"
              and row_name[serve.row] == serve.args["to"])
        check(f"batch {batch}: {ask.name}: one arrow", arrows["s", "0x" + call] == 1 == arrows["f", "0x" + call])


class Batch:
    def __init__(self, batch):
        self.name, self.of, self.id = batch, spans[batch], int(batch, 16)
        self.evaluates = bool(self.id >> 63)
        # Roles start together: a batch may go to a middleware or a trainer that is not ready, and come again.
        sent = [s.begin for s in self.of if (s.name, s.cat) == ("TrainBatch", "ask")]
        self.sent, self.attempts = max(sent, default=0), len(sent)

    def all(self, name, cat="work", role="", before=False):
        """Spans of the attempt that led to something; before: of when it was put."""
        found = [s for s in self.of if s.name == name and s.cat == cat and row_name[s.row].startswith(role)]
        if self.attempts > 1:
            found = [s for s in found if (s.begin < self.sent) == before]
        check(f"batch {self.name} has {cat} {name} at {role or 'any role'}", found)
        check(f"batch {self.name}: {cat} {name}: no error", before or not any(s.args.get("error") for s in found))
        return found

    def inside(self, name, outer, role, before=False):
        """Work inside a request, on its row."""
        work, around = self.all(name, "work", role, before), self.all(outer, "serve", role, before)
        for s in work:
            check(f"batch {self.name}: {name} {s} is within {outer}",
                  any(s.row == a.row and within(s, a) for a in around))
        return work

    def order(self, *groups):
        for before, after in zip(groups, groups[1:]):
            for b in before:
                check(f"batch {self.name}: {b.name} ends before {[a.name for a in after][:1]} begins",
                      all(b.end <= a.begin for a in after))


def check_path(batch):
    b = Batch(batch)
    split, sequence = b.id >> 48 & 0x7fff, b.id & ((1 << 48) - 1)
    check(f"batch {batch} is one to be traced", b.id and (2 * split + sequence) % every == 2 % every)
    put = b.all("PutBatch", "ask", before=True)
    check(f"batch {batch} was put at last", put and put[-1].args["error"] == 0)
    b.order(b.all("build", role="data_compose", before=True), put[:1])
    b.order(put[-1:], b.all("TrainBatch", "ask"))
    b.order(b.inside("dedup", "PutBatch", "middleware", True), b.inside("split", "PutBatch", "middleware", True))
    queued, looking = (b.inside(s, "TrainBatch", "trainer") for s in ("queued", "looking"))
    rows = b.all("LookupRows", "ask", "middleware")
    b.inside("lookup", "LookupRows", "embedding_server")
    pool = b.inside("pool", "LookupBatch", "middleware")
    stepping = b.inside("stepping", "TrainBatch", "trainer")
    forward = b.inside("forward", "TrainBatch", "trainer")
    b.order(queued, looking, forward)
    b.order(rows, pool, forward)
    check(f"batch {batch}: it was looked up while it was `looking`",
          all(any(within(s, l) for l in looking) for s in b.all("LookupBatch", "ask", "trainer")))
    check(f"batch {batch}: it went forward while it was `stepping`", all(any(within(f, s) for s in stepping) for f in forward))
    check(f"batch {batch}: rows come from {len(rows)} owners", len({s.row for s in rows}) == len(rows) <= roles)
    if b.evaluates:
        return
    backward, push = b.inside("backward", "TrainBatch", "trainer"), b.all("PushGradients", "ask", "trainer")
    pushing, scatter = b.inside("pushing", "TrainBatch", "trainer"), b.inside("scatter", "PushGradients", "middleware")
    check(f"batch {batch}: a step back for each forward", len(backward) == len(forward)
          and all(f.end <= back.begin for f, back in zip(sorted(forward), sorted(backward))))
    applied = b.all("ApplyGradients", "ask", "middleware")
    b.inside("apply", "ApplyGradients", "embedding_server")
    b.order([backward[-1]], push)
    b.order(scatter, applied)
    check(f"batch {batch}: it was pushed while it was `pushing`", all(any(within(p, s) for s in pushing) for p in push))
    if roles > 1:
        check_reduce(b, backward, stepping, push)


def check_reduce(b, backward, stepping, push):
    """On a row of its own: it begins where the first bucket is complete, and ends behind all that is computed."""
    reduce, optimize = b.all("all_reduce", role="trainer"), b.inside("optimize", "TrainBatch", "trainer")
    b.order(reduce, optimize, push)
    if not reduce or not backward:
        return
    last = max(backward, key=lambda s: s.end)
    check(f"batch {b.name}: one all_reduce", len(reduce) == 1 and row_name[reduce[0].row] == row_name[last.row][:-1] + "1")
    check(f"batch {b.name}: it was summed while it was `stepping`", any(within(reduce[0], s) for s in stepping))
    check(f"batch {b.name}: its sum ends behind all steps back, and begins behind all but the last",
          last.end <= reduce[0].end and all(s.end <= reduce[0].begin for s in backward if s is not last))
    overlaps.append(reduce[0].begin < last.end)


for batch, of in spans.items():
    check_rows(batch, of)
    check_calls(batch, of)
    check_path(batch)
trained = [b for b in spans if not int(b, 16) >> 63]
print(f"{len(trained)} batches of training, {len(spans) - len(trained)} of evaluation, {sum(map(len, spans.values()))} spans")
check("there are batches", len(trained) > 0 and len(spans) > len(trained))
places = {n for n in row_name.values() if " to " not in n and not re.fullmatch(r"trainer/\d+\.1", n)}
of_role = collections.Counter(n.split("/")[0] for n in places)
# Which middleware a batch goes to depends on the moment, all else on its id and its rows.
check(f"all processes have rows: {sorted(places)}", 1 <= of_role.pop("middleware", 0) <= roles
      and of_role == dict.fromkeys(("data_compose", "trainer", "embedding_server"), roles))
if steps:
    check(f"each of {steps} batches but the first is there: {len(trained)}", len(trained) == steps - 1)
if overlap:
    print(f"{sum(overlaps)} of {len(overlaps)} sums began before the batch was computed")
    check("most do", 2 * sum(overlaps) > len(overlaps) > 0)
print("\n".join(bad[:20]))
sys.exit(bool(bad))
