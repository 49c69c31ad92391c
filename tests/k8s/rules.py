"""Our own rules for manifests: each yields complaints about a World, and none for what we ship.

Schemas say what Kubernetes can read; these say what our programs need: that what is named is there, ports are listened
on, counts agree, and the job is the job. counter_examples.py has for every rule something that breaks it."""
import re

import arrows
import program
import restricted
from render import (ROLES, component, containers, environment, find, job_files, labels_of, of_kind, pod_of, role_sets,
                    selects, title, workloads)

LABELS = {f"app.kubernetes.io/{word}" for word in ("name", "component", "instance", "version", "part-of", "managed-by")}
UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "m": 1e-3, "": 1}
PROBES = {"startupProbe": "/healthz", "readinessProbe": "/readyz", "livenessProbe": "/healthz"}
GRACE_SECONDS = range(30, 301)  # an end takes a second or two (listen.py measures it); a node's drain has to end too

APPLY_MAX = 256 << 10  # `kubectl apply` keeps the whole object in one of its annotations

# Per overlay: replicas, and what a pod asks for and is limited to; GPUs 0 where none is asked for.
SIZES = {
    "small": {role: (1, None) for role in ROLES} | {"nats": (1, None)},
    "large": {
        "trainer": (8, {"cpu": 80, "memory": 600 * 2**30, "nvidia.com/gpu": 8}),
        "data-compose": (240, {"cpu": 1, "memory": 12 * 2**30}),
        "middleware": (100, {"cpu": 28, "memory": 100 * 2**30}),
        "embedding-server": (120, {"cpu": 80, "memory": 2500 * 2**30}),
        "nats": (3, None),
    },
}


class World:
    def __init__(self, name, objects):
        self.name, self.objects = name, objects


def amount(text):
    number, unit = re.fullmatch(r"([0-9.]+)(\D*)", str(text)).groups()
    return float(number) * UNITS[unit]


# ---- names and what they refer to ----

def names(world):
    seen = set()
    for o in world.objects:
        if title(o) in seen:
            yield f"{title(o)}: twice"
        seen.add(title(o))
        if o["kind"] != "Namespace" and o["metadata"].get("namespace") != "saffron":
            yield f"{title(o)}: not in namespace saffron"


def wanted_by(o):
    """(kind, name) of what a workload's pods mount or read."""
    for volume in pod_of(o)["spec"].get("volumes", []):
        if "configMap" in volume:
            yield "ConfigMap", volume["configMap"]["name"]
        if "persistentVolumeClaim" in volume:
            yield "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]
        if "secret" in volume:
            yield "Secret", volume["secret"]["secretName"]
    for c in containers(o):
        for source in c.get("envFrom", []):
            for key, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
                if key in source:
                    yield kind, source[key]["name"]


def references(world):
    there = {(o["kind"], o["metadata"]["name"]) for o in world.objects}
    wanted = {pair for o in workloads(world.objects) for pair in wanted_by(o)}
    for o in workloads(world.objects):
        for kind, name in wanted_by(o):
            if (kind, name) not in there:
                yield f"{title(o)}: there is no {kind} {name}"
    for o in of_kind(world.objects, "ConfigMap", "PersistentVolumeClaim", "Secret"):
        if (o["kind"], o["metadata"]["name"]) not in wanted:
            yield f"{title(o)}: nobody uses it"


def own_pods(world, selector, owner):
    """Complaints, if a selector means other pods than those of `owner`."""
    found = {title(o) for o in workloads(world.objects) if selects(selector, labels_of(o))}
    if found != {title(owner)}:
        yield f"selects {', '.join(sorted(found)) or 'no pod'}, expected {title(owner)}"


def selectors(world):
    for o in of_kind(world.objects, "StatefulSet"):
        checked = [("selector", o["spec"]["selector"])]
        for t in pod_of(o)["spec"].get("topologySpreadConstraints", []):
            checked.append(("topologySpreadConstraints", t.get("labelSelector", {})))
        for what, selector in checked:
            for complaint in own_pods(world, selector, o):
                yield f"{title(o)}: {what} {complaint}"
    for o in of_kind(world.objects, "Service"):
        if not any(selects({"matchLabels": o["spec"]["selector"]}, labels_of(w)) for w in workloads(world.objects)):
            yield f"{title(o)}: selects no pod"


