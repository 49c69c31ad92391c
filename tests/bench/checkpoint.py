"""checkpoint.py BUILD DATA RUN OUT PERIOD TURNS -- what do checkpoints take from a job that goes on?

One job, started once, trains its data epoch after epoch; measuring begins when the first epoch is over and nearly all rows are there.
Then turns of PERIOD seconds follow each other, with a checkpoint of all rows that begins with the turn and without one: what else the machine
does, and rows that are still added, disturb both alike. So the ratio is that of a job with a full checkpoint each PERIOD seconds; by default only one in ten is full.

From the roles' own pages, at the turns' ends: samples trained; the highest bucket of the middleware's LookupRows and ApplyGradients in
which a request ended, whose upper bound no stall exceeded; and the same of the owner's stretches of work. Resident bytes of all roles come from
/proc ten times a second; the ones before the first checkpoint are what `extra memory` is beside.
"""
import atexit
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request

import report

START_S = 600
build, data, run, out, period, turns = sys.argv[1:5] + [int(word) for word in sys.argv[5:7]]
ROLES = ("trainer", "middleware", "embedding_server", "data_compose")


def read(path):
    with open(path, encoding="utf-8", errors="replace") as f:
        return f.read()


def log():
    path = run + "/logs/trainer-0.log"
    return read(path) if os.path.exists(path) else ""


class Job:
    def __init__(self):
        with open(out + "/run.out", "w", encoding="utf-8") as text:
            self.supervisor = subprocess.Popen(
                [build + "/saffron", "local", "--config", "configs/bench", "--data", data, "--run-dir", run, "--quiet", "--timeout", "0",
                 "--epochs", "100000", "--set", "global.checkpoint.every_seconds=0"], stdout=text, stderr=subprocess.STDOUT)
        atexit.register(self.supervisor.kill)  # whatever happens; the roles die with it
        ends = time.monotonic() + START_S
        while " epoch_over " not in log():
            if self.supervisor.poll() is not None or time.monotonic() > ends:
                self.fail(f"no epoch was over after {START_S} s, or the job ended")
            time.sleep(0.1)
        self.pids = {role: int(read(f"{run}/pids/{role}-0")) for role in ROLES}
        self.admin = {role: re.findall(r"admin=([0-9.]+:[0-9]+)", read(f"{run}/logs/{role}-0.log"))[-1] for role in ROLES}
        self.most = dict.fromkeys(ROLES, 0)
        self.ended = threading.Event()
        self.watch = threading.Thread(target=self.watch_memory, daemon=True)
        self.watch.start()

    def fail(self, why):
        self.supervisor.kill()
        self.supervisor.wait()
        sys.exit(f"checkpoint: {why}: {read(out + '/run.out').strip()}")

    def watch_memory(self):
        while not self.ended.wait(0.1):
            for role, pid in self.pids.items():
                try:
                    kib = int(re.search(r"^VmRSS:\s+(\d+) kB", read(f"/proc/{pid}/status"), re.M)[1])
                except (OSError, TypeError):
                    continue  # it ended; whoever asks for its page says so
                self.most[role] = max(self.most[role], 1024 * kib)

    def metrics(self, role):
        with urllib.request.urlopen(f"http://{self.admin[role]}/metrics", timeout=10) as page:
            return page.read().decode()

    def trained(self):
        return int(re.search(r"^saffron_trainer_samples_trained_total (\d+)$", self.metrics("trainer"), re.M)[1])

    def live_rows(self):
        return sum(int(n) for n in re.findall(r"^saffron_embedding_server_rows\{.*\} (\d+)$", self.metrics("embedding_server"), re.M))

    def checkpoint(self, name):
        """A process that waits until the checkpoint is there."""
        return subprocess.Popen([build + "/saffron", "checkpoint", name, "--run-dir", run], stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True)

    def stop(self):
        self.ended.set()
        self.watch.join()
        self.supervisor.send_signal(signal.SIGINT)
        self.supervisor.wait(120)
        return json.loads(read(run + "/summary.json"))


