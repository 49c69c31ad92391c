"""soak.py BUILD DATA RUN OUT MINUTES -- does anything grow, when one job goes on and on?

Each second: resident bytes and open descriptors of the roles, their supervisor and nats-server, as /proc has them, and the
bytes that the roles hold of their allocator, as their pages have them; all go to OUT.csv. Beside the resident bytes stand
those of them that are no file's: pages of programs and libraries leave and come back as the kernel likes, and are three
quarters of the supervisor. After a warm-up (a sixth of the time,
10 minutes at most) a straight line is laid through each: its slope may be at most 0.5 % of the mean in an hour, and no
process may mostly have more descriptors in the last quarter than it ever had in the first (being asked is one more, for a moment).
At the end the job is stopped, and has lost and refused nothing until then.

Both move by whole buffers of 2 MiB, which are in use or not at a moment, and are given back when nobody used them for ten
seconds: in a process of 30 MiB one of those, early or late, is a slope of several %. So a slope is judged when it
comes to more than two of them in the hour, which is 48 bytes of a batch.

nats-server is not ours: it is in the report and not judged. An hour is what is demanded: of less than 30 minutes no slope can be
told from noise, so a short soak reports it and judges only the rest. OUT.json is the report; the exit status is 1 when
something failed.
"""
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
import urllib.request

import report

SLOPE_MAX = 0.5  # % in an hour
BUFFERS = 4 << 20  # bytes in an hour that may be buffers which come and go
JUDGED_MINUTES = 30
EVERY_S = 1.0
START_S = 300
OTHERS = ("nats",)

build, data, run, out, minutes = sys.argv[1:5] + [int(sys.argv[5])]