def services(world):
    for o in of_kind(world.objects, "StatefulSet"):
        try:
            service = find(world.objects, "Service", o["spec"]["serviceName"])
        except KeyError as e:
            yield f"{title(o)}: {e.args[0]}"
            continue
        if service["spec"].get("clusterIP") != "None":
            yield f"{title(service)}: not headless"
        for complaint in own_pods(world, {"matchLabels": service["spec"]["selector"]}, o):
            yield f"{title(service)}: {complaint}"
        if o["spec"].get("podManagementPolicy") != "Parallel":
            yield f"{title(o)}: its pods are started one after the other"


def labels(world):
    for o in world.objects:
        if o["kind"] in ("StatefulSet", "Service", "PodDisruptionBudget", "PersistentVolumeClaim"):
            missing = LABELS - set(o["metadata"].get("labels", {}))
            if missing:
                yield f"{title(o)}: no label {', '.join(sorted(missing))}"
    for o in workloads(world.objects):
        missing = LABELS - set(labels_of(o))
        if missing:
            yield f"{title(o)}: its pods have no label {', '.join(sorted(missing))}"
        if labels_of(o).get("app.kubernetes.io/version") != program.version():
            yield f"{title(o)}: its pods are not labelled with version {program.version()}"


# ---- ports and probes ----

def container_ports(world):
    listens = program.deployed(world.objects)
    for o in of_kind(world.objects, "StatefulSet"):
        want = {}
        for name, ports in listens[component(o)].items():
            if not ports:
                yield f"{title(o)}: the job's global.yml does not say how many loops there are, so nor how many ports"
            for i, port in enumerate(ports):
                want[f"{name}-{i}" if i else name] = port
        got = {p.get("name"): p["containerPort"] for p in containers(o)[0].get("ports", [])}
        if len(got) != len(containers(o)[0].get("ports", [])):
            yield f"{title(o)}: two ports of one name"
        if got != want:
            wrong = sorted({str(n) for n in set(want) ^ set(got)} | {n for n in want if n in got and want[n] != got[n]})
            yield f"{title(o)}: ports {', '.join(wrong)} are not those that the program listens on"


def service_ports(world):
    for o in of_kind(world.objects, "Service"):
        for w in workloads(world.objects):
            if not selects({"matchLabels": o["spec"]["selector"]}, labels_of(w)):
                continue
            there = {p.get("name"): p["containerPort"] for c in containers(w) for p in c.get("ports", [])}
            for p in o["spec"]["ports"]:
                target = p.get("targetPort", p["port"])
                if target not in there and target not in there.values():
                    yield f"{title(o)}: port {target} is not one of {title(w)}"
                elif there.get(target, target) != p["port"]:
                    yield f"{title(o)}: port {p['port']} leads to {there[target]}; a headless one translates nothing"


def probes(world):
    for o in of_kind(world.objects, "StatefulSet"):
        is_role = component(o) in ROLES
        for c in containers(o):
            there = {p.get("name"): p["containerPort"] for p in c.get("ports", [])}
            for kind, path in PROBES.items():
                get = c.get(kind, {}).get("httpGet", {})
                if get.get("path") != (path if is_role else "/healthz"):
                    yield f"{title(o)}: {kind}: path {get.get('path')}"
                if get.get("port") != ("admin" if is_role else "monitor") or get.get("port") not in there:
                    yield f"{title(o)}: {kind}: port {get.get('port')}"
            if patience(c.get("startupProbe", {})) < 60 or patience(c.get("livenessProbe", {})) < 30:
                yield f"{title(o)}: its probes restart it in haste"


def patience(probe):
    return probe.get("periodSeconds", 10) * probe.get("failureThreshold", 3)


# ---- counts and sizes ----

def replica_size(world):
    for o in role_sets(world.objects).values():
        given = [e.get("value") for c in containers(o) for e in c.get("env", []) if e["name"] == "REPLICA_SIZE"]
        if given != [str(o["spec"]["replicas"])]:
            yield f"{title(o)}: REPLICA_SIZE {given}, but replicas {o['spec']['replicas']}"


