"""Each role cut off from each other role, in both directions and in each: training goes on by itself when they see each other again.

    partition.py PROGRAMS JOB FOLDER       in a network and mount namespace of its own, as root of it

Two of each role and a nats-server, each in a network of its own behind one bridge. To cut X off from Y, X is told a wrong hardware
address of Y: what it sends is lost in silence, and what it hears is not. After CUT_S it is told to forget that, and within HEAL_S
samples must be trained again. The job is that of tests/lib/oracle.h; it is run again until all pairs have been cut, and whenever
it is done each of its rows has been applied once in each epoch.
"""
import itertools
import json
import os
import re
import subprocess
import sys
import time
import urllib.request

from rows_applied import ROWS, differences

EPOCHS = int(os.environ.get("EPOCHS", "60"))
CUT_S = float(os.environ.get("CUT_S", "2.5"))
DEAD_MS, HEAL_S, END_S = 1000, 20, 120
PROGRAM = {"data_compose": "data-compose", "middleware": "middleware", "embedding_server": "embedding-server", "trainer": "trainer"}
HOSTS = ["nats"] + [f"{role}-{i}" for role in PROGRAM for i in (0, 1)]
ADDRESS = {host: f"10.9.0.{n + 1}" for n, host in enumerate(HOSTS)}
NATS = f"nats://{ADDRESS['nats']}:4222"


def ip(*words):
    subprocess.run(["ip", *words], check=True)


def make_network():
    ip("link", "set", "lo", "up")
    ip("link", "add", "bridge", "type", "bridge")
    ip("addr", "add", "10.9.0.100/24", "dev", "bridge")
    ip("link", "set", "bridge", "up")
    os.makedirs("/run/netns", exist_ok=True)
    for n, host in enumerate(HOSTS):
        ip("netns", "add", host)
        ip("link", "add", f"v{n}", "type", "veth", "peer", "name", "eth0", "netns", host)
        ip("link", "set", f"v{n}", "master", "bridge", "up")
        ip("-n", host, "link", "set", "lo", "up")
        ip("-n", host, "addr", "add", f"{ADDRESS[host]}/24", "dev", "eth0")
        ip("-n", host, "link", "set", "eth0", "up")


class Job:
    def __init__(self, programs, job, folder, mode, number):
        self.programs, self.folder, self.name, self.run = programs, folder, f"cut{number}", f"{folder}/run-{number}"
        os.makedirs(f"{self.run}/logs")
        self.process = []
        for role, program in PROGRAM.items():
            for i in (0, 1):
                host = f"{role}-{i}"
                command = ["ip", "netns", "exec", host, f"{programs}/saffron-{program}", "--nats", NATS, "--job", self.name, "--config",
                           job, "--bind", ADDRESS[host], "--admin-port", "9100", "--index", str(i), "--size", "2", "--run-dir", self.run]
                for text in (f"global.mode={mode}", f"data.epochs={EPOCHS}", "global.link.heartbeat_ms=100",
                             f"global.link.dead_ms={DEAD_MS}"):
                    command += ["--set", text]
                with open(f"{self.run}/logs/{host}.log", "wb") as log:
                    self.process.append(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT))

    def status(self, rank):
        try:
            with urllib.request.urlopen(f"http://{ADDRESS[f'trainer-{rank}']}:9100/status", timeout=1) as page:
                return json.load(page)
        except (OSError, ValueError):
            return {}

    def trained(self):
        return sum(self.status(rank).get("samples_trained") or 0 for rank in (0, 1))

    def is_done(self):
        return all(self.status(rank).get("done") for rank in (0, 1))

    def wait_for_more(self, than, seconds):
        """Seconds until more samples are trained, or the job is done."""
        began = time.monotonic()
        while self.trained() <= than and not self.is_done():
            for process in self.process:
                if process.poll() is not None:
                    sys.exit(f"{self.name}: a role ended with status {process.returncode}; logs: {self.run}/logs")
            if time.monotonic() - began > seconds:
                sys.exit(f"{self.name}: nothing was trained for {seconds} s; logs: {self.run}/logs")
            time.sleep(0.05)
        return time.monotonic() - began

    def finish(self):
        began = time.monotonic()
        while not self.is_done():
            if time.monotonic() - began > END_S:
                sys.exit(f"{self.name}: not done after {END_S} s; logs: {self.run}/logs")
            time.sleep(0.2)
        out = subprocess.run([f"{self.programs}/saffron", "export", "--nats", NATS, "--job", self.name], text=True, timeout=60,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        exports = [name for name in os.listdir(self.run) if name.startswith("export-")]
        if out.returncode != 0 or len(exports) != 1:
            sys.exit(f"{self.name}: export: {out.stdout}")
        lost, doubled = differences(f"{self.run}/{exports[0]}", lambda row, path: EPOCHS)
        trained = self.trained()
        if lost or doubled or trained != ROWS * EPOCHS:
            sys.exit(f"{self.name}: lost {lost}, doubled {doubled} applications, {trained} samples trained; logs: {self.run}/logs")
        for process in self.process:
            process.terminate()
        if any(process.wait(20) for process in self.process):
            sys.exit(f"{self.name}: a role ended with {[process.returncode for process in self.process]}")


def lie(host, about, how):
    """`host` has a wrong address of another one, or, healed, none: then it asks."""
    if how == "cut":
        ip("-n", host, "neigh", "replace", ADDRESS[about], "lladdr", "02:00:00:00:00:01", "dev", "eth0", "nud", "permanent")
    else:
        ip("-n", host, "neigh", "del", ADDRESS[about], "dev", "eth0")


def cuts():
    """One of X from all of Y: (X/0, [Y ...], directions)."""
    kinds = list(PROGRAM) + ["nats"]
    pairs = list(itertools.combinations(kinds, 2)) + [("trainer", "trainer")]
    for x, y in pairs:
        others = [host for host in HOSTS if host.startswith(y) and host != f"{x}-0"]
        for directions in ("both", "out", "in"):
            yield f"{x}-0", others, directions


def between(host, others, directions):
    for other in others:
        if directions != "in":
            yield host, other
        if directions != "out":
            yield other, host


def main():
    programs, job, folder = map(os.path.abspath, sys.argv[1:4])
    make_network()
    with open(f"{folder}/nats.log", "wb") as log:
        subprocess.Popen(["ip", "netns", "exec", "nats", "nats-server", "-a", ADDRESS["nats"], "-p", "4222"], stdout=log, stderr=log)
    left, number, slowest = list(cuts()), 0, (0, "")
    done = len(left)
    while left:
        run = Job(programs, job, folder, ("hybrid", "full")[number % 2], number)
        run.wait_for_more(0, HEAL_S)
        while left and not run.is_done():
            host, others, directions = left.pop(0)
            lies = list(between(host, others, directions))
            for at, about in lies:
                lie(at, about, "cut")
            time.sleep(CUT_S)
            for at, about in lies:
                lie(at, about, "heal")
            what = f"{host} | {re.sub('-.*', '', others[0])} {directions}"
            took = run.wait_for_more(run.trained(), HEAL_S)
            slowest = max(slowest, (took, what))
            print(f"{what}: {took:.1f} s", flush=True)
        run.finish()
        number += 1
    print(f"{done} cuts in {number} jobs: 0 lost, 0 doubled; the slowest to go on: {slowest[1]}, {slowest[0]:.1f} s")


main()
