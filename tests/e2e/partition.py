"""Each role cut off from each other role, both ways and one way: training goes on by itself when they see each other again.

    partition.py PROGRAMS JOB FOLDER WHICH     in a network, mount and process namespace of its own, as root of it; WHICH: all, or some

Two of each role and a nats-server, each in a network of its own, and one bridge. To cut X off from Y, X is told a wrong hardware
address of Y: what it sends is lost in silence, and what it hears is not. Healed, it is told to forget that. A link is dead after DEAD_MS;
a cut is longer (LONG_S; NATS_S), so that links die and are made again, or shorter (SHORT_S). Within HEAL_S after it samples must be trained again. The job
is that of tests/lib/oracle.h, with a checkpoint each second; it is run again until all have been cut, twice as long where it was over
before one was, and when it is done each row of the data has been applied once in each epoch. All: every pair, and NATS from each role, in each direction, for long and for short,
in both modes; some: every pair for long in `hybrid` and for short in `full`, in one direction each, and NATS from all.
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

EPOCHS = int(os.environ.get("EPOCHS", "130"))  # of the first job
TOO_LONG = 100 * EPOCHS
DEAD_MS, LONG_S, SHORT_S = 1000, 2.0, 0.4
NATS_S = 7.0  # its client asks every 2 s whether the server is there, three times
HEAL_S, START_S, END_S = 20, 30, 120
PROGRAM = {"data_compose": "data-compose", "middleware": "middleware", "embedding_server": "embedding-server", "trainer": "trainer"}
LINKED = [("data_compose", "middleware"), ("data_compose", "trainer"), ("middleware", "embedding_server"), ("middleware", "trainer"),
          ("trainer", "embedding_server"), ("trainer", "trainer")]
HOSTS = ["nats"] + [f"{role}-{i}" for role in PROGRAM for i in (0, 1)]
ADDRESS = {host: f"10.9.0.{n + 1}" for n, host in enumerate(HOSTS)}
NATS = f"nats://{ADDRESS['nats']}:4222"
MODES = ("hybrid", "full")
WAYS = ("both", "out", "in")


def ip(*words):
    subprocess.run(["ip", *words], check=True)


def make_network():
    ip("link", "set", "lo", "up")
    ip("link", "add", "bridge", "type", "bridge")
    ip("addr", "add", "10.9.0.100/24", "dev", "bridge")
    ip("link", "set", "bridge", "up")
    for n, host in enumerate(HOSTS):
        ip("netns", "add", host)
        ip("link", "add", f"v{n}", "type", "veth", "peer", "name", "eth0", "netns", host)
        ip("link", "set", f"v{n}", "master", "bridge", "up")
        ip("-n", host, "link", "set", "lo", "up")
        ip("-n", host, "addr", "add", f"{ADDRESS[host]}/24", "dev", "eth0")
        ip("-n", host, "link", "set", "eth0", "up")


def start(host, command, log):
    with open(log, "wb") as file:
        return subprocess.Popen(["ip", "netns", "exec", host, *command], stdout=file, stderr=subprocess.STDOUT)


def wait_for_nats():
    for _ in range(100):
        try:
            with urllib.request.urlopen(f"http://{ADDRESS['nats']}:8222/healthz", timeout=1):
                return
        except OSError:
            time.sleep(0.05)
    sys.exit("nats-server does not answer")


class Job:
    def __init__(self, programs, job, folder, mode, number, epochs):
        self.programs, self.mode, self.epochs = programs, mode, epochs
        self.name, self.run = f"cut{number}", f"{folder}/run-{number}"
        os.makedirs(f"{self.run}/logs")
        os.makedirs(f"{self.run}/checkpoints")
        self.process = {}
        for host in HOSTS[1:]:
            role, index = host.rsplit("-", 1)
            command = [f"{programs}/saffron-{PROGRAM[role]}", "--nats", NATS, "--job", self.name, "--config", job, "--bind", ADDRESS[host],
                       "--admin-port", "9100", "--index", index, "--size", "2", "--run-dir", self.run]
            if role in ("trainer", "embedding_server"):
                command += ["--checkpoint-dir", f"{self.run}/checkpoints"]
            for text in (f"global.mode={self.mode}", f"data.epochs={epochs}", "global.link.heartbeat_ms=100",
                         f"global.link.dead_ms={DEAD_MS}", "global.checkpoint.every_seconds=1"):
                command += ["--set", text]
            self.process[host] = start(host, command, f"{self.run}/logs/{host}.log")

    def fail(self, what):
        sys.exit(f"{self.name} ({self.mode}): {what}; logs: {self.run}/logs")

    @staticmethod
    def page(host, name):
        try:
            with urllib.request.urlopen(f"http://{ADDRESS[host]}:9100/{name}", timeout=1) as page:
                return page.read().decode()
        except OSError:
            return ""

    def status(self, rank):
        return json.loads(self.page(f"trainer-{rank}", "status") or "{}")

    def trained(self):
        return sum(self.status(rank).get("samples_trained") or 0 for rank in (0, 1))

    def is_done(self):
        return all(self.status(rank).get("done") for rank in (0, 1))

    def links_made(self):
        """Links that were made again, those to NATS too, of all processes so far."""
        pages = (self.page(host, "metrics") for host in HOSTS[1:])
        made = sum(int(float(n)) for page in pages for n in re.findall(r"^saffron_\w+_reconnects_total(?:\{.*\})? (\S+)", page, flags=re.M))
        for host in HOSTS[1:]:
            with open(f"{self.run}/logs/{host}.log", encoding="utf-8", errors="replace") as log:
                made += log.read().count(" nats_connected ")
        return made

    def wait_for_links(self, what, than):
        """What was dead is made again: so it was cut."""
        began = time.monotonic()
        while self.links_made() <= than:
            if time.monotonic() - began > HEAL_S:
                self.fail(f"{what}: no link was made again within {HEAL_S} s")
            time.sleep(0.05)

    def wait_for_more(self, than, seconds):
        """Seconds until more samples are trained, or the job is done."""
        began = time.monotonic()
        while self.trained() <= than and not self.is_done():
            for host, process in self.process.items():
                if process.poll() is not None:
                    self.fail(f"{host} ended with status {process.returncode}")
            if time.monotonic() - began > seconds:
                self.fail(f"nothing was trained for {seconds} s")
            time.sleep(0.05)
        return time.monotonic() - began

    def finish(self):
        began = time.monotonic()
        while not self.is_done():
            if time.monotonic() - began > END_S:
                self.fail(f"not done after {END_S} s")
            time.sleep(0.2)
        began = time.monotonic()
        while True:  # a job that was done in a cut: its processes find NATS again in some seconds
            out = subprocess.run([f"{self.programs}/saffron", "export", "--nats", NATS, "--job", self.name], text=True, timeout=60,
                                 stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
            if out.returncode == 0:
                break
            if time.monotonic() - began > HEAL_S:
                self.fail(f"export: {out.stdout}")
            time.sleep(0.2)
        newest = max(name for name in os.listdir(self.run) if name.startswith("export-"))
        lost, doubled = differences(f"{self.run}/{newest}", lambda row, path: self.epochs)
        trained = self.trained()
        if lost or doubled or trained != ROWS * self.epochs:
            self.fail(f"lost {lost}, doubled {doubled} applications, {trained} of {ROWS * self.epochs} samples trained")
        for process in self.process.values():
            process.terminate()
        if any(process.wait(20) for process in self.process.values()):
            self.fail(f"a role ended with {[process.returncode for process in self.process.values()]}")


def hosts_of(role):
    return [host for host in HOSTS if host.startswith(role)]


def all_cuts():
    """(hosts that are cut off, from which, way, seconds), one of the first kind from all of the other."""
    for (x, y), way, seconds in itertools.product(LINKED, WAYS, (LONG_S, SHORT_S)):
        yield [f"{x}-0"], [host for host in hosts_of(y) if host != f"{x}-0"], way, seconds
    for role, way, seconds in itertools.product(PROGRAM, WAYS, (NATS_S, SHORT_S)):
        yield [f"{role}-0"], ["nats"], way, seconds


def some_cuts():
    for n, (x, y) in enumerate(LINKED):
        others = [host for host in hosts_of(y) if host != f"{x}-0"]
        yield [f"{x}-0"], others, WAYS[n % 3], LONG_S
        yield [f"{x}-0"], others, WAYS[(n + 1) % 3], SHORT_S
    yield HOSTS[1:], ["nats"], "both", NATS_S
    yield HOSTS[1:], ["nats"], "in", NATS_S


def plan(which):
    """[(mode, cuts)]"""
    if which == "all":
        return [(mode, list(all_cuts())) for mode in MODES]
    cuts = list(some_cuts())
    return [(mode, cuts[n::2]) for n, mode in enumerate(MODES)]


def lie(hosts, others, way, healed):
    """Each host has a wrong address of each other one, or the others of it; healed: none, so that it asks."""
    pairs = list(itertools.product(hosts, others)) if way != "in" else []
    pairs += list(itertools.product(others, hosts)) if way != "out" else []
    for at, about in pairs:
        if healed:
            ip("-n", at, "neigh", "del", ADDRESS[about], "dev", "eth0")
        else:
            ip("-n", at, "neigh", "replace", ADDRESS[about], "lladdr", "02:00:00:00:00:01", "dev", "eth0", "nud", "permanent")


def cut(run, hosts, others, way, seconds):
    """(what it was, seconds from its end until samples were trained), or None: the job was done meanwhile."""
    links = run.links_made()
    lie(hosts, others, way, False)
    time.sleep(seconds)
    lie(hosts, others, way, True)
    if run.is_done():
        return None
    what = f"{hosts[0] if len(hosts) == 1 else 'all'} | {re.sub('-.*', '', others[0])} {way} {seconds} s"
    took = run.wait_for_more(run.trained(), HEAL_S)
    if seconds > SHORT_S:
        run.wait_for_links(what, links)
    return what, took


def main():
    programs, job, folder = map(os.path.abspath, sys.argv[1:4])
    make_network()
    start("nats", ["nats-server", "-a", ADDRESS["nats"], "-p", "4222", "-m", "8222"], f"{folder}/nats.log")
    wait_for_nats()
    count, number, slowest, epochs = 0, 0, ("", 0), EPOCHS
    for mode, cuts in plan(sys.argv[4]):
        while cuts:
            run = Job(programs, job, folder, mode, number, epochs)
            run.wait_for_more(0, START_S)
            left = len(cuts)
            while cuts and not run.is_done():
                told = cut(run, *cuts[0])
                if not told:
                    break
                del cuts[0]
                count += 1
                slowest = max(slowest, told, key=lambda one: one[1])
                print(f"{mode}: {told[0]}: {told[1]:.1f} s", flush=True)
            run.finish()
            if len(cuts) == left:
                epochs *= 2
            if epochs > TOO_LONG:
                sys.exit(f"partition: jobs of up to {epochs // 2} epochs were done before this cut was over: {cuts[0]}")
            number += 1
    print(f"{count} cuts in {number} jobs, in real networks: 0 lost, 0 doubled; the slowest to go on: {slowest[0]}, {slowest[1]:.1f} s")


main()