def sizes(world):
    there = {component(o): o for o in of_kind(world.objects, "StatefulSet")}
    if set(there) != set(SIZES[world.name]):
        yield f"components {sorted(there)}, expected {sorted(SIZES[world.name])}"
        return
    for name, (replicas, want) in SIZES[world.name].items():
        o = there[name]
        if o["spec"]["replicas"] != replicas:
            yield f"{title(o)}: {o['spec']['replicas']} replicas, expected {replicas}"
        for kind in ("requests", "limits"):
            got = {k: amount(v) for k, v in containers(o)[0]["resources"].get(kind, {}).items()}
            if want and got != want:
                yield f"{title(o)}: {kind} {got}, expected {want}"
    per_host = environment(world.objects, containers(there["trainer"])[0]).get("NPROC_PER_NODE")
    gpus = containers(there["trainer"])[0]["resources"]["limits"].get("nvidia.com/gpu", "1")
    if per_host != gpus:
        yield f"trainer: NPROC_PER_NODE {per_host}, GPUs {gpus}"


def gpus(world):
    """A pod with GPUs may go to nodes that are kept for those, and to no others."""
    for o in workloads(world.objects):
        spec = pod_of(o)["spec"]
        if not any("nvidia.com/gpu" in c["resources"].get("limits", {}) for c in containers(o)):
            continue
        if not any(t.get("key") == "nvidia.com/gpu" for t in spec.get("tolerations", [])):
            yield f"{title(o)}: does not tolerate the taint of GPU nodes"
        if not any("gpu" in key for key in spec.get("nodeSelector", {})):
            yield f"{title(o)}: selects no GPU nodes"
        for c in containers(o):
            if "NCCL_SOCKET_IFNAME" not in environment(world.objects, c):
                yield f"{title(o)}: NCCL is not told which network is policed"
            if not c["image"].endswith("-cuda"):
                yield f"{title(o)}: image {c['image']} has no CUDA"


def resources(world):
    for o in workloads(world.objects):
        for c in containers(o):
            r = c.get("resources", {})
            for what in ("cpu", "memory"):
                if what not in r.get("requests", {}) or what not in r.get("limits", {}):
                    yield f"{title(o)}: container {c['name']}: no request or no limit of {what}"
                elif amount(r["requests"][what]) > amount(r["limits"][what]):
                    yield f"{title(o)}: container {c['name']}: asks for more {what} than its limit"


def promised(world):
    """An embedding server's requests are its limits: no other pod makes its node run out of what it has been lent."""
    o = role_sets(world.objects)["embedding-server"]
    for c in containers(o):
        if c["resources"].get("requests") != c["resources"].get("limits"):
            yield f"{title(o)}: its requests are not its limits"


def batch_memory(world):
    """A middleware refuses batches before its container is killed for them."""
    settings = program.settings(world.objects).get("middleware", {})
    held = settings.get("loops", 0) * settings.get("memory", program.default("global.middleware.memory"))
    o = role_sets(world.objects)["middleware"]
    if held > 0.75 * amount(containers(o)[0]["resources"]["limits"]["memory"]):
        yield f"{title(o)}: its loops may hold {held / 2**30:.1f} GiB of batches, too near to the container's limit"


def shared_memory(world):
    """Ranks on one host exchange through /dev/shm, which a container has 64 MB of, unless it brings its own."""
    trainer = role_sets(world.objects)["trainer"]
    mounts = {m["mountPath"]: m["name"] for m in containers(trainer)[0]["volumeMounts"]}
    volumes = {v["name"]: v for v in pod_of(trainer)["spec"]["volumes"]}
    shm = volumes.get(mounts.get("/dev/shm"), {}).get("emptyDir", {})
    limit = amount(containers(trainer)[0]["resources"]["limits"]["memory"])
    if shm.get("medium") != "Memory":
        yield f"{title(trainer)}: /dev/shm is not in memory"
    elif amount(shm.get("sizeLimit", "9999Ti")) > limit / 2:
        yield f"{title(trainer)}: /dev/shm may take more than half of the container's memory"


# ---- files ----

