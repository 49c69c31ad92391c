"""For every rule, manifests that break it: a rule that nothing breaks checks nothing.

A row is (rule, overlay, what is wrong, a change to the rendered objects). The changes are small slips, as a hand makes
them; check.py demands that the rule complains of each."""
from render import containers, find, pod_of


def put(kind, name, path, value):
    """A change that sets one field; numbers in the path are places in a list, "+" is its end, None removes."""

    def change(objects):
        at, *rest = [int(k) if k.isdigit() else k for k in path.split("/")]
        o = find(objects, kind, name)
        while rest:
            o, at, rest = o[at], rest[0], rest[1:]
        if at == "+":
            o.append(value)
        elif value is None:
            del o[at]
        else:
            o[at] = value

    return change


def pod(role, path, value):
    return put("StatefulSet", f"saffron-{role}", f"spec/template/spec/{path}", value)


def box(role, path, value):
    """A field of the role's container."""
    return pod(role, f"containers/0/{path}", value)


def without(kind, name):
    return lambda objects: objects.remove(find(objects, kind, name))


def env(role, name, value):
    """None removes it."""

    def change(objects):
        variables = containers(find(objects, "StatefulSet", f"saffron-{role}"))[0]["env"]
        variables[:] = [e for e in variables if e["name"] != name]
        if value is not None:
            variables.append({"name": name, "value": value})

    return change


def volume(role, name, value):
    def change(objects):
        volumes = pod_of(find(objects, "StatefulSet", f"saffron-{role}"))["spec"]["volumes"]
        volumes[[v["name"] for v in volumes].index(name)] = {"name": name, **value}

    return change


def mount(role, name, key, value):
    def change(objects):
        c = containers(find(objects, "StatefulSet", f"saffron-{role}"))[0]
        next(m for m in c["volumeMounts"] if m["name"] == name)[key] = value

    return change


def policy(name, path, value):
    return put("NetworkPolicy", name, f"spec/{path}", value)


def port(role, name, number):
    def change(objects):
        c = containers(find(objects, "StatefulSet", f"saffron-{role}"))[0]
        next(p for p in c["ports"] if p["name"] == name)["containerPort"] = number

    return change


def conf(name, file, old, new):
    """A ConfigMap's file with other words."""

    def change(objects):
        data = find(objects, "ConfigMap", name)["data"]
        assert old in data[file], f"{file} does not hold '{old}'"
        data[file] = data[file].replace(old, new)

    return change


def said(old, new):
    """Other words in the job's global.yml."""
    return conf("saffron-job", "global.yml", old, new)


def twice(kind, name, second=None):
    """Once more, under another name if one is given."""

    def change(objects):
        o = find(objects, kind, name)
        objects.append({**o, "metadata": {**o["metadata"], "name": second or o["metadata"]["name"]}})

    return change


SET, SERVICE, BUDGET, CLAIM, MAP = "StatefulSet", "Service", "PodDisruptionBudget", "PersistentVolumeClaim", "ConfigMap"
PART = "app.kubernetes.io/component"
OPEN = {"ports": [{"port": 7300, "protocol": "TCP"}]}
EVERYWHERE = [{"ipBlock": {"cidr": "0.0.0.0/0"}}]

