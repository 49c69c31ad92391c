"""Kills and stops the processes of real jobs at random, and counts what became of their updates.

    kill_loop.py PROGRAMS JOB FOLDER KILLS SEED        PROGRAMS: the folder of saffron; FOLDER: for runs and their logs

Embedding servers go on from a checkpoint, one a second (SERVERS=0 spares them): what they say that they lost (`updates_lost`) is
taken from what is expected, row by row, and nothing else.

The job is that of tests/lib/oracle.h: each row of the data has a row of the table `row`, which one application moves by
exactly 0.001. `saffron local --restart on-failure` runs it, two of each role, one job after the other until KILLS processes
were killed, each longer where the one before was over too soon; the model that a job leaves says how often each row was applied. Every other job is in mode `full`. What is drawn
comes from SEED and the job's number; what it meets does not.

A hang: no batch is finished for HANG_S seconds. The last line is `kills N lost 0 doubled 0 hangs 0`; exit status 1 if it is
another, if a job fails, or if its summary does not add up.
"""
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter

from rows_applied import BATCH, ROWS, differences

SPLITS, WORKERS = 8, 2
EPOCHS = int(os.environ.get("EPOCHS", "150"))  # of the first job
EPOCHS_MAX = 100 * EPOCHS
HANG_S = 60
EACH_MAX = 40  # kills of one job
STARTS_MAX, STARTS_S = 8, 60.0  # of one role: `local` gives up at more than ten in a minute
ROLES = ("trainer", "middleware", "data_compose", "embedding_server")
SERVERS = os.environ.get("SERVERS", "1") == "1"  # embedding servers are killed too
STOPPED = [f"{role}-{i}" for role in ROLES for i in (0, 1)] + ["nats"]
VICTIMS = STOPPED if SERVERS else [n for n in STOPPED if not n.startswith("emb")]


class Failure(Exception):
    pass


class Process:
    """A process of the run, by what pids/ says now: held by a descriptor, so that no other one is ever sent a signal."""

    def __init__(self, run, name):
        with open(f"{run.folder}/pids/{name}", encoding="ascii") as file:
            self.pid = int(file.read())
        self.descriptor = os.pidfd_open(self.pid)
        with open(f"/proc/{self.pid}/stat", encoding="utf-8") as file:
            parent = int(file.read().rpartition(")")[2].split()[1])
        if parent != run.supervisor.pid:
            self.close()
            raise ProcessLookupError(name)

    def signal(self, number):
        signal.pidfd_send_signal(self.descriptor, number)

    def close(self):
        os.close(self.descriptor)