def inside(path, mounts):
    """The mount whose folder holds this path; the longest wins."""
    fits = [m for m in mounts if (path + "/").startswith(m["mountPath"] + "/")]
    return max(fits, key=lambda m: len(m["mountPath"]), default=None)


def mounts(world):
    for o in workloads(world.objects):
        spec = pod_of(o)["spec"]
        volumes = {v["name"] for v in spec.get("volumes", [])}
        used = {m["name"] for c in containers(o) for m in c.get("volumeMounts", [])}
        for name in sorted(volumes ^ used):
            yield f"{title(o)}: volume {name} is {'not mounted' if name in volumes else 'not there'}"


def folders(world):
    """Every folder that the environment names lies on the volume that is meant for it."""
    for role, o in role_sets(world.objects).items():
        c = containers(o)[0]
        volumes = {v["name"]: v for v in pod_of(o)["spec"]["volumes"]}
        env = environment(world.objects, c)
        want = {
            "SAFFRON_DATA_DIR": ("saffron-data", True),
            "SAFFRON_RUN_DIR": ("emptyDir", False),
            **{f"SAFFRON_{word}_CONFIG": ("saffron-job", True) for word in ("GLOBAL", "DATA", "EMBEDDING", "MODEL")},
        }
        if role in ("trainer", "embedding-server"):
            want["SAFFRON_CHECKPOINT_DIR"] = ("saffron-checkpoints", False)
        elif "SAFFRON_CHECKPOINT_DIR" in env:
            yield f"{title(o)}: writes no checkpoints, but is told where"
        for name, (source, read_only) in want.items():
            mount = inside(env.get(name) or "", c["volumeMounts"])
            volume = volumes.get(mount["name"], {}) if mount else {}
            claim = volume.get("persistentVolumeClaim", {})
            kind = "emptyDir" if "emptyDir" in volume else None
            got = claim.get("claimName") or kind or volume.get("configMap", {}).get("name", "").rpartition("-")[0]
            if got != source:
                yield f"{title(o)}: {name}={env.get(name)} lies on {got or 'no volume'}, expected {source}"
            elif mount.get("readOnly", False) != read_only or claim and claim.get("readOnly", False) != read_only:
                yield f"{title(o)}: {name}: expected {'read-only' if read_only else 'writable'}"


def claims(world):
    """Many nodes mount them, unless there is one pod of each kind and so one node may do."""
    alone = all(o["spec"]["replicas"] == 1 for o in role_sets(world.objects).values())
    for name, mode in (("saffron-data", "ReadOnlyMany"), ("saffron-checkpoints", "ReadWriteMany")):
        got = find(world.objects, "PersistentVolumeClaim", name)["spec"]["accessModes"]
        if got != [mode] and not (alone and got == ["ReadWriteOnce"]):
            yield f"PersistentVolumeClaim {name}: {got}, expected {mode}"


# ---- what runs ----

def images(world):
    tag = {"saffron": program.version(), "saffron-cuda": program.version() + "-cuda"}
    for o in workloads(world.objects):
        for c in containers(o):
            image = c["image"]
            name, _, version = image.rpartition("/")[2].partition(":")
            if "@sha256:" in image:
                continue
            if not re.fullmatch(r"\d+\.\d+\.\d+\S*", version):
                yield f"{title(o)}: image {image} is not pinned to a version"
            elif name in tag and version not in tag.values():
                yield f"{title(o)}: image {image}, but this is version {program.version()}"


def commands(world):
    for role, o in role_sets(world.objects).items():
        c = containers(o)[0]
        if c["name"] != role:
            yield f"{title(o)}: container {c['name']}, expected {role}"
        if c.get("command") != ["/opt/saffron/launch.sh", ROLES[role]]:
            yield f"{title(o)}: command {c.get('command')}"
        if o["metadata"]["name"] != f"saffron-{role}":
            yield f"{title(o)}: expected the name saffron-{role}"


