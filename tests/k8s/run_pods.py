"""The pods of an overlay as processes of this machine: a kubelet of three hundred lines.

    run_pods.py FOLDER TREE WORK CLAIM=DIR...

Renders FOLDER with kubectl and starts every StatefulSet's pods literally: command, environment, user, volumes, host
name, read-only root, each as PID 1 of namespaces of its own (network, mounts, processes, host name) with an address of
its own. /opt/saffron is TREE; a claim is DIR, or an empty folder. Names of Services and pods stand in /etc/hosts.
Probes are made as often as they say. Where there is iptables, the NetworkPolicies hold between the pods.

When all is trained and everybody is ready and `done`, `saffron status` is asked in trainer-0, SIGTERM is sent to all,
and the pods have to end with 0 within their grace. The last line is `auc=...`. Exit 1: something is wrong, one line
each; 77: no such namespaces can be made here.

Not done: limits of CPU and memory (no cgroups), the seccomp profile, DNS beyond /etc/hosts."""
import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

sys.dont_write_bytecode = True
WAIT_SECONDS = 60 * int(os.environ.get("SLOW", "1"))
GATEWAY = "169.254.1.1"  # the node's end of every pod's link
IMAGE_PATH = "/opt/saffron/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LIBC = ctypes.CDLL(None, use_errno=True)
PR_SET_NO_NEW_PRIVS, PR_CAPBSET_DROP, CAPS = 38, 24, 41


def run(*words):
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


# ---- in the pod: PID 1 before it becomes the container's command ----

def mount_root(root, volumes):
    """What the image has, from this machine's own /usr: the same Debian that the image is made of."""
    run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", root)
    for name in ("usr", "bin", "sbin", "lib", "lib64"):
        if os.path.islink(f"/{name}"):
            os.symlink(os.readlink(f"/{name}"), f"{root}/{name}")
        elif os.path.isdir(f"/{name}"):
            bind(f"/{name}", f"{root}/{name}", True)
    for name in ("etc", "tmp", "dev", "proc", "opt", "run", "var"):
        os.mkdir(f"{root}/{name}")
    for name in ("ld.so.cache", "nsswitch.conf"):
        shutil.copy(f"/etc/{name}", f"{root}/etc/{name}")
    if os.path.isdir("/etc/alternatives"):
        bind("/etc/alternatives", f"{root}/etc/alternatives", True)
    run("mount", "-t", "proc", "proc", f"{root}/proc")
    for name in ("null", "zero", "full", "random", "urandom"):
        open(f"{root}/dev/{name}", "w").close()
        run("mount", "--bind", f"/dev/{name}", f"{root}/dev/{name}")
    for v in volumes:
        if v["tmpfs"] is not None:
            os.makedirs(root + v["path"], exist_ok=True)
            run("mount", "-t", "tmpfs", "-o", f"mode=1777,size={v['tmpfs']}", "tmpfs", root + v["path"])
        else:
            bind(v["from"], root + v["path"], v["read_only"])


def bind(source, target, read_only):
    os.makedirs(target, exist_ok=True)
    run("mount", "--bind", source, target)
    if read_only:
        run("mount", "-o", "remount,bind,ro", target)


def drop_rights(pod):
    for cap in range(CAPS):
        LIBC.prctl(PR_CAPBSET_DROP, cap, 0, 0, 0)
    os.setgroups([pod["group"], *([pod["fs_group"]] if pod["fs_group"] else [])])
    os.setresgid(*[pod["group"]] * 3)
    os.setresuid(*[pod["user"]] * 3)
    if LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise SystemExit("no_new_privs is refused")