class Run:
    def __init__(self, programs, job, folder, mode, seed, epochs, sets=(), environment=()):
        self.folder, self.mode, self.seed, self.epochs = folder, mode, seed, epochs
        self.draw = random.Random(f"kill-loop {seed}")
        self.kills, self.stops = 0, 0
        self.killed = {}  # name: times
        self.todo = []  # (when, what, argument), what is due later
        sets = [f"global.mode={mode}", f"data.epochs={epochs}", "global.link.heartbeat_ms=100", "global.link.dead_ms=1000",
                "global.checkpoint.every_seconds=1", "global.checkpoint.full_every=3", *sets]
        command = [f"{programs}/saffron", "local", "--config", job, "--run-dir", folder, "--restart", "on-failure"]
        for role in ROLES:
            command += [f"--{role.replace('_', '-')}s", "2"]
        for text in sets:
            command += ["--set", text]
        with open(f"{folder}.out", "wb") as out:
            self.supervisor = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, **dict(environment)})

    # ---- how it goes ----

    def status(self, index):
        try:
            with open(f"{self.folder}/logs/trainer-{index}.log", encoding="utf-8", errors="replace") as file:
                admin = re.findall(r" admin=(127\.0\.0\.1:\d+)$", file.read(), flags=re.M)
            with urllib.request.urlopen(f"http://{admin[-1]}/status", timeout=1) as page:
                return json.load(page)
        except (OSError, IndexError, ValueError):
            return {}

    def figures(self):
        return [[self.status(i).get(key) for key in ("samples_trained", "step", "done")] for i in (0, 1)]

    # ---- faults ----

    def may_die(self, name, now):
        times = self.killed.setdefault(name, [])
        return len([t for t in times if now - t < STARTS_S]) < STARTS_MAX

    def is_ending(self):
        """Who is killed when all is trained takes along what it counted: nobody is, from some time before that on."""
        trained = sum(self.status(i).get("samples_trained") or 0 for i in (0, 1))
        return trained > 0.8 * ROWS * self.epochs

    def kill(self, name, now):
        if not self.may_die(name, now) or self.is_ending():
            return
        try:
            process = Process(self, name)
        except (OSError, ValueError):
            return  # it is between its end and its start
        process.signal(signal.SIGKILL)
        process.close()
        self.kills += 1
        self.killed[name].append(now)

    def stop(self, name, now):
        try:
            process = Process(self, name)
            process.signal(signal.SIGSTOP)
        except (OSError, ValueError):
            return
        self.stops += 1
        self.todo.append((now + self.draw.uniform(1, 3), self.go_on, process))

    @staticmethod
    def go_on(process, _now):
        try:
            process.signal(signal.SIGCONT)
        except ProcessLookupError:
            pass
        process.close()

    def fault(self, now):
        kind = self.draw.random()
        names = self.draw.sample(VICTIMS, 2)
        if kind < 0.25:
            self.stop(self.draw.choice(STOPPED), now)
        elif kind < 0.4:
            self.kill(names[0], now)
            self.kill(names[1], now)
        else:
            self.kill(names[0], now)
            if kind < 0.55:  # and again while it starts
                self.todo.append((now + self.draw.uniform(0.15, 0.8), self.kill, names[0]))

    def due(self, now):
        late = [entry for entry in self.todo if entry[0] <= now]
        self.todo = [entry for entry in self.todo if entry[0] > now]
        for _, what, argument in late:
            what(argument, now)

    # ---- from its start to its end ----

    def drive(self, most):
        """Until it ends; at most so many kills. False: it hangs."""
        next_fault, next_look = time.monotonic() + 2, 0
        seen, seen_at = None, time.monotonic()
        while self.supervisor.poll() is None:
            now = time.monotonic()
            self.due(now)
            if now > next_fault and self.kills < most:
                self.fault(now)
                next_fault = now + self.draw.uniform(0.3, 2.0)
            if now > next_look:
                next_look, figures = now + 1, self.figures()
                if figures != seen:
                    seen, seen_at = figures, now
                if now - seen_at > HANG_S:
                    return False
            time.sleep(0.02)
        return True

    def end(self):
        for _, what, argument in self.todo:
            if what == self.go_on:
                self.go_on(argument, 0)
        if self.supervisor.poll() is None:
            self.supervisor.kill()  # its processes end with it
            self.supervisor.wait()


# ---- the count ----

def declared(run, server):
    """{worker: {batch}} that the rows of this server lack, as its log tells: what it says that it lost, and of its life before what
    the checkpoint lacked that it was restored from."""
    lost, cut = {}, {}
    with open(f"{run.folder}/logs/embedding_server-{server}.log", encoding="utf-8", errors="replace") as file:
        for line in file:
            word = dict(re.findall(r'(\w+)=("[^"]*"|\S+)', line))
            if " start version=" in line:
                lost = {}
            elif " restored name=" in line:
                lost = {worker: set(batches) for worker, batches in cut[word["attempt"]].items()}
            elif " rows_cut attempt=" in line:
                cut[word["attempt"]] = {worker: set(batches) for worker, batches in lost.items()}
            elif " updates_lost worker=" in line:
                batches = lost.setdefault(int(word["worker"]), set())
                for split, first, n in re.findall(r"(\d+):(\d+)\+(\d+)", word["ranges"]):
                    batches.update((int(split), int(first) + k) for k in range(int(n)))
                if "..." in word["ranges"]:
                    raise Failure(f"embedding_server/{server} does not tell all that it lost: {line}")
    return lost