ROWS = [
    # names and what they refer to
    ("names", "small", "an object twice", twice(SERVICE, "saffron-trainer")),
    ("names", "small", "another namespace", put(SERVICE, "saffron-trainer", "metadata/namespace", "default")),
    ("references", "small", "no such ConfigMap", volume("trainer", "job", {"configMap": {"name": "saffron-jobs"}})),
    ("references", "small", "no claim of the data", without(CLAIM, "saffron-data")),
    ("references", "small", "no environment", without(MAP, "saffron-environment")),
    ("references", "small", "a ConfigMap that nobody mounts", twice(MAP, "saffron-nats", "other-1")),
    ("selectors", "small", "pods are not those of the set",
     put(SET, "saffron-middleware", "spec/selector/matchLabels/app", "middleware")),
    ("selectors", "small", "the set selects all pods",
     put(SET, "saffron-middleware", "spec/selector", {"matchLabels": {"app.kubernetes.io/part-of": "saffron"}})),
    ("selectors", "small", "a service of nobody", put(SERVICE, "saffron-nats", "spec/selector", {"app": "nats"})),
    ("selectors", "small", "spread over another role's pods",
     pod("trainer", "topologySpreadConstraints/0/labelSelector", {"matchLabels": {PART: "middleware"}})),
    ("services", "small", "serviceName of no service", put(SET, "saffron-trainer", "spec/serviceName", "trainer")),
    ("services", "small", "a service with an address", put(SERVICE, "saffron-trainer", "spec/clusterIP", "10.0.0.1")),
    ("services", "small", "serviceName of another role",
     put(SET, "saffron-trainer", "spec/serviceName", "saffron-middleware")),
    ("services", "small", "one pod after the other",
     put(SET, "saffron-trainer", "spec/podManagementPolicy", "OrderedReady")),
    ("labels", "small", "a label left out", put(SERVICE, "saffron-nats", "metadata/labels", {PART: "nats"})),
    ("labels", "small", "pods of another version",
     put(SET, "saffron-trainer", "spec/template/metadata/labels", {PART: "trainer"})),

    # ports and probes
    ("container_ports", "small", "a port that nobody listens on", port("middleware", "data", 7101)),
    ("container_ports", "small", "two of one name",
     box("middleware", "ports/+", {"name": "data", "containerPort": 7100})),
    ("container_ports", "large", "a loop without its port", box("middleware", "ports/0", None)),
    ("container_ports", "large", "more workers than ports", said("workers: 16", "workers: 17")),
    ("container_ports", "small", "ports moved by the job", said("seed: 1", "ports: {admin: 9200}")),
    ("container_ports", "small", "loops by the node's cores", said("{loops: 1,", "{")),
    ("container_ports", "large", "fewer ranks than ports", env("trainer", "NPROC_PER_NODE", "4")),
    ("container_ports", "small", "NATS listens elsewhere",
     conf("saffron-nats", "nats.conf", "port: 4222", "port: 4223")),
    ("service_ports", "small", "no such port", put(SERVICE, "saffron-trainer", "spec/ports/0/targetPort", "dada")),
    ("service_ports", "small", "another number", put(SERVICE, "saffron-trainer", "spec/ports/0/port", 80)),
    ("probes", "small", "a path that is not there", box("trainer", "livenessProbe/httpGet/path", "/health")),
    ("probes", "small", "alive only when ready", box("trainer", "livenessProbe/httpGet/path", "/readyz")),
    ("probes", "small", "the data port", box("middleware", "readinessProbe/httpGet/port", "data")),
    ("probes", "small", "no start-up probe", box("embedding-server", "startupProbe", None)),
    ("probes", "small", "restarted after 6 s", box("embedding-server", "livenessProbe/periodSeconds", 1)),

    # counts and sizes
    ("replica_size", "small", "two, told of one", put(SET, "saffron-trainer", "spec/replicas", 2)),
    ("replica_size", "large", "not told", env("embedding-server", "REPLICA_SIZE", None)),
    ("sizes", "large", "a trainer less", put(SET, "saffron-trainer", "spec/replicas", 7)),
    ("sizes", "large", "half the memory", box("embedding-server", "resources/limits/memory", "1250Gi")),
    ("sizes", "large", "four ranks for eight GPUs", env("trainer", "NPROC_PER_NODE", "4")),
    ("sizes", "small", "a role left out", without(SET, "saffron-middleware")),
    ("gpus", "large", "no toleration", pod("trainer", "tolerations", None)),
    ("gpus", "large", "any node", pod("trainer", "nodeSelector", None)),
    ("gpus", "large", "any network", env("trainer", "NCCL_SOCKET_IFNAME", None)),
    ("gpus", "large", "the image without CUDA", box("trainer", "image", "saffron:0.1.0")),
    ("resources", "small", "no limits", box("middleware", "resources/limits", None)),
    ("resources", "small", "no request of memory", box("nats", "resources/requests/memory", None)),
    ("resources", "small", "asks for more than its limit", box("trainer", "resources/requests/memory", "3Gi")),
    ("promised", "small", "lends out what it has", box("embedding-server", "resources/requests/memory", "256Mi")),
    ("batch_memory", "small", "the default of the job", said(", memory: 536870912", "")),
    ("batch_memory", "large", "a loop more", said("loops: 8", "loops: 12")),
    ("shared_memory", "small", "on a disk", volume("trainer", "shm", {"emptyDir": {}})),
    ("shared_memory", "small", "at another place", mount("trainer", "shm", "mountPath", "/shm")),
    ("shared_memory", "small", "without a limit", volume("trainer", "shm", {"emptyDir": {"medium": "Memory"}})),

    # files
    ("mounts", "small", "a volume that is not there", mount("trainer", "run", "name", "scratch")),
    ("folders", "small", "data that can be written", mount("trainer", "data", "readOnly", False)),
    ("folders", "small", "data mounted elsewhere", mount("data-compose", "data", "mountPath", "/mnt")),
    ("folders", "small", "checkpoints that cannot be written",
     mount("embedding-server", "checkpoints", "readOnly", True)),
    ("folders", "small", "no place for checkpoints", env("trainer", "SAFFRON_CHECKPOINT_DIR", None)),
    ("folders", "small", "checkpoints of a middleware", env("middleware", "SAFFRON_CHECKPOINT_DIR", "/run/saffron")),
    ("folders", "small", "scratch on the image",
     conf("saffron-environment", "SAFFRON_RUN_DIR", "/run/saffron", "/var/run")),
    ("claims", "large", "one node's data", put(CLAIM, "saffron-data", "spec/accessModes", ["ReadWriteOnce"])),
    ("claims", "large", "one node's checkpoints",
     put(CLAIM, "saffron-checkpoints", "spec/accessModes", ["ReadWriteOnce"])),

    # what runs
    ("images", "small", "no tag", box("trainer", "image", "saffron")),
    ("images", "small", "latest", box("nats", "image", "nats:latest")),
    ("images", "small", "a registry with a port, no tag", box("nats", "image", "registry:5000/nats")),
    ("images", "small", "half a version", box("nats", "image", "nats:2-alpine")),
    ("images", "small", "another version of ours", box("trainer", "image", "saffron:0.0.9")),
    ("commands", "small", "the program's name", box("data-compose", "command/1", "data-compose")),
    ("commands", "small", "another role", box("embedding-server", "command/1", "middleware")),
    ("commands", "small", "another container", box("trainer", "name", "main")),
    ("variables", "small", "a slip of the pen", env("trainer", "SAFFRON_NAT_URL", "nats://saffron-nats:4222")),
    ("variables", "small", "one index for all", env("trainer", "REPLICA_INDEX", "0")),
    ("variables", "small", "on the loopback", conf("saffron-environment", "SAFFRON_BIND", "0.0.0.0", "")),
    ("nats", "small", "another port", conf("saffron-environment", "SAFFRON_NATS_URL", "4222", "4223")),
    ("nats", "large", "more servers than routes", put(SET, "saffron-nats", "spec/replicas", 5)),
    ("nats", "large", "found only when ready", put(SERVICE, "saffron-nats", "spec/publishNotReadyAddresses", False)),
    ("job", "small", "a file left out", put(MAP, "saffron-job", "data", {"global.yml": ""})),
    ("job", "small", "too large", put(MAP, "saffron-nats", "data/more", "x" * (256 << 10))),

    # what happens to it
    ("budgets", "small", "none", without(BUDGET, "saffron-nats")),
    ("budgets", "small", "of another role",
     put(BUDGET, "saffron-nats", "spec/selector/matchLabels", {PART: "trainer"})),
    ("budgets", "small", "rows may be evicted", put(BUDGET, "saffron-embedding-server", "spec/maxUnavailable", 1)),
    ("budgets", "small", "no node can be drained", put(BUDGET, "saffron-trainer", "spec/maxUnavailable", 0)),
    ("endings", "small", "at once", pod("trainer", "terminationGracePeriodSeconds", 0)),
    ("endings", "small", "never", pod("trainer", "terminationGracePeriodSeconds", 86400)),
    ("endings", "small", "servers replaced by an update",
     put(SET, "saffron-embedding-server", "spec/updateStrategy", {})),
    ("spread", "small", "all on one node", pod("middleware", "topologySpreadConstraints", None)),
    ("spread", "large", "all of NATS on one node",
     pod("nats", "topologySpreadConstraints/0/whenUnsatisfiable", "ScheduleAnyway")),

    # Pod Security
    ("namespace", "small", "baseline only",
     put("Namespace", "saffron", "metadata/labels", {"pod-security.kubernetes.io/enforce": "baseline"})),
    ("namespace", "small", "not made here", without("Namespace", "saffron")),
    ("pods", "small", "the host's network", pod("trainer", "hostNetwork", True)),
    ("pods", "small", "the host's files", volume("trainer", "run", {"hostPath": {"path": "/run"}})),
    ("pods", "small", "as root", pod("middleware", "securityContext/runAsNonRoot", None)),
    ("pods", "small", "as user 0", box("middleware", "securityContext/runAsUser", 0)),
    ("pods", "small", "no seccomp", pod("nats", "securityContext/seccompProfile", None)),
    ("pods", "small", "seccomp off", box("nats", "securityContext/seccompProfile", {"type": "Unconfined"})),
    ("pods", "small", "privileged", box("trainer", "securityContext/privileged", True)),
    ("pods", "small", "escalation", box("trainer", "securityContext/allowPrivilegeEscalation", None)),
    ("pods", "small", "keeps capabilities", box("trainer", "securityContext/capabilities", {"drop": ["NET_RAW"]})),
    ("pods", "small", "adds a capability", box("trainer", "securityContext/capabilities/add", ["SYS_PTRACE"])),
    ("pods", "small", "a port of the host", box("trainer", "ports/0/hostPort", 7600)),
    ("pods", "large", "an unsafe sysctl", pod("trainer", "securityContext/sysctls/0/name", "net.core.somaxconn")),
    ("pods", "small", "a container that starts first, as root",
     pod("trainer", "initContainers", [{"name": "chown", "image": "saffron:0.1.0"}])),
    ("beyond", "small", "a token of the cluster", pod("trainer", "automountServiceAccountToken", True)),
    ("beyond", "small", "services in the environment", pod("trainer", "enableServiceLinks", None)),
    ("beyond", "small", "a root that can be written", box("trainer", "securityContext/readOnlyRootFilesystem", False)),

    # arrows
    ("denied", "small", "no default", without("NetworkPolicy", "default-deny")),
    ("denied", "small", "no default for egress", policy("default-deny", "policyTypes", ["Ingress"])),
    ("denied", "small", "a default that allows", policy("default-deny", "ingress", [{}])),
    ("nobody", "small", "no such role", policy("saffron-trainer", "podSelector", {"matchLabels": {PART: "trainers"}})),
    ("exact", "small", "composers ask for rows", policy("saffron-embedding-server", "ingress/0/from/+",
                                                       {"podSelector": {"matchLabels": {PART: "data-compose"}}})),
    ("exact", "small", "all pods ask for rows",
     policy("saffron-embedding-server", "ingress/0/from/+", {"podSelector": {}})),
    ("exact", "small", "anybody asks for rows", policy("saffron-embedding-server", "ingress/0", OPEN)),
    ("exact", "small", "every port", policy("saffron-embedding-server", "ingress/0/ports", None)),
    ("exact", "small", "a longer range", policy("saffron-middleware", "ingress/0/ports/0/endPort", 7101)),
    ("exact", "small", "a port of old", policy("saffron-data-compose", "egress/0/ports/0/port", 7099)),
    ("exact", "large", "a shorter range", policy("saffron-middleware", "egress/0/ports/0/endPort", 7314)),
    ("exact", "small", "another protocol", policy("saffron-middleware", "egress/0/ports/0/protocol", "UDP")),
    ("exact", "small", "the way out is missing", policy("saffron-data-compose", "egress/1", None)),
    ("exact", "small", "the way in is missing", policy("saffron-trainer", "ingress", None)),
    ("exact", "small", "a list whose type is not named", policy("saffron-middleware", "policyTypes", ["Egress"])),
    ("exact", "small", "the world outside", policy("saffron-trainer", "egress/0/to", EVERYWHERE)),
    ("exact", "small", "no names", without("NetworkPolicy", "saffron-dns")),
    ("exact", "small", "names of anybody", policy("saffron-dns", "egress/0/to", [{"namespaceSelector": {}}])),
    ("exact", "small", "names over UDP only", policy("saffron-dns", "egress/0/ports/1", None)),
    ("exact", "small", "metrics for every namespace",
     policy("saffron-admin", "ingress/0/from", [{"namespaceSelector": {}}])),
    ("exact", "small", "metrics for every pod", policy("saffron-admin", "ingress/0/from", [{"podSelector": {}}])),
    ("exact", "small", "the monitoring port of NATS", policy("saffron-nats", "ingress/0/ports/+", {"port": 8222})),
    ("exact", "small", "a role without NATS", policy("saffron-nats", "ingress/0/from", [
        {"podSelector": {"matchExpressions": [{"key": PART, "operator": "In", "values": ["trainer"]}]}}])),
    ("exact", "small", "arrows only in a cluster of NATS", policy("saffron-nats", "ingress/0/ports/+", {"port": 6222})),
    ("exact", "large", "no arrows in a cluster of NATS", policy("saffron-nats", "egress", None)),
    ("exact", "large", "ranks' metrics", policy("saffron-trainer", "ingress/2", None)),
    ("exact", "large", "NCCL on all its ports", pod("trainer", "securityContext/sysctls", None)),
    ("exact", "large", "NCCL beside its range", pod("trainer", "securityContext/sysctls/0/value", "20000 30000")),
    ("exact", "small", "ports moved by the job", said("seed: 1", "ports: {trainer: 8000}")),
    ("exact", "small", "a gateway that cannot be reached",
     put(MAP, "saffron-environment", "data/SAFFRON_METRICS_GATEWAY_ADDR", "gateway.monitoring:9091")),
]