def become_pod(path, ready_fd, go_fd):
    with open(path) as f:
        pod = json.load(f)
    root = pod["root"]
    run("hostname", pod["name"])
    mount_root(root, pod["volumes"])
    with open(f"{root}/etc/hosts", "w") as f:
        f.write(pod["hosts"])
    with open(f"{root}/etc/hostname", "w") as f:
        f.write(pod["name"] + "\n")
    os.makedirs(root + pod["work_dir"], exist_ok=True)
    if pod["read_only"]:
        run("mount", "-o", "remount,ro", root)
    os.write(ready_fd, b"1")
    os.close(ready_fd)
    os.read(go_fd, 1)  # the link is there
    os.close(go_fd)
    run("ip", "link", "set", "lo", "up")
    run("ip", "address", "add", f"{pod['ip']}/32", "dev", "eth0")
    run("ip", "link", "set", "eth0", "up")
    run("ip", "route", "add", GATEWAY, "dev", "eth0")
    run("ip", "route", "add", "default", "via", GATEWAY)
    os.chroot(root)
    os.chdir(pod["work_dir"])
    drop_rights(pod)
    os.execvpe(pod["command"][0], pod["command"], pod["env"])


# ---- on the node: what a manifest means ----

def bytes_of(text):
    m = re.fullmatch(r"(\d+)(Ki|Mi|Gi|)", str(text))
    return int(m.group(1)) << {"": 0, "Ki": 10, "Mi": 20, "Gi": 30}[m.group(2)]


def port_of(container, port):
    named = {p["name"]: p["containerPort"] for p in container.get("ports", [])}
    return named[port] if isinstance(port, str) else port


def substitute(text, env):
    return re.sub(r"\$\((\w+)\)", lambda m: env.get(m.group(1), m.group(0)), text)


