"""The servers of NATS as the large overlay has them: do their routes lead to each other?

Three processes with the rendered configuration, in a network and a file tree of their own, where the names of their pods
are addresses of the loopback. Each has to see the two others, and what is said to the first has to be heard at the last.
Exit 77: no such network can be made here."""
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import listen  # noqa: E402 (beside this file)

SECONDS = 10


def routes(address):
    """Servers that this one has a route to."""
    try:
        with urllib.request.urlopen(f"http://{address}:8222/routez", timeout=1) as reply:
            return {route["remote_id"] for route in json.load(reply).get("routes") or []}
    except OSError:
        return set()


class Client:
    """NATS' text protocol, as much as two words need."""

    def __init__(self, address):
        self.socket = socket.create_connection((address, 4222), timeout=SECONDS)
        self.file = self.socket.makefile("rb")
        self.file.readline()  # INFO
        self.say('CONNECT {"verbose":false,"pedantic":false}')

    def say(self, *lines):
        """Returns when the server has read them."""
        self.socket.sendall("".join(f"{line}\r\n" for line in (*lines, "PING")).encode())
        while self.file.readline().strip() not in (b"PONG", b""):
            pass


def heard(first, last):
    hears, says = Client(last), Client(first)
    hears.say("SUB word 1")
    deadline = time.monotonic() + SECONDS
    hears.socket.settimeout(0.2)
    while time.monotonic() < deadline:
        says.say("PUB word 2", "ok")  # again, since a subscription takes a moment to be known everywhere
        try:
            if hears.file.readline().startswith(b"MSG word"):
                return True
        except TimeoutError:
            hears.file = hears.socket.makefile("rb")
    return False


def run(folder, names):
    listen.loopback_up()
    addresses = {name: f"127.0.1.{i + 1}" for i, name in enumerate(names)}
    with open(f"{folder}/hosts", "w") as f:
        f.writelines(f"{address} {name}\n" for name, address in addresses.items())
    subprocess.run(["mount", "--bind", f"{folder}/hosts", "/etc/hosts"], check=True)
    servers, wrong = [], []
    for address in addresses.values():
        with open(f"{folder}/{address}.log", "w") as log:
            servers.append(subprocess.Popen(
                ["nats-server", "-c", f"{folder}/cluster.conf", "-a", address, "--cluster", f"nats://{address}:6222"],
                stdout=log, stderr=log))
    deadline = time.monotonic() + SECONDS
    seen = {}
    while time.monotonic() < deadline and any(len(seen.get(a, ())) != len(names) - 1 for a in addresses.values()):
        time.sleep(0.05)
        seen = {a: routes(a) for a in addresses.values()}
    for name, address in addresses.items():
        if len(seen[address]) != len(names) - 1:
            wrong.append(f"{name} has routes to {len(seen[address])} servers, expected {len(names) - 1}")
    if not wrong and not heard(*(list(addresses.values())[i] for i in (0, -1))):
        wrong.append("what is said to the first server is not heard at the last")
    for server in servers:
        server.terminate()
        server.wait()
    return wrong


def main(arguments):
    if arguments[:1] == ["--inside"]:
        wrong = run(arguments[1], arguments[2:])
        print(f"{len(arguments) - 2} servers of NATS: " + ("; ".join(wrong) or "each has routes to the others"))
        return 1 if wrong else 0
    import program
    import render
    objects = render.render("k8s/overlays/large")
    names = [route.rpartition(":")[0] for route in program.nats_routes(objects)]
    with tempfile.TemporaryDirectory() as folder:
        for file, text in render.find(objects, "ConfigMap", "saffron-nats")["data"].items():
            listen.write(f"{folder}/{file}", text)
        way = [word + "m" if word.startswith("-") else word for word in listen.NAMESPACE]
        return subprocess.run([*way, sys.executable, __file__, "--inside", folder, *names]).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]) if listen.NAMESPACE else 77)
