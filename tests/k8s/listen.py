"""Containers as the manifests start them, each for a second or two: what do they listen on, and what answers a probe?

    listen.py BIN OVERLAY...

Each runs as a process in a network of its own (a namespace with nothing but the loopback, so its ports are free),
under the host name of its pod, with the environment and the files of the rendered manifests. It then has to listen on
the ports of its container and no others, answer every probe's path, and end long before its grace period does. Nobody
is there to talk to, so it waits for its peers: a 503 of /readyz is an answer, a 404 is none. Exit 77: no such network
can be made here."""
import fcntl
import json
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

sys.dont_write_bytecode = True
START_SECONDS = 20
FILES = 1024
END_SHARE = 0.2  # of the grace period; the rest is for machines that are slower than this one


# ---- outside: from manifests to processes ----

def write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as f:
        f.write(text)


def stand_in(work, job):
    """Data files of one row for every glob of the job: their names are all that a role alone looks at."""
    import yaml
    data = yaml.safe_load(job["data.yml"])
    columns = data.get("columns") or {}
    text = "\t".join(columns) + "\n" + "\t".join("0" for _ in columns) + "\n" if data.get("header", True) else "\n"
    for glob in data["train"] + data["test"]:
        path = os.path.join(work, "data", glob.replace("*", "0").removesuffix(".gz"))
        write(path, text)
        if glob.endswith(".gz"):
            subprocess.run(["gzip", path], check=True)


def placed(work, binaries, text):
    """A path of the container's, where it is here."""
    for there, here in (("/opt/saffron/bin", binaries), ("/opt/saffron", os.getcwd()), ("/etc", f"{work}/etc"),
                        ("/data", f"{work}/data"), ("/run/saffron", f"{work}/run"),
                        ("/checkpoints", f"{work}/checkpoints")):
        if text == there or text.startswith(there + "/"):
            return here + text[len(there):]
    return text


def spec_of(render, objects, o, work, binaries):
    c = render.containers(o)[0]
    env = {k: placed(work, binaries, v) for k, v in render.environment(objects, c).items()}
    env["SAFFRON_ADVERTISE"] = "127.0.0.1"  # there is no route by which to find an address
    return {
        "name": o["metadata"]["name"],
        "host": f"{o['metadata']['name']}-{o['spec']['replicas'] - 1}",
        "command": [placed(work, binaries, word) for word in c["command"]],
        "env": env,
        "ports": {p["name"]: p["containerPort"] for p in c["ports"]},
        "probes": sorted({(c[kind]["httpGet"]["path"], c[kind]["httpGet"]["port"])
                          for kind in ("startupProbe", "readinessProbe", "livenessProbe")}),
        "grace": render.pod_of(o)["spec"]["terminationGracePeriodSeconds"],
        "is_role": render.component(o) in render.ROLES,  # NATS ends with 1 when it is told to
        "log": f"{work}/{o['metadata']['name']}.log",
    }


def check(overlay, binaries):
    import render
    objects = render.render(f"k8s/overlays/{overlay}")
    bad = 0
    with tempfile.TemporaryDirectory() as work:
        for file, text in render.job_files(objects).items():
            write(f"{work}/etc/saffron/job/{file}", text)
        for file, text in render.find(objects, "ConfigMap", "saffron-nats")["data"].items():
            write(f"{work}/etc/nats/{file}", text)
        stand_in(work, render.job_files(objects))
        for folder in ("run", "checkpoints"):
            os.mkdir(f"{work}/{folder}")
        for o in render.of_kind(objects, "StatefulSet"):
            spec = spec_of(render, objects, o, work, binaries)
            write(f"{work}/spec.json", json.dumps(spec))
            done = subprocess.run([*NAMESPACE, sys.executable, __file__, "--inside", f"{work}/spec.json"],
                                  capture_output=True, text=True)
            print(f"{overlay}: {done.stdout}{done.stderr}", end="", flush=True)
            if done.returncode != 0:
                bad += 1
                with open(spec["log"], errors="replace") as f:
                    print("".join("    " + line for line in f.readlines()[-8:]), end="")
    return bad


# ---- inside: one process in its own network ----

def loopback_up():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        request = struct.pack("16sh14x", b"lo", 0x41)  # IFF_UP | IFF_RUNNING
        fcntl.ioctl(s, 0x8914, request)  # SIOCSIFFLAGS


def listening():
    ports = set()
    for name in ("tcp", "tcp6"):
        with open(f"/proc/net/{name}") as f:
            for line in f.readlines()[1:]:
                field = line.split()
                if field[3] == "0A":
                    ports.add(int(field[1].rpartition(":")[2], 16))
    return ports


def answer(port, path):
    try:
        return urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5).status
    except urllib.error.HTTPError as e:
        return e.code


def run_inside(spec):
    loopback_up()
    socket.sethostname(spec["host"])
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(FILES, hard), hard))  # as container runtimes do
    kept = {k: v for k, v in os.environ.items() if k == "PATH" or k.endswith("SAN_OPTIONS")}
    with open(spec["log"], "w") as log:
        process = subprocess.Popen(spec["command"], env={**kept, **spec["env"]}, stdout=log, stderr=log)
    want, wrong = set(spec["ports"].values()), []
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and not want <= listening() and time.monotonic() < deadline:
        time.sleep(0.02)
    if process.poll() is not None:
        return [f"ended with status {process.returncode}"], 0
    files = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)[0]
    if spec["is_role"] and files != hard:
        wrong.append(f"may open {files} files, of {hard} that it could")
    for path, name in spec["probes"]:
        status = answer(spec["ports"][name], path)
        if status != 200 and (path, status) != ("/readyz", 503):
            wrong.append(f"{path} on port {name}: status {status}")
    if answer(spec["ports"][spec["probes"][0][1]], "/no-such-page") == 200:
        wrong.append("every path is answered with 200, so a probe of it tells nothing")
    got = listening()
    if got != want:
        wrong.append(f"listens on {sorted(got)}, the container's ports are {sorted(want)}")
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    try:
        if process.wait(spec["grace"] * END_SHARE) != 0 and spec["is_role"]:
            wrong.append(f"SIGTERM: exit status {process.returncode}")
    except subprocess.TimeoutExpired:
        process.kill()
        wrong.append(f"takes more than {spec['grace'] * END_SHARE:.0f} s to end, of {spec['grace']} s")
    return wrong, time.monotonic() - began


def main(arguments):
    if arguments[0] == "--inside":
        with open(arguments[1]) as f:
            spec = json.load(f)
        wrong, seconds = run_inside(spec)
        fine = f"{len(spec['ports'])} ports, {len(spec['probes'])} probed paths, gone {seconds:.2f} s after SIGTERM"
        print(f"{spec['name']}: {'; '.join(wrong) or fine}")
        return 1 if wrong else 0
    return 1 if sum(check(overlay, os.path.abspath(arguments[0])) for overlay in arguments[1:]) else 0


NAMESPACE = next((way for way in (["unshare", "-nu"], ["unshare", "-rnu"])
                  if subprocess.run([*way, "true"], capture_output=True).returncode == 0), None)

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    if sys.argv[1] != "--inside" and NAMESPACE is None:
        print("no network of its own can be made for a process here")
        sys.exit(77)
    sys.exit(main(sys.argv[1:]))