class Pod:
    def __init__(self, node, o, ordinal, ip):
        self.node, self.ip = node, ip
        self.name = f"{o['metadata']['name']}-{ordinal}"
        self.template = node.render.pod_of(o)
        self.labels = {**node.render.labels_of(o), "apps.kubernetes.io/pod-index": str(ordinal)}
        self.component = node.render.component(o)
        self.spec = self.template["spec"]
        if self.spec.get("initContainers") or len(self.spec["containers"]) != 1:
            raise SystemExit(f"{self.name}: expected one container, and no other")
        self.container = self.spec["containers"][0]
        self.grace = self.spec["terminationGracePeriodSeconds"]
        self.folder = f"{node.work}/{self.name}"
        self.log = f"{node.work}/{self.name}.log"
        self.ready, self.complaint, self.end_seconds = False, None, None
        os.makedirs(f"{self.folder}/root")

    def field(self, path):
        known = {"metadata.name": self.name, "metadata.namespace": "saffron", "status.podIP": self.ip,
                 "spec.nodeName": "node", "metadata.uid": self.name}
        m = re.fullmatch(r"metadata\.labels\['(.*)'\]", path)
        return self.labels[m.group(1)] if m else known[path]

    def environment(self):
        env = {"PATH": IMAGE_PATH, "HOSTNAME": self.name, "HOME": "/run/saffron"}
        env.update({k: v for k, v in self.node.render.environment(self.node.objects, self.container).items()
                    if v is not None})
        for e in self.container.get("env", []):
            if "valueFrom" in e:
                env[e["name"]] = self.field(e["valueFrom"]["fieldRef"]["fieldPath"])
            else:
                env[e["name"]] = substitute(e.get("value", ""), env)
        return env

    def security(self, key):
        return self.container.get("securityContext", {}).get(key, self.spec.get("securityContext", {}).get(key))

    def volume(self, mount):
        v = next(v for v in self.spec["volumes"] if v["name"] == mount["name"])
        out = {"path": mount["mountPath"], "read_only": mount.get("readOnly", False), "tmpfs": None}
        if "configMap" in v:
            out.update({"from": self.config_map(v), "read_only": True})
        elif "emptyDir" in v and v["emptyDir"].get("medium") == "Memory":
            out["tmpfs"] = bytes_of(v["emptyDir"]["sizeLimit"])
        elif "emptyDir" in v:
            out["from"] = self.shared(f"{self.folder}/{v['name']}", 0o2777)
        elif "persistentVolumeClaim" in v:
            claim = v["persistentVolumeClaim"]
            out["from"] = self.node.claims.get(claim["claimName"]) or \
                self.shared(f"{self.node.work}/claim-{claim['claimName']}", 0o2775)
            out["read_only"] |= claim.get("readOnly", False)
        else:
            raise SystemExit(f"{self.name}: volume {v['name']} is of a kind that is not known here")
        return out

    def config_map(self, volume):
        """Files behind two symbolic links, as the kubelet makes them."""
        top = f"{self.folder}/{volume['name']}"
        os.makedirs(f"{top}/..version")
        os.symlink("..version", f"{top}/..data")
        for name, text in self.node.render.find(self.node.objects, "ConfigMap", volume["configMap"]["name"])["data"].items():
            with open(f"{top}/..version/{name}", "w") as f:
                f.write(text)
            os.symlink(f"..data/{name}", f"{top}/{name}")
        return top

    def shared(self, path, mode):
        os.makedirs(path, exist_ok=True)
        os.chown(path, 0, self.security("fsGroup") or 0)
        os.chmod(path, mode)
        return path

    def start(self, hosts):
        if not self.security("runAsNonRoot") or not self.security("runAsUser"):
            raise SystemExit(f"{self.name}: runs as root")
        env = self.environment()
        volumes = [self.volume(m) for m in self.container.get("volumeMounts", [])]
        if not any(v["path"] == "/dev/shm" for v in volumes):
            volumes.append({"path": "/dev/shm", "tmpfs": 64 << 20, "read_only": False})
        if self.component in self.node.render.ROLES:
            volumes.append({"path": "/opt/saffron", "from": self.node.tree, "read_only": True, "tmpfs": None})
        words = [*self.container.get("command", []), *self.container.get("args", [])]
        spec = {
            "name": self.name, "ip": self.ip, "root": f"{self.folder}/root", "env": env, "volumes": volumes,
            "hosts": hosts, "command": [substitute(w, env) for w in words],
            "work_dir": self.container.get("workingDir", "/run/saffron" if self.component in self.node.render.ROLES else "/"),
            "user": self.security("runAsUser"), "group": self.security("runAsGroup") or 0,
            "fs_group": self.security("fsGroup"), "read_only": self.security("readOnlyRootFilesystem") or False,
        }
        with open(f"{self.folder}/pod.json", "w") as f:
            json.dump(spec, f)
        self.env = env
        ready, go = os.pipe(), os.pipe()
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                ["unshare", "--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child",
                 sys.executable, __file__, "--pod", f"{self.folder}/pod.json", str(ready[1]), str(go[0])],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=(ready[1], go[0]))
        os.close(ready[1])
        os.close(go[0])
        if os.read(ready[0], 1) != b"1":
            raise SystemExit(f"{self.name}: cannot be started: {self.tail()}")
        link = f"pod{self.ip.rpartition('.')[2]}"
        run("ip", "link", "add", "name", link, "type", "veth", "peer", "name", "eth0", "netns", str(self.process.pid))
        run("ip", "address", "add", f"{GATEWAY}/32", "dev", link)
        run("ip", "link", "set", link, "up")
        run("ip", "route", "add", f"{self.ip}/32", "dev", link)
        os.write(go[1], b"1")
        os.close(ready[0])
        os.close(go[1])
        with open(f"/proc/{self.process.pid}/task/{self.process.pid}/children") as f:
            self.init = int(f.read().split()[0])  # PID 1 of the pod
        self.began = time.monotonic()

    def tail(self):
        with open(self.log, errors="replace") as f:
            return "".join(f.readlines()[-12:])

    def enter(self, *words):
        """As `kubectl exec`."""
        return subprocess.run(["nsenter", "-t", str(self.init), "-m", "-n", "-p", "-u", "-i", "-r", "-w",
                               "-S", str(self.security("runAsUser")), "-G", str(self.security("runAsGroup") or 0),
                               "/usr/bin/env", "-i", *[f"{k}={v}" for k, v in self.env.items()], *words],
                              capture_output=True, text=True, timeout=20)

    # -- probes --

    def probe(self, p):
        limit = p.get("timeoutSeconds", 1)
        if "httpGet" in p:
            url = f"http://{self.ip}:{port_of(self.container, p['httpGet']['port'])}{p['httpGet']['path']}"
            try:
                return 200 <= urllib.request.urlopen(url, timeout=limit).status < 400
            except (OSError, urllib.error.HTTPError):
                return False
        if "exec" in p:
            return self.enter(*p["exec"]["command"]).returncode == 0
        raise SystemExit(f"{self.name}: a probe of a kind that is not known here")

    def watch(self):
        """The three probes, each in its own time, until the pod is told to end."""
        due, failures, started = {}, {}, False
        while not self.node.ending:
            now = time.monotonic()
            for kind in ("startup", "liveness", "readiness"):
                p = self.container.get(f"{kind}Probe")
                if p is None or (kind == "startup") == started:
                    continue
                if now < due.setdefault(kind, self.began + p.get("initialDelaySeconds", 0)):
                    continue
                due[kind] = now + p.get("periodSeconds", 10)
                good = self.probe(p)
                failures[kind] = 0 if good else failures.get(kind, 0) + 1
                is_out = failures[kind] >= p.get("failureThreshold", 3)
                if kind == "startup" and good:
                    started = True
                elif kind == "readiness" and (good or is_out):
                    self.ready = good
                elif is_out and kind != "readiness" and not self.node.ending:
                    self.complaint = f"{self.name}: the kubelet would restart it: {kind} failed {failures[kind]} times"
            time.sleep(0.05)

    def status(self):
        try:
            url = f"http://{self.ip}:{port_of(self.container, 'admin')}/status"
            return json.load(urllib.request.urlopen(url, timeout=5))
        except OSError:
            return {}

    def end(self):
        began = time.monotonic()
        os.kill(self.init, signal.SIGTERM)
        try:
            self.process.wait(self.grace)
        except subprocess.TimeoutExpired:
            self.complaint = f"{self.name}: still there {self.grace} s after SIGTERM"
            os.kill(self.init, signal.SIGKILL)
        self.end_seconds = time.monotonic() - began


