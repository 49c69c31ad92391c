"""tests/e2e/prometheus.py -- what prometheus.sh asks of a running Prometheus; standard library only.

  ports N                    free ports of the loopback, one line
  valid DASHBOARD            the JSON has what Grafana wants, nothing twice, no panels over each other
  targets RUN                file_sd targets of a run's processes, from their logs, with the labels that pods have
  wait URL SECONDS           until every target was scraped often enough for rates, and the job has evaluated
  dashboard URL DASHBOARD    every query returns numbers
  alerts URL                 every selector and every expression of every rule has series
  pages TARGETS DOC          the document lists the series of the targets' pages, both ways
  pushed URL RUN             the gateway's series of a run that has ended, as Prometheus has them

Each prints what is wrong and exits with 1 when something is.
"""
import glob
import json
import math
import os
import re
import socket
import sys
import time
import urllib.parse
import urllib.request

ROLES = ("data_compose", "embedding_server", "middleware", "trainer")
SCRAPES = 10  # rates over RATE then have their points
SPAN = 10     # seconds of the job that scripts/plot asks for
RATE = "8s"
POD = "__meta_kubernetes_pod_"
PUSHED_ONLY = {"saffron_<role>_gateway_pages_total"}
PANELS = ("timeseries", "stat", "table", "row")
problems = []


def bad(text):
    if text not in problems:
        problems.append(text)
        print(text)


def get(url):
    with urllib.request.urlopen(url, timeout=10) as reply:
        return reply.read().decode()


def api(url, path, **parameters):
    """A call of Prometheus' HTTP interface: its data, or its own words in an exception."""
    try:
        return json.loads(get("%s/api/v1/%s?%s" % (url, path, urllib.parse.urlencode(parameters))))["data"]
    except urllib.error.HTTPError as error:
        raise ValueError(json.loads(error.read())["error"])


def values(url, expr):
    """The finite numbers that an expression comes to now, each with its labels."""
    result = api(url, "query", query=expr)
    points = [({}, result["result"][1])] if result["resultType"] == "scalar" else [
        (sample["metric"], sample["value"][1]) for sample in result["result"]]
    return [(labels, float(value)) for labels, value in points if math.isfinite(float(value))]


def ports(count):
    sockets = [socket.socket() for _ in range(int(count))]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    print(*[s.getsockname()[1] for s in sockets])


# ---- the dashboard ----

def overlap(a, b):
    return (a["x"] < b["x"] + b["w"] and b["x"] < a["x"] + a["w"]
            and a["y"] < b["y"] + b["h"] and b["y"] < a["y"] + a["h"])


def valid_panel(panel):
    where = "panel %s '%s'" % (panel["id"], panel["title"])
    grid = panel["gridPos"]
    if panel["type"] not in PANELS:
        bad("%s: type %s" % (where, panel["type"]))
    if grid["x"] < 0 or grid["x"] + grid["w"] > 24:
        bad("%s: outside the 24 columns" % where)
    if panel["type"] == "row":
        return
    if len(panel.get("description", "")) < 20:
        bad("%s: no description" % where)
    references = [target.get("refId") for target in panel["targets"]]
    if not references or None in references or len(set(references)) != len(references):
        bad("%s: refIds %s" % (where, references))
    if any(not target.get("expr") or target["datasource"]["uid"] != "${datasource}" for target in panel["targets"]):
        bad("%s: a target without expression, or with a fixed data source" % where)


def valid(file):
    board = json.load(open(file))
    panels = board["panels"]
    if board["schemaVersion"] < 36 or not board["uid"] or not board["title"]:
        bad("schemaVersion, uid or title")
    if [v["name"] for v in board["templating"]["list"]] != ["datasource", "job"]:
        bad("variables: expected datasource and job")
    for key in ("id", "title"):
        seen = [panel[key] for panel in panels]
        for value in {v for v in seen if seen.count(v) > 1}:
            bad("%s %s: twice" % (key, value))
    for panel in panels:
        valid_panel(panel)
    for i, a in enumerate(panels):
        for b in panels[:i]:
            if overlap(a["gridPos"], b["gridPos"]):
                bad("panels '%s' and '%s' lie over each other" % (b["title"], a["title"]))


