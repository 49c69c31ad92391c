"""What a storm of NATS costs a job that trains: nats-server killed at the start of every other turn of 3 s.

Two runs, one after the other, tell of the machine and not of the storm: on shared cores the speed of the same job
moves three-fold within minutes. So there is one job, and each turn with a kill is set against the two quiet ones
around it, seconds away. The ratio is the geometric mean over all such triples, with its standard error: with the
machine as it was that day, does it tell 5 % from nothing? Three figures: samples per second; samples per second of
cores that the host let us have (less what it stole); samples per second of CPU time that the roles used.

    nats_storm.py BUILD WORK OUT.json      STORM_SECONDS=600 STORM_TURN=3
"""
import json
import math
import os
import re
import signal
import statistics
import subprocess
import sys
import time
import urllib.request

import report

build, work, out = sys.argv[1:]
seconds = float(os.environ.get("STORM_SECONDS", "600"))
turn_seconds = float(os.environ.get("STORM_TURN", "3"))
run = work + "/run"
LOSS_MAX = 0.05
TICKS = os.sysconf("SC_CLK_TCK")
TOUCHED = re.compile("peer_down|link_closed|link_refused|step_failed|dropped|ERROR")


def read(path):
    with open(path, encoding="utf-8", errors="replace") as f:
        return f.read()


def stolen_seconds():
    """What the host took of all cores; 0 where it does not tell."""
    return int(read("/proc/stat").split()[8]) / TICKS


def wait_for(what, seconds_max=60):
    """The first true value of what(), which may find its file missing."""
    end = time.monotonic() + seconds_max
    while time.monotonic() < end:
        try:
            found = what()
            if found:
                return found
        except OSError:
            pass
        time.sleep(0.05)
    sys.exit("nats_storm: in vain: " + read(work + "/out"))


class Job:
    def __init__(self):
        # More epochs than fit: the job is stopped when the turns are over.
        self.supervisor = subprocess.Popen(
            [build + "/saffron", "local", "--run-dir", run, "--config", "configs/synthetic", "--quiet", "--timeout", "0",
             "--epochs", "100000", "--set", "data.synthetic.rows=1000000", "--set", "data.synthetic.test_rows=1000"],
            stdout=open(work + "/out", "w"), stderr=subprocess.STDOUT)
        admin = wait_for(lambda: re.search(r"trainer/0 start .*admin=(\S+)", read(run + "/logs/trainer-0.log")))
        self.page = f"http://{admin[1]}/metrics"
        wait_for(lambda: self.samples() > 100_000)
        self.pids = {f.removesuffix("-0"): int(read(f"{run}/pids/{f}")) for f in os.listdir(run + "/pids") if f.endswith("-0")}
        self.kills = 0

    def samples(self):
        with urllib.request.urlopen(self.page, timeout=5) as answer:
            text = answer.read().decode()
        return int(re.search(r"^saffron_trainer_samples_trained_total\S* (\d+)", text, re.M)[1])

    def cpu_seconds(self):
        def of(pid):
            fields = read(f"/proc/{pid}/stat").rsplit(")", 1)[1].split()
            return (int(fields[11]) + int(fields[12])) / TICKS
        return sum(of(pid) for pid in self.pids.values())

    def kill_server(self):
        pid = wait_for(lambda: read(run + "/pids/nats").strip())
        try:
            os.kill(int(pid), signal.SIGKILL)
            self.kills += 1
        except ProcessLookupError:
            pass  # it has been killed and is not yet up again

    def turn(self, storm):
        """Samples per second, per second of cores to be had, per CPU second of one turn."""
        start, stolen, cpu, samples = time.monotonic(), stolen_seconds(), self.cpu_seconds(), self.samples()
        if storm:
            self.kill_server()
        time.sleep(turn_seconds)
        samples = self.samples() - samples
        cpu, stolen, wall = self.cpu_seconds() - cpu, stolen_seconds() - stolen, time.monotonic() - start
        return samples / wall, samples / (wall - stolen / os.cpu_count()), samples / max(cpu, 1 / TICKS)

    def end(self):
        """Stop it, then see that nothing but NATS was harmed."""
        stopped = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(time.time() - 1))
        self.supervisor.send_signal(signal.SIGINT)
        self.supervisor.wait(60)
        summary = json.loads(read(run + "/summary.json"))
        assert summary["samples_dropped"] == 0 and summary["samples_quarantined"] == 0, summary
        for role in self.pids:
            for line in read(f"{run}/logs/{role}-0.log").splitlines():
                assert line.split(" ", 1)[0] > stopped or not TOUCHED.search(line), f"{role}: {line}"


def geometric(ratios):
    """(mean, its relative standard error)"""
    logs = [math.log(r) for r in ratios]
    return math.exp(statistics.mean(logs)), statistics.stdev(logs) / math.sqrt(len(logs))


def main():
    job = Job()
    # Odd: each storm lies between two quiet turns. At least two storms, or there is no error to state.
    turns = [job.turn(storm=i % 2 == 1) for i in range(max(int(seconds / turn_seconds), 4) | 1)]
    job.end()
    with open(out + ".turns", "w", encoding="ascii") as f:
        f.writelines("%s %.0f %.0f %.0f\n" % (("quiet", "storm")[i % 2], *t) for i, t in enumerate(turns))

    entries, failed = [], False
    for k, name, unit in ((0, "speed", "samples/s"), (1, "speed_less_stolen", "samples/s"), (2, "work", "samples/CPU s")):
        storms = range(1, len(turns), 2)
        ratio, error = geometric([turns[i][k] / math.sqrt(turns[i - 1][k] * turns[i + 1][k]) for i in storms])
        entries += [
            report.entry(f"{name}_quiet", statistics.median(t[k] for t in turns[::2]), unit),
            report.entry(f"{name}_storm", statistics.median(t[k] for t in turns[1::2]), unit),
            report.entry(f"{name}_ratio", ratio, "storm/quiet", 1 - LOSS_MAX, "at most 5 % lost"),
            report.entry(f"{name}_ratio_error", error, "standard error"),
        ]
        failed |= ratio < 1 - LOSS_MAX
    entries.append(report.entry("kills", job.kills, "kills"))
    report.write(out, entries)
    return failed


sys.exit(main())
