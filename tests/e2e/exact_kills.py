"""Kills processes of real jobs in mode `exact`, and compares every bit of what they end with.

    exact_kills.py PROGRAMS FOLDER RUNS SEED OPTION...        FOLDER: for runs and their logs; OPTION...: of `saffron local`

The first run is left alone. Of each of the RUNS others one role is killed (SIGKILL) at a random moment of training or of its evaluations,
every seventh time while the roles start, every third time a second one soon after, while all go back to a checkpoint; the kinds of roles take turns. `local --restart on-failure` keeps them up. Each has
to end with the dense weights, the rows, the optimizers' states and the evaluation of the first, bit for bit. What is drawn comes from
SEED and the run's number; what it meets does not. The last line is `runs N identical N`; exit status 1 if it is another.
"""
import glob
import hashlib
import json
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import time

HANG_S = 120
TRIES = 8
KINDS = ("embedding_server", "trainer", "middleware", "data_compose", "trainers")
SAME = ("steps", "samples_read", "samples_trained", "samples_dropped", "test_auc", "test_logloss", "test_samples", "rows_total")


class Failure(Exception):
    pass


# ---- what a job ended with ----

def tensors(path):
    with open(path, "rb") as file:
        data = file.read()
    size = struct.unpack("<Q", data[:8])[0]
    head = json.loads(data[8:8 + size])
    head.pop("__metadata__", None)
    return {name: data[8 + size + t["data_offsets"][0]:8 + size + t["data_offsets"][1]] for name, t in sorted(head.items())}


def rows_of(path):
    """id -> its row and what goes with it."""
    tensor = tensors(path)
    ids = struct.unpack(f"<{len(tensor['ids']) // 8}Q", tensor.pop("ids"))
    width = {name: len(data) // max(len(ids), 1) for name, data in tensor.items()}
    return {row: b"".join(data[k * width[name]:(k + 1) * width[name]] for name, data in tensor.items()) for k, row in enumerate(ids)}


def digests(folder):
    """{table or file: digest}; a table's does not depend on the order of its rows, nor on the files that they are in."""
    tables, found = {}, {}
    for path in sorted(glob.glob(f"{folder}/*.safetensors")):
        name = os.path.basename(path)
        if name.startswith("table."):
            tables.setdefault(name.split(".")[1], {}).update(rows_of(path))
        else:
            found[name] = hashlib.sha256(b"".join(tensors(path).values())).hexdigest()
    for name, rows in tables.items():
        parts = (struct.pack("<Q", row) + rows[row] for row in sorted(rows))
        found[f"{len(rows)} rows of {name}"] = hashlib.sha256(b"".join(parts)).hexdigest()
    return found


def end_of(folder):
    with open(f"{folder}/summary.json", encoding="utf-8") as file:
        summary = json.load(file)
    with open(f"{folder}/logs/trainer-0.log", encoding="utf-8", errors="replace") as file:
        dense = re.findall(r" dense_digest=([0-9a-f]{16})", file.read())
    end = {key: summary[key] for key in SAME}
    end["dense_digest"] = dense[-1] if dense else None
    end.update(digests(f"{folder}/model"))
    return end, summary


# ---- one run ----

def kill(folder, supervisor, name):
    """False: there is no such process now."""
    try:
        with open(f"{folder}/pids/{name}", encoding="ascii") as file:
            pid = int(file.read())
        descriptor = os.pidfd_open(pid)
    except (OSError, ValueError):
        return False
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            if int(file.read().rpartition(")")[2].split()[1]) != supervisor.pid:
                return False
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def names_of(kind, draw):
    if kind == "trainers":
        return ["trainer-0", "trainer-1"]
    return [kind + "-0" if kind == "data_compose" else f"{kind}-{draw.randrange(2)}"]


def faults(number, seed, seconds):
    """[(when, names)], of the time since training began: the first of a kind whose turn it is."""
    draw = random.Random(f"exact-kills {seed} {number}")
    when = draw.uniform(-1, 0) if number % 7 == 6 else draw.uniform(0, max(seconds - 0.2, 0.2))
    planned = [(when, names_of(KINDS[number % len(KINDS)], draw))]
    if number % 3 == 2:
        planned.append((planned[0][0] + draw.uniform(0.1, 1.2), names_of(draw.choice(KINDS), draw)))
    return planned


def has_begun(folder):
    try:
        with open(f"{folder}/logs/trainer-0.log", encoding="utf-8", errors="replace") as file:
            return " group_formed " in file.read()
    except OSError:
        return False


def run(programs, folder, options, planned):
    """What was killed, in words; how long it trained."""
    command = [f"{programs}/saffron", "local", "--run-dir", folder, "--restart", "on-failure", "--quiet"] + options
    done, began, trains = [], time.monotonic(), None
    with open(f"{folder}.out", "wb") as out, subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT) as supervisor:
        try:
            while supervisor.poll() is None:
                now = time.monotonic() - began
                if now > HANG_S:
                    raise Failure(f"not done after {HANG_S} s")
                if trains is None and has_begun(folder):
                    trains = now
                early = planned and planned[0][0] < 0 and now > 1.2 + planned[0][0]
                if planned and (early or (trains is not None and now - trains > planned[0][0])):
                    when, names = planned.pop(0)
                    hit = [name for name in names if kill(folder, supervisor, name)]
                    done += [f"{' and '.join(hit)} at {when:.2f} s"] if hit else []
                time.sleep(0.005)
        finally:
            supervisor.kill()  # its processes end with it
    if supervisor.returncode != 0:
        raise Failure(f"exit status {supervisor.returncode}")
    return done, time.monotonic() - began - (trains or 0)


def compare(end, want):
    wrong = [f"{key}: {end.get(key)}, expected {want[key]}" for key in want if end.get(key) != want[key]]
    wrong += [f"{key} is not expected" for key in end if key not in want]
    if wrong:
        raise Failure("; ".join(wrong))


def run_and_meet(programs, place, options, number, seed, seconds):
    """(what was killed, seconds that are drawn from). A job that is over before anybody is met is run again, and met sooner."""
    for _ in range(TRIES):
        killed, took = run(programs, place, options, faults(number, seed, seconds))
        if killed:
            return killed, seconds
        shutil.rmtree(place)
        seconds = 0.8 * min(seconds, took)
    raise Failure(f"the job was over before anybody was met, {TRIES} times")


def main():
    programs, folder = sys.argv[1:3]
    runs, seed, options = int(sys.argv[3]), int(sys.argv[4]), sys.argv[5:]
    identical = 0
    _, seconds = run(programs, f"{folder}/unbroken", options, [])
    want, _ = end_of(f"{folder}/unbroken")
    print(f"unbroken: {want['steps']} steps, {seconds:.1f} s from the first on, dense_digest {want['dense_digest']}", flush=True)
    for number in range(runs):
        place = f"{folder}/run-{number}"
        began, killed = time.monotonic(), []
        try:
            killed, seconds = run_and_meet(programs, place, options, number, seed, seconds)
            end, summary = end_of(place)
            compare(end, want)
            identical += 1
            print(f"run {number}: {', '.join(killed)}: identical; went back {summary['went_back']}, "
                  f"{summary['steps_again']} steps again, {time.monotonic() - began:.1f} s", flush=True)
            shutil.rmtree(place)
            os.remove(f"{place}.out")
        except (Failure, OSError, ValueError, KeyError) as error:
            print(f"run {number}: {', '.join(killed)}: {error}; logs: {place}/logs, {place}.out", flush=True)
    print(f"runs {runs} identical {identical}")
    sys.exit(0 if identical == runs else 1)


main()