def dashboard(url, file):
    board = json.load(open(file))
    job = values(url, "saffron_trainer_steps_total")[0][0]["job"]
    count = 0
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            count += 1
            expr = target["expr"].replace("$__rate_interval", RATE).replace("$job", job)
            try:
                if "$" in expr:
                    bad("panel '%s': a variable that is not known: %s" % (panel["title"], expr))
                elif not values(url, expr):
                    bad("panel '%s': no data: %s" % (panel["title"], expr))
            except ValueError as error:
                bad("panel '%s': %s: %s" % (panel["title"], error, expr))
    variable = [v for v in board["templating"]["list"] if v["name"] == "job"][0]["definition"]
    selector = re.fullmatch(r"label_values\((\w+), job\)", variable).group(1)
    if not values(url, selector):
        bad("variable job: no data: %s" % selector)
    print("dashboard: %d panels, %d queries" % (len([p for p in board["panels"] if p["type"] != "row"]), count))


# ---- alerts: silent in a good job, so that their data has to be looked for ----

BRACES = r'\{(?:[^"{}]|"(?:\\.|[^"\\])*")*\}'


def selectors(expr):
    """The vector selectors of an expression, ranges left away."""
    return re.findall(r'(?:\b(?:saffron_\w+|up)\b(?:%s)?|(?<![\w:])%s)' % (BRACES, BRACES), expr)


def verdicts(expr):
    """The expression with `bool` at each comparison: 0 or 1 for each series, instead of silence."""
    return re.sub(r'(%s|"(?:\\.|[^"\\])*")|(==|!=|<=|>=|<|>)(?!~)' % BRACES,
                  lambda found: found.group(1) or found.group(2) + " bool", expr)


def alerts(url):
    rules = [rule for group in api(url, "rules")["groups"] for rule in group["rules"]]
    count = 0
    for rule in rules:
        where = "alert %s" % rule["name"]
        if rule["health"] != "ok":
            bad("%s: health %s: %s" % (where, rule["health"], rule.get("lastError")))
        if rule["state"] == "firing":
            bad("%s: fires in a good job: %s" % (where, rule["alerts"]))
        found = selectors(rule["query"])
        if not found or verdicts(rule["query"]) == rule["query"]:
            bad("%s: no selector or no comparison: %s" % (where, rule["query"]))
        for selector in found:
            count += 1
            if not values(url, "count(%s)" % selector):
                bad("%s: no series: %s" % (where, selector))
        if not values(url, verdicts(rule["query"])):
            bad("%s: no series: %s" % (where, verdicts(rule["query"])))
    print("alerts: %d rules, %d selectors" % (len(rules), count))


# ---- targets and pages ----

def targets(run):
    job = json.load(open(os.path.join(run, "local.json")))["job"]
    out = []
    for log in sorted(glob.glob(os.path.join(run, "logs", "*-*.log"))):
        role, index = os.path.basename(log)[:-4].rsplit("-", 1)
        address = re.search(r"admin=([0-9.]+:[0-9]+)", open(log).read())
        if role in ROLES and address:
            component = role.replace("_", "-")
            out.append({"targets": [address.group(1)],
                        "labels": {"job": job, POD + "label_app_kubernetes_io_component": component,
                                   POD + "name": "saffron-%s-%s" % (component, index),
                                   POD + "container_port_name": "admin" if index == "0" else "admin-" + index}})
    if len(out) != 2 * len(ROLES):
        bad("expected two of each role, got %d processes" % len(out))
    print(json.dumps(out, indent=1))


def ready(url):
    counts = values(url, 'count_over_time(up{role!=""}[5m])')
    instances = {"saffron-%s-%d%s" % (role.replace("_", "-"), i, "-%d" % i if i else "") for role in ROLES for i in (0, 1)}
    return ({labels["role"] for labels, _ in counts} == set(ROLES)
            and {labels["instance"] for labels, _ in counts} == instances and min(count for _, count in counts) >= SCRAPES
            and any(value > 0.5 for _, value in values(url, "saffron_trainer_test_auc"))
            and any(value > SPAN for _, value in values(url, "%s - %s" % tuple(
                which + "_over_time(timestamp(sum(saffron_trainer_steps_total))[2h:1s])" for which in ("max", "min")))))