def read(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as f:
            return f.read()
    except FileNotFoundError:
        return ""


def resident(pid):
    """(all resident bytes, those that are no file's); None each when the process is gone"""
    status = read(f"/proc/{pid}/status")
    found = [re.search(rf"^{name}:\s+(\d+) kB", status, re.M) for name in ("VmRSS", "RssFile")]
    if None in found:
        return None, None
    rss, of_files = (1024 * int(one[1]) for one in found)
    return rss, rss - of_files


def held(admin):
    """Bytes in use of the allocator of the role whose pages are there; None when it does not answer."""
    try:
        with urllib.request.urlopen(f"http://{admin}/metrics", timeout=10) as page:
            return int(re.search(r'_memory_bytes\{.*kind="allocated".*\} (\d+)$', page.read().decode(), re.M)[1])
    except OSError:
        return None


def descriptors(pid):
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except FileNotFoundError:
        return None


class Job:
    def __init__(self):
        with open(out + ".out", "w", encoding="utf-8") as text:
            self.supervisor = subprocess.Popen(
                [build + "/saffron", "local", "--config", "configs/bench", "--data", data, "--run-dir", run, "--quiet",
                 "--timeout", "0", "--epochs", "100000"], stdout=text, stderr=subprocess.STDOUT)
        ends = time.monotonic() + START_S
        while " epoch_over " not in self.log():  # all rows are made, all buffers have found their size
            if self.supervisor.poll() is not None:
                self.fail("the job ended before its first epoch did")
            if time.monotonic() > ends:
                self.fail(f"no epoch was over after {START_S} s")
            time.sleep(0.1)
        self.pids = {name: int(read(f"{run}/pids/{name}")) for name in sorted(os.listdir(run + "/pids"))}
        self.admin = {name: re.findall(r"admin=([0-9.]+:[0-9]+)", read(f"{run}/logs/{name}.log"))[-1]
                      for name in self.pids if name not in OTHERS}
        self.pids["supervisor"] = self.supervisor.pid

    def log(self):
        return read(run + "/logs/trainer-0.log")

    def fail(self, why):
        self.supervisor.kill()  # the roles die with it
        self.supervisor.wait()
        sys.exit(f"soak: {why}: {read(out + '.out').strip()}")

    def sample(self):
        """{process: (resident bytes, those of no file, descriptors, held bytes: 0 of those without pages)}"""
        now = {name: (*resident(pid), descriptors(pid), held(self.admin[name]) if name in self.admin else 0)
               for name, pid in self.pids.items()}
        gone = [name for name, numbers in now.items() if None in numbers]
        if gone or self.supervisor.poll() is not None:
            self.fail(f"{', '.join(gone) or 'the job'} ended after {len(self.log().split(' epoch_over ')) - 1} epochs")
        return now

    def stop(self):
        """The summary of a job that was asked to end."""
        self.supervisor.send_signal(signal.SIGINT)
        self.supervisor.wait(60)
        return json.loads(read(run + "/summary.json"))


def slope_of(seconds, values):
    """Least squares: % of the mean in an hour."""
    n = len(values)
    mean_x, mean_y = sum(seconds) / n, sum(values) / n
    spread = sum((x - mean_x) ** 2 for x in seconds)
    line = sum((x - mean_x) * (y - mean_y) for x, y in zip(seconds, values)) / spread if spread else 0.0
    return 100 * line * 3600 / mean_y


def soak(job):
    """[(seconds, {process: (resident, of no file, descriptors, held)})]"""
    start, samples = time.monotonic(), []
    with open(out + ".csv", "w", encoding="ascii") as csv:
        csv.write("seconds," + ",".join(f"{name}_rss,{name}_anon,{name}_fd,{name}_held" for name in job.pids) + "\n")
        while time.monotonic() - start < 60 * minutes:
            at, now = time.monotonic() - start, job.sample()
            samples.append((at, now))
            csv.write(f"{at:.2f}," + ",".join(",".join(map(str, of_one)) for of_one in now.values()) + "\n")
            csv.flush()
            time.sleep(max(0.0, len(samples) * EVERY_S - (time.monotonic() - start)))
    return samples


def judge(samples, names):
    """Entries of the report, and what is wrong."""
    warm = min(600, 10 * minutes)
    late = [s for s in samples if s[0] >= warm]
    seconds, quarter = [s[0] for s in late], max(1, len(late) // 4)
    entries, wrong, worst = [], [], 0.0
    print(f"  {'process':<22}{'warm':>12}{'end':>12}{'most':>12}{'% an hour':>12}{'no file':>12}{'% an hour':>12}{'held':>12}"
          f"{'% an hour':>12}{'descriptors':>14}")
    for name in names:
        rss, anon, fd, heap = ([s[1][name][k] for s in late] for k in range(4))
        slope, most_fd = slope_of(seconds, rss), [max(fd[:quarter]), statistics.median_high(fd[-quarter:])]
        heap_slope = slope_of(seconds, heap) if heap[-1] else 0.0
        anon_slope = slope_of(seconds, anon)
        judged = name not in OTHERS
        print(f"  {name:<22}{rss[0]:>12,}{rss[-1]:>12,}{max(rss):>12,}{slope:>+12.3f}{anon[-1]:>12,}{anon_slope:>+12.3f}"
              f"{heap[-1]:>12,}{heap_slope:>+12.3f}"
              f"{most_fd[0]:>8} > {most_fd[1]}" + ("" if judged else "  (not judged)"))
        entries += [
            report.entry(f"rss_{name}", rss[-1], "bytes"),
            report.entry(f"slope_{name}", slope, "%/hour"),
            report.entry(f"slope_{name}_of_no_file", anon_slope, "%/hour"),
            report.entry(f"held_{name}", heap[-1], "bytes"),
            report.entry(f"held_slope_{name}", heap_slope, "%/hour"),
            report.entry(f"descriptors_{name}", most_fd[1], "descriptors"),
        ]
        if not judged:
            continue
        for what, its, values in ("resident memory", slope, rss), ("what it holds", heap_slope, heap):
            allowed = max(SLOPE_MAX, 100 * BUFFERS * len(values) / max(1, sum(values)))
            worst = max(worst, its / allowed * SLOPE_MAX)
            if its >= allowed and minutes >= JUDGED_MINUTES:
                wrong.append(f"{name}: {what} grows by {its:.2f} % an hour, at most {allowed:.2f} is allowed "
                             f"({SLOPE_MAX} %, or {BUFFERS >> 20} MiB)")
        if most_fd[1] > most_fd[0]:
            wrong.append(f"{name}: {most_fd[0]} descriptors early, {most_fd[1]} late")
    if minutes < JUDGED_MINUTES:
        print(f"  slopes are not judged: {minutes} minutes are less than {JUDGED_MINUTES}")
    entries.append(report.entry("slope_worst", max(worst, 1e-3), "%/hour", SLOPE_MAX, "flat", more_is_better=False, demanded=1))
    return entries, wrong


def main():
    job = Job()
    samples = soak(job)
    epochs, summary = job.log().count(" epoch_over "), job.stop()
    print(f"soak: {minutes} minutes, {len(samples)} samples, {epochs} epochs, {summary['samples_trained']:,} samples trained")
    entries, wrong = judge(samples, list(job.pids))
    entries += [report.entry("samples_trained", summary["samples_trained"], "samples"),
                report.entry("minutes", minutes, "minutes")]
    for what in ("samples_dropped", "samples_quarantined", "batches_retried"):
        entries.append(report.entry(what, summary[what], what.split("_", maxsplit=1)[0]))
        if summary[what] and what != "batches_retried":  # those cost time only
            wrong.append(f"{what}: {summary[what]}, expected 0")
    report.write(out + ".json", entries)
    for line in wrong:
        print(f"soak: FAILED: {line}")
    if not wrong:
        print("soak: nothing grew, nothing was lost")
    return bool(wrong)


sys.exit(main())