def ranges(arrows):
    """Single ports next to each other as one range."""
    out = []
    for a, b, protocol, port in sorted(arrows):
        if out and out[-1][:3] == [a, b, protocol] and out[-1][4] == port - 1:
            out[-1][4] = port
        else:
            out.append([a, b, protocol, port, port])
    return out


class Node:
    def __init__(self, folder, tree, work, claims):
        import render
        self.render, self.tree, self.work, self.claims = render, tree, work, claims
        self.objects = render.render(folder)
        self.ending = False
        self.pods = []
        for o in render.of_kind(self.objects, "StatefulSet"):
            for ordinal in range(o["spec"]["replicas"]):
                self.pods.append(Pod(self, o, ordinal, f"10.244.0.{len(self.pods) + 2}"))

    def hosts(self):
        lines = ["127.0.0.1 localhost"]
        for s in self.render.of_kind(self.objects, "Service"):
            name, space = s["metadata"]["name"], s["metadata"].get("namespace", "default")
            for pod in self.pods:
                if self.render.selects({"matchLabels": s["spec"]["selector"]}, pod.labels):
                    tails = [name, f"{name}.{space}", f"{name}.{space}.svc", f"{name}.{space}.svc.cluster.local"]
                    lines.append(" ".join([pod.ip, *tails, pod.name, *[f"{pod.name}.{t}" for t in tails]]))
        return "\n".join(lines) + "\n"

    def network(self):
        """A router between the pods, which lets through what the policies allow."""
        run("ip", "link", "set", "lo", "up")
        for key in ("ip_forward", "conf/all/proxy_arp"):
            with open(f"/proc/sys/net/ipv4/{key}", "w") as f:
                f.write("1")
        if not shutil.which("iptables") or subprocess.run(["iptables", "-S"], capture_output=True).returncode != 0:
            return False
        import arrows
        egress, ingress = arrows.allowed(self.objects)
        lines = ["*filter", ":FORWARD DROP", "-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT"]
        for source, target, protocol, low, high in ranges(egress & ingress):
            lines += [f"-A FORWARD -s {a.ip} -d {b.ip} -p {protocol.lower()} --dport {low}:{high} -j ACCEPT"
                      for a in self.pods for b in self.pods if (a.component, b.component) == (source, target)]
        subprocess.run(["iptables-restore"], input="\n".join([*lines, "COMMIT", ""]), text=True, check=True)
        return True

    def of(self, component):
        return [p for p in self.pods if p.component == component]

    def roles(self):
        return [p for p in self.pods if p.component in self.render.ROLES]

    def check(self):
        for p in self.pods:
            if p.process.poll() is not None:
                raise SystemExit(f"{p.name} ended with status {p.process.returncode}:\n{p.tail()}")
            if p.complaint:
                raise SystemExit(f"{p.complaint}\n{p.tail()}")

    def wait(self, what, condition):
        deadline = time.monotonic() + WAIT_SECONDS
        while not condition():
            self.check()
            if time.monotonic() > deadline:
                logs = "".join(f"--- {p.name}: {'ready' if p.ready else 'not ready'}\n{p.tail()}" for p in self.pods)
                raise SystemExit(f"in vain for {WAIT_SECONDS} s: {what}\n{logs}")
            time.sleep(0.1)