def wait(url, seconds):
    ends = time.monotonic() + int(seconds)
    while time.monotonic() < ends:
        try:
            if ready(url):
                return
        except (OSError, json.JSONDecodeError):
            pass  # it does not listen yet, or says in plain words that it begins
        time.sleep(0.2)
    bad("in vain: %d scrapes of each target, %d s of steps and an evaluation; targets: %s" % (
        SCRAPES, SPAN, [(t["labels"], t["health"], t["lastError"]) for t in api(url, "targets")["activeTargets"]]))


def page_series(text):
    """{name: (kind, {label names})} of a page, histograms by their family's name."""
    kinds = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.M))
    out = {name: (kind, set()) for name, kind in kinds.items()}
    for name, labels in re.findall(r"^(\w+)\{(.*)\} ", text, re.M):
        family = name if name in kinds else re.sub(r"_(bucket|sum|count)$", "", name)
        out[family][1].update(set(re.findall(r'(\w+)="', re.sub(r'"(?:\\.|[^"\\])*"', '""', labels))) - {"le"})
    return out


def document(file):
    """{name: (kind, {label names})} of the tables of docs/metrics.md; names may have <role> in them."""
    out = {}
    for name, kind, labels in re.findall(r"^\| `(saffron_[\w<>]+)` \| (\w+) \|([^|]*)\|", open(file).read(), re.M):
        if name in out:
            bad("%s: %s: twice" % (file, name))
        out[name] = (kind, set(re.findall(r"`(\w+)`", labels)))
    return out


def pages(targets_file, doc):
    listed, met = document(doc), set()
    for entry in json.load(open(targets_file)):
        role = entry["labels"][POD + "label_app_kubernetes_io_component"].replace("-", "_")
        for name, what in page_series(get("http://%s/metrics" % entry["targets"][0])).items():
            general = name.replace("saffron_%s_" % role, "saffron_<role>_")
            known = name if name in listed else general
            if known not in listed:
                bad("%s: %s of the page of %s is missing" % (doc, name, role))
            elif listed[known] != what:
                bad("%s: %s is %s %s, the page of %s has %s %s" % (
                    (doc, known) + (listed[known][0], sorted(listed[known][1]), role, what[0], sorted(what[1]))))
            met.add(known)
    for name in sorted(set(listed) - met - PUSHED_ONLY):
        bad("%s: %s is on no page" % (doc, name))
    print("pages: %d series in %s" % (len(listed), doc))


# ---- the push gateway ----

def pushed(url, run):
    summary = json.load(open(os.path.join(run, "summary.json")))
    job = summary["job"]
    if job != "ends":
        bad("the job's name is %s" % job)
    expected = {"%s/%d" % (role, i) for role, count in json.load(open(os.path.join(run, "local.json")))["replicas"].items()
                for i in range(count)}
    ends = time.monotonic() + 10
    while True:
        groups = {"%s/%s" % (labels.get("role"), labels.get("index")): labels
                  for labels, _ in values(url, 'push_time_seconds{job="%s"}' % job)}
        trained = values(url, 'sum(saffron_trainer_samples_trained_total{job="%s", instance=""})' % job)
        if set(groups) == expected and trained and trained[0][1] == summary["samples_trained"]:
            break
        if time.monotonic() > ends:
            return bad("gateway: groups %s, expected %s; samples %s, expected %s" % (
                sorted(groups), sorted(expected), trained, summary["samples_trained"]))
        time.sleep(0.2)
    if not values(url, 'saffron_trainer_gateway_pages_total{job="%s"}' % job):
        bad("gateway: no saffron_trainer_gateway_pages_total")
    if any(value for _, value in values(url, 'push_failure_time_seconds{job="%s"}' % job)):
        bad("gateway: refused a push")
    print("gateway: %d groups, %d samples" % (len(groups), summary["samples_trained"]))


if __name__ == "__main__":
    {f.__name__: f for f in (ports, valid, targets, wait, dashboard, alerts, pages, pushed)}[sys.argv[1]](*sys.argv[2:])
    sys.exit(1 if problems else 0)