def variables(world):
    known = program.variables()
    for o in role_sets(world.objects).values():
        env = environment(world.objects, containers(o)[0])
        for name in env:
            if name not in known and not name.startswith("NCCL_"):
                yield f"{title(o)}: nothing reads {name}"
        for name in ("SAFFRON_JOB", "SAFFRON_BIND", "REPLICA_SIZE"):
            if not env.get(name):
                yield f"{title(o)}: no {name}"
        if "REPLICA_INDEX" in env:
            yield f"{title(o)}: REPLICA_INDEX is the same for all pods"


def nats(world):
    """The address that roles are given, and those that servers of a cluster have of each other."""
    server = find(world.objects, "StatefulSet", "saffron-nats")
    listens = program.nats_ports(world.objects)
    want = f"nats://{server['spec']['serviceName']}:{listens['client'].start}"
    for o in role_sets(world.objects).values():
        if environment(world.objects, containers(o)[0]).get("SAFFRON_NATS_URL") != want:
            yield f"{title(o)}: SAFFRON_NATS_URL, expected {want}"
    pods = range(server["spec"]["replicas"])
    names = [f"saffron-nats-{i}.{server['spec']['serviceName']}" for i in pods] if len(pods) > 1 else []
    port = listens.get("cluster", range(1)).start
    if program.nats_routes(world.objects) != [f"{name}:{port}" for name in names]:
        yield f"routes {program.nats_routes(world.objects)}, expected one to each of {len(pods)} servers"
    service = find(world.objects, "Service", server["spec"]["serviceName"])
    if len(pods) > 1 and not service["spec"].get("publishNotReadyAddresses"):
        yield f"{title(service)}: servers that are not ready do not find each other"


def job(world):
    files = job_files(world.objects)
    if set(files) != {"global.yml", "data.yml", "embedding.yml", "model.yml"}:
        yield f"the job's files are {sorted(files)}"
    for o in of_kind(world.objects, "ConfigMap"):
        if sum(len(text) for text in o.get("data", {}).values()) > APPLY_MAX:
            yield f"{title(o)}: over 256 KiB, which `kubectl apply` does not take"


# ---- what happens to it ----

def budgets(world):
    for o in of_kind(world.objects, "StatefulSet"):
        budgets_there = of_kind(world.objects, "PodDisruptionBudget")
        mine = [b for b in budgets_there if selects(b["spec"]["selector"], labels_of(o))]
        if len(mine) != 1:
            yield f"{title(o)}: {len(mine)} disruption budgets"
            continue
        for complaint in own_pods(world, mine[0]["spec"]["selector"], o):
            yield f"{title(mine[0])}: {complaint}"
        limit = mine[0]["spec"].get("maxUnavailable")
        if (limit == 0) != (component(o) == "embedding-server"):
            yield f"{title(mine[0])}: maxUnavailable {limit}"


def endings(world):
    for o in of_kind(world.objects, "StatefulSet"):
        if pod_of(o)["spec"].get("terminationGracePeriodSeconds") not in GRACE_SECONDS:
            yield f"{title(o)}: terminationGracePeriodSeconds is not in {GRACE_SECONDS.start}..{GRACE_SECONDS.stop - 1}"
        strategy = o["spec"].get("updateStrategy", {}).get("type", "RollingUpdate")
        if (strategy == "OnDelete") != (component(o) == "embedding-server"):
            yield f"{title(o)}: updateStrategy {strategy}"


def spread(world):
    for o in of_kind(world.objects, "StatefulSet"):
        constraints = pod_of(o)["spec"].get("topologySpreadConstraints", [])
        keys = {t["topologyKey"]: t["whenUnsatisfiable"] for t in constraints}
        if "kubernetes.io/hostname" not in keys:
            yield f"{title(o)}: its pods may all go to one node"
        elif component(o) == "nats" and o["spec"]["replicas"] > 1 and "DoNotSchedule" not in keys.values():
            yield f"{title(o)}: servers of a cluster may share a node"


RULES = {
    rule.__module__ + "." + rule.__name__: rule
    for rule in (names, references, selectors, services, labels, container_ports, service_ports, probes, replica_size,
                 sizes, gpus, resources, promised, batch_memory, shared_memory, mounts, folders, claims, images,
                 commands, variables, nats, job, budgets, endings, spread, restricted.namespace, restricted.pods,
                 restricted.beyond, arrows.exact, arrows.denied, arrows.nobody)
}