def buckets(page, series):
    """{upper bound: how many so far were at most that}, all label sets that match together"""
    found = {}
    for bound, count in re.findall(rf'^{series}.*le="([^"]+)".*\}} (\d+)$', page, re.M):
        found[float(bound)] = found.get(float(bound), 0) + int(count)
    return found


def longest(before, after):
    """Upper bound of the highest bucket that something fell into between the two."""
    bound, below = 0.0, 0
    for le in sorted(after):
        between = after[le] - before.get(le, 0)
        if between > below:
            bound, below = le, between
    return bound


def looked_at(job):
    middleware, owner = job.metrics("middleware"), job.metrics("embedding_server")
    return {
        "trained": job.trained(),
        "stall": buckets(middleware, r'saffron_middleware_request_seconds_bucket\{.*method="(?:LookupRows|ApplyGradients)"'),
        "turn": buckets(owner, r"saffron_embedding_server_loop_turn_seconds_bucket\{"),
    }


def turn(job, name):
    """One turn; with a checkpoint of that name unless it is None."""
    job.most = dict.fromkeys(ROLES, 0)
    before, start = looked_at(job), time.monotonic()
    making, took = job.checkpoint(name) if name else None, None
    while time.monotonic() - start < period:
        if making and took is None and making.poll() is not None:
            took = time.monotonic() - start
            if making.returncode:
                job.fail(f"checkpoint {name}: {making.stdout.read().strip()}")
        time.sleep(0.02)
    if making and took is None:
        job.fail(f"checkpoint {name} is not there after {period} s")
    seconds, after = time.monotonic() - start, looked_at(job)
    return {"rate": (after["trained"] - before["trained"]) / seconds, "took": took, "memory": sum(job.most.values()),
            **{what: longest(before[what], after[what]) for what in ("stall", "turn")}}


def main():
    job = Job()
    turn(job, None)  # the second epoch has the last of the rows that are new
    rows, without, beside = job.live_rows(), [], []
    for i in range(turns):
        without.append(turn(job, None))
        beside.append(turn(job, f"bench-{i}"))
        print(f"  turn {i}: {without[-1]['rate']:,.0f} samples/s without, {beside[-1]['rate']:,.0f} beside one that took "
              f"{beside[-1]['took']:.1f} s", flush=True)
    size = re.findall(r"^saffron_trainer_checkpoint_bytes (\d+)$", job.metrics("trainer"), re.M)
    held = buckets(job.metrics("trainer"), r"saffron_trainer_checkpoint_hold_seconds_bucket\{")
    summary = job.stop()
    rate = [report.median([one["rate"] for one in some]) for some in (without, beside)]
    report.write(out + "/../checkpoint.json", [
        report.entry("samples_per_second", rate[1], "samples/s", rate[0], "no checkpoint", demanded=0.95),
        report.entry("longest_request", max(one["stall"] for one in beside), "s, at most", 0.05, "demanded", more_is_better=False,
                     demanded=1),
        report.entry("longest_request_without", max(one["stall"] for one in without), "s, at most"),
        report.entry("longest_turn_of_owner", max(one["turn"] for one in beside), "s, at most"),
        report.entry("longest_hold", longest({}, held), "s, at most"),
        report.entry("memory", max(one["memory"] for one in beside), "bytes", without[0]["memory"] * 1.15,
                     "1.15 of before the first", more_is_better=False, demanded=1),
        report.entry("memory_without", without[0]["memory"], "bytes"),
        report.entry("live_rows", rows, "rows"),
        report.entry("checkpoint", int(size[0]), "bytes"),
        report.entry("checkpoint_took", report.median([one["took"] for one in beside]), "s"),
        report.entry("test_auc", summary["test_auc"], "AUC"),
    ])


main()