def rows_of(batch):
    """A split's blocks are of one batch each, and each chunk that is shuffled is a block."""
    split, sequence = batch
    first = (sequence % (ROWS // BATCH // SPLITS) * SPLITS + split) * BATCH
    return range(first, first + BATCH)


def check(run):
    """(lost, doubled) of its rows."""
    lacks = Counter()
    for server in (0, 1):
        for worker, batches in declared(run, server).items():
            lacks.update((server, worker, row) for batch in batches for row in rows_of(batch))

    def expected(row, path):
        owner = re.search(r"row\.(\d+)\.\d+\.safetensors$", path or "")
        if owner:
            return run.epochs - lacks[divmod(int(owner[1]), WORKERS) + (row,)]
        # In no file: its owner, whoever that is, says that it lost all of it.
        return run.epochs - max(lacks[server, worker, row] for server in (0, 1) for worker in range(WORKERS))

    try:
        return differences(f"{run.folder}/model", expected)
    except (OSError, ValueError, KeyError) as error:
        raise Failure(f"the model: {error}") from error


def check_summary(run):
    with open(f"{run.folder}/summary.json", encoding="utf-8") as file:
        summary = json.load(file)
    samples = ROWS * run.epochs
    want = {"samples_trained": samples, "samples_read": samples, "samples_dropped": 0, "samples_quarantined": 0}
    wrong = {key: summary[key] for key in want if summary[key] != want[key]}
    restarts = sum(summary["restarts"].values())
    kills = sum(len(times) for name, times in run.killed.items() if name != "nats")
    if wrong:
        raise Failure(f"summary.json: {wrong}, expected {samples} samples, all trained")
    if restarts > kills:
        raise Failure(f"{restarts} restarts after {kills} kills: somebody ended by itself")
    return summary


def commit():
    got = subprocess.run(["git", "-c", "safe.directory=*", "rev-parse", "--short", "HEAD"], stdout=subprocess.PIPE,
                         stderr=subprocess.DEVNULL, text=True, check=False)
    return got.stdout.strip() or "unknown"


def main():
    programs, job, folder = sys.argv[1:4]
    kills, seed = int(sys.argv[4]), int(sys.argv[5])
    killed = lost = doubled = hangs = number = 0
    epochs, bad = EPOCHS, None
    while killed < kills and not bad:
        mode = ("hybrid", "full")[number % 2]
        run = Run(programs, job, f"{folder}/run-{seed + number}", mode, seed + number, epochs)
        most = min(kills - killed, max(min(kills // 2, EACH_MAX), 1))
        try:
            began = time.monotonic()
            went_on = run.drive(most)
            run.end()
            killed += run.kills
            if not went_on:
                hangs += 1
                raise Failure(f"no batch was finished for {HANG_S} s")
            if run.supervisor.returncode != 0:
                raise Failure(f"exit status {run.supervisor.returncode}")
            one = check(run)
            lost, doubled = lost + one[0], doubled + one[1]
            if any(one):
                raise Failure(f"lost {one[0]}, doubled {one[1]} applications")
            summary = check_summary(run)
            if run.kills <= most // 2:  # it was over before
                epochs = min(2 * epochs, EPOCHS_MAX)
            print(f"seed {run.seed} {mode}: {run.kills} kills, {run.stops} stops in {time.monotonic() - began:.0f} s; "
                  f"steps {summary['steps']}, retried {summary['batches_retried']}", flush=True)
            shutil.rmtree(run.folder)
            os.remove(f"{run.folder}.out")
        except Failure as error:
            run.end()
            bad = f"seed {run.seed} ({mode}), commit {commit()}: {error}; logs: {run.folder}/logs, {run.folder}.out"
        number += 1
    if bad:
        print(bad)
    print(f"kills {killed} lost {lost} doubled {doubled} hangs {hangs}")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