# ---- one job ----

def can_connect(pod, ip, port):
    code = f"import socket; socket.create_connection(('{ip}', {port}), 1)"
    return subprocess.run(["nsenter", "-t", str(pod.init), "-n", sys.executable, "-c", code],
                          capture_output=True).returncode == 0


def check_policies(node):
    """The arrows were used by the job itself; two that nobody may use are tried."""
    trainer, server, composer = (node.of(c)[0] for c in ("trainer", "embedding-server", "data-compose"))
    for a, b, name in ((composer, server, "data"), (composer, trainer, "admin")):
        if can_connect(a, b.ip, port_of(b.container, name)):
            yield f"{a.name} reaches the port {name} of {b.name}, which no policy allows"
        if not can_connect(b, b.ip, port_of(b.container, name)):
            yield f"{b.name} does not reach its own port {name}"


def train(node):
    began = time.monotonic()
    enforced = node.network()
    hosts = node.hosts()
    for pod in node.pods:
        pod.start(hosts)
        threading.Thread(target=pod.watch, daemon=True).start()
    node.wait("all pods to be ready", lambda: all(p.ready for p in node.pods))
    node.wait("all roles to be done", lambda: all(p.status().get("state") == "done" for p in node.roles()))
    told = node.of("trainer")[0].status()
    print(f"{len(node.pods)} pods, ready and done after {time.monotonic() - began:.1f} s; "
          f"policies {'enforced' if enforced else 'not enforced: no iptables'}")
    wrong = list(check_policies(node)) if enforced else []
    with open(node.of("trainer")[0].log) as f:
        if not re.search(r" result test_auc=0\.\d+ .*train_loss=0\.\d+", f.read()):
            wrong.append("the log of trainer-0 has no line `result test_auc=...`")
    status = node.of("trainer")[0].enter("saffron", "status")
    if len(re.findall(r" done ", status.stdout)) < len(node.roles()):
        wrong.append(f"saffron status in trainer-0: {status.stdout}{status.stderr}")
    return wrong, told


def end_all(node):
    node.check()
    node.ending = True
    threads = [threading.Thread(target=p.end) for p in node.pods]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for p in node.pods:
        if p.complaint:
            yield p.complaint
        # nats-server ends with 1 when it is told to, as its image does.
        elif p.process.returncode != 0 and p in node.roles():
            yield f"{p.name}: SIGTERM: exit status {p.process.returncode}: {p.tail()}"
        print(f"{p.name}: ended with {p.process.returncode}, {p.end_seconds:.2f} s after SIGTERM, of {p.grace} s")


def main(folder, tree, work, *claims):
    os.umask(0o022)
    node = Node(folder, tree, work, dict(c.split("=", 1) for c in claims))
    wrong, told = train(node)
    wrong += end_all(node)
    for line in wrong:
        print(line)
    print(f"auc={told.get('test_auc')} logloss={told.get('test_logloss')} train_loss={told.get('train_loss')}")
    return 1 if wrong else 0


OWN = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    if sys.argv[1] == "--pod":
        become_pod(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    if sys.argv[1] == "--node":
        sys.exit(main(*sys.argv[2:]))
    if subprocess.run([*OWN, "sh", "-c", "ip link add name t0 type veth peer name t1 && mount -t tmpfs x /mnt && "
                       "unshare --net --mount --pid --fork true"], capture_output=True).returncode != 0:
        print("no namespaces with networks of their own can be made here")
        sys.exit(77)
    os.execvp(OWN[0], [*OWN, sys.executable, __file__, "--node", *sys.argv[1:]])
