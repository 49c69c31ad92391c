"""What the programs say of themselves, for manifests to be held against: ports, arrows, variables, version.

Nothing here is written down a second time: ports come from docs/config.md (made from the option tables) and the job's
own global.yml, arrows from the tables of served methods, variables from the program's table and launch.sh."""
import glob
import re

import yaml

from render import ROLES, containers, environment, find, job_files, role_sets

FOLDER = {role: role.replace("-", "_") for role in ROLES}


def text_of(path):
    with open(path) as f:
        return f.read()


def version():
    return re.search(r'RT_VERSION\s+"([^"]+)"', text_of("runtime/process/version.h")).group(1)


def variables():
    """Every variable that launch.sh or a program reads; launch.sh --help is in launch.sh."""
    names = set(re.findall(r'^\s+\{"([A-Z_]+)", KEY_', text_of("runtime/process/flags.c"), re.M))
    for folder in ("runtime", *FOLDER.values()):
        for source in glob.glob(f"{folder}/**/*.c", recursive=True):
            names |= set(re.findall(r'getenv\("([A-Z_]+)"\)', text_of(source)))
    return names | set(re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", text_of("launch.sh")))


def served_by_folder():
    """server -> callers, as `from_roles` of its table of methods says; who calls is who connects."""
    bit = re.compile(r"RT_ROLE_BIT\(RT_ROLE_([A-Z_]+)\)")
    arrows = {}
    for role, folder in FOLDER.items():
        callers = set()
        for source in glob.glob(f"{folder}/*.c"):
            text = text_of(source)
            macro = dict(re.findall(r"^#define +(\w+) +(RT_ROLE_BIT\(.*)$", text, re.M))
            for who in re.findall(r'^\s+\{WIRE_\w+,\s*"\w+",\s*([^,]+),', text, re.M):
                for word, value in macro.items():
                    who = re.sub(rf"\b{word}\b", value, who)
                callers |= {name.lower().replace("_", "-") for name in bit.findall(who)}
        arrows[role] = callers
    return arrows


def default(key):
    """Of a whole number, as docs/config.md has it."""
    return int(re.search(rf"^\| `{re.escape(key)}` \| [^|]* \| (\d+) \|", text_of("docs/config.md"), re.M).group(1))


def settings(objects):
    """The job's global.yml."""
    return yaml.safe_load(job_files(objects)["global.yml"]) or {}


def deployed(objects):
    """What the processes of these manifests listen on: {component: {"data": range, "admin": range}, "nats": ...}."""
    said = settings(objects)
    ports = {name: default(f"global.ports.{name}") for name in ("middleware", "embedding_server", "trainer", "admin")}
    ports.update(said.get("ports", {}))
    trainer = role_sets(objects)["trainer"]
    ranks = int(environment(objects, containers(trainer)[0]).get("NPROC_PER_NODE") or 1)
    loops = {
        "middleware": said.get("middleware", {}).get("loops", 0),
        "embedding-server": said.get("embedding_server", {}).get("workers", 0),
        "trainer": ranks,
    }
    out = {}
    for role in ROLES:
        out[role] = {"admin": range(ports["admin"], ports["admin"] + (ranks if role == "trainer" else 1))}
        if role in loops:
            base = ports[FOLDER[role]]
            out[role]["data"] = range(base, base + loops[role])
    out["nats"] = nats_ports(objects)
    return out


def nats_ports(objects):
    """From the configuration that NATS is started with, what it includes taken along."""
    server = find(objects, "StatefulSet", "saffron-nats")
    command = containers(server)[0]["command"]
    files = find(objects, "ConfigMap", "saffron-nats")["data"]
    text = files[command[command.index("-c") + 1].rpartition("/")[2]]
    text = re.sub(r"^include +(\S+)$", lambda m: files[m.group(1)], text, flags=re.M)
    cluster = re.search(r"^cluster \{(.*?)^\}", text, re.M | re.S)
    out = {"client": int(re.search(r"^port: *(\d+)", text, re.M).group(1)),
           "monitor": int(re.search(r"^http: *(\d+)", text, re.M).group(1))}
    if cluster:
        out["cluster"] = int(re.search(r"^ +port: *(\d+)", cluster.group(1), re.M).group(1))
    return {name: range(port, port + 1) for name, port in out.items()}


def nccl_range(objects):
    """Ephemeral ports of trainers with GPUs, on which NCCL listens; None without GPUs."""
    trainer = role_sets(objects)["trainer"]
    if "nvidia.com/gpu" not in containers(trainer)[0]["resources"].get("limits", {}):
        return None
    for s in trainer["spec"]["template"]["spec"]["securityContext"].get("sysctls", []):
        if s["name"] == "net.ipv4.ip_local_port_range":
            low, high = s["value"].split()
            return range(int(low), int(high) + 1)
    return range(1, 65536)


def nats_routes(objects):
    files = find(objects, "ConfigMap", "saffron-nats")["data"]
    return sorted(re.findall(r"nats://(\S+:\d+)", "\n".join(files.values())))

