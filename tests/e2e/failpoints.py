"""Processes of real jobs die, fail or wait at each step of the protocol (tests/failpoints.md), and their rows are counted.

    failpoints.py PROGRAMS JOB FOLDER TABLE CASES MODES      PROGRAMS: those that have failpoints; FOLDER: for runs and their logs

CASES: all, third, or a word that is in those that are wanted. MODES: words; with several each case is run in each, else
cases take turns with `hybrid` and `full`. The job, the runs and the count are kill_loop.py's. How many steps are made until the second or
third checkpoint is there depends on the disk: where a job is over before its case has happened, a longer one is run. The last line is
`failpoints N in N jobs: lost 0 doubled 0 hangs 0`; exit status 1 if a case has not happened, or anything else is not as it should be.
"""
import glob
import os
import re
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from kill_loop import HANG_S, Failure, Run, check, check_summary, commit

EPOCHS, LONGER = int(os.environ.get("EPOCHS", "20")), (1, 4, 16, 64)  # times as many, one after the other
AT_ONCE = 2  # jobs: each waits for somebody most of the time
SETS = ("global.checkpoint.every_steps=100", "global.checkpoint.keep=1", "global.checkpoint.cut_timeout_ms=2000")


def cases(path):
    """[(case, word of a log)] of the table; the passage is 1 where none is said."""
    with open(path, encoding="utf-8") as file:
        rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in file if line.startswith("| `P")]
    return [(row[0].strip("`"), row[2]) for row in rows]


def happened(run, marks, case, word):
    """What has not yet, in words, or None: every word of the case did, the log says so, and nobody else ended."""
    points = dict(re.findall(r"(\S+?)=(\w+)", case))
    kills = sum(action == "kill" for action in points.values())
    run.killed = {"all": [0] * kills}
    restarts = sum(check_summary(run)["restarts"].values())
    missing = [name for name in points if not os.path.exists(f"{marks}/{name}")]
    if missing:
        return f"{' '.join(missing)}: it has not happened"
    if restarts < kills:
        return f"{restarts} restarts, expected {kills}"  # the job was over before `local` came to it
    logs = ""
    for path in glob.glob(f"{run.folder}/logs/*.log"):
        with open(path, encoding="utf-8", errors="replace") as file:
            logs += file.read()
    if f" {word} " not in logs and word:
        raise Failure(f"no log says {word}")
    return None


def one(programs, job, folder, case, word, mode, number, epochs):
    """What has not happened in a job of so many epochs, or None."""
    marks = f"{folder}/happened-{number}"
    os.makedirs(marks)
    run = Run(programs, job, f"{folder}/run-{number}", mode, number, epochs, SETS,
              {"SAFFRON_FAILPOINTS": case, "SAFFRON_FAILPOINTS_DIR": os.path.abspath(marks)})
    try:
        if not run.drive(0):
            raise Failure(f"no batch was finished for {HANG_S} s")
        if run.supervisor.returncode != 0:
            raise Failure(f"exit status {run.supervisor.returncode}")
        lost, doubled = check(run)
        if lost or doubled:
            raise Failure(f"lost {lost}, doubled {doubled} applications")
        missing = happened(run, marks, case, word)
    except Failure as error:
        raise Failure(f"{case} ({mode}), commit {commit()}: {error}; logs: {run.folder}/logs, {run.folder}.out") from error
    finally:
        run.end()
    shutil.rmtree(run.folder)
    shutil.rmtree(marks)
    os.remove(f"{run.folder}.out")
    return missing


def run_one(programs, job, folder, number, what):
    """Has it failed?"""
    case, word, mode = what
    began = time.monotonic()
    try:
        for epochs in (EPOCHS * times for times in LONGER):
            missing = one(programs, job, folder, case, word, mode, number, epochs)
            if not missing:
                print(f"{case} {mode}: {time.monotonic() - began:.1f} s", flush=True)
                return False
            print(f"{case} {mode}: {missing} in {epochs} epochs", flush=True)
    except Failure as error:
        print(error, flush=True)
    return True


def main():
    programs, job, folder, table, wanted = sys.argv[1:6]
    modes, rows = sys.argv[6:], cases(table)
    if wanted == "third":
        rows = rows[1::3]
    elif wanted != "all":
        rows = [row for row in rows if wanted in row[0]]
    todo = [(case, word, mode) for case, word in rows for mode in modes]
    if len(modes) < 2:
        todo = [(case, word, ("hybrid", "full")[number % 2]) for number, (case, word) in enumerate(rows)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        failed = sum(pool.map(lambda numbered: run_one(programs, job, folder, *numbered), enumerate(todo)))
    if failed or not todo:
        sys.exit(f"{failed} of {len(todo)} cases failed")
    print(f"failpoints {len(rows)} in {len(todo)} jobs: lost 0 doubled 0 hangs 0")


main()
