"""Manifests as kubectl renders them, and the few questions that every rule asks of them."""
import subprocess

import yaml

ROLES = {  # component: its word to launch.sh
    "data-compose": "datacompose",
    "middleware": "middleware",
    "embedding-server": "embserver",
    "trainer": "trainer",
}
Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same in C, ten times as fast
COMPONENT = "app.kubernetes.io/component"


def render(folder):
    done = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"kubectl kustomize {folder}: {done.stderr.strip()}")
    return [o for o in yaml.load_all(done.stdout, Loader=Loader) if o]


def title(o):
    return f"{o['kind']} {o['metadata']['name']}"


def of_kind(objects, *kinds):
    return [o for o in objects if o["kind"] in kinds]


def find(objects, kind, name):
    """One object; of a ConfigMap the name without its hash will do."""
    for o in of_kind(objects, kind):
        full = o["metadata"]["name"]
        if full == name or kind == "ConfigMap" and full.rpartition("-")[0] == name:
            return o
    raise KeyError(f"no {kind} {name}")


def workloads(objects):
    """Whatever has pods, of any kind: rules about pods hold for a Job or a Pod that somebody adds, too."""
    return [o for o in objects if pod_of(o) is not None]


def pod_of(o):
    """Pod template (or Pod) as {metadata, spec}; None where there is none."""
    if o["kind"] == "Pod":
        return o
    if o["kind"] == "CronJob":
        return o["spec"]["jobTemplate"]["spec"]["template"]
    return o.get("spec", {}).get("template") if isinstance(o.get("spec"), dict) else None


def labels_of(o):
    return pod_of(o)["metadata"].get("labels", {})


def component(o):
    return labels_of(o).get(COMPONENT)


def containers(o):
    spec = pod_of(o)["spec"]
    return [c for key in ("initContainers", "containers", "ephemeralContainers") for c in spec.get(key, [])]


def role_sets(objects):
    """component -> StatefulSet of a role."""
    return {component(o): o for o in of_kind(objects, "StatefulSet") if component(o) in ROLES}


def selects(selector, labels):
    """What a LabelSelector says of these labels; {} selects everything."""
    for key, value in selector.get("matchLabels", {}).items():
        if labels.get(key) != value:
            return False
    for e in selector.get("matchExpressions", []):
        value, operator = labels.get(e["key"]), e["operator"]
        held = {
            "In": value in e.get("values", []),
            "NotIn": value not in e.get("values", []),
            "Exists": value is not None,
            "DoesNotExist": value is None,
        }[operator]
        if not held:
            return False
    return True


def environment(objects, container):
    """Name -> text, or None where the value is known in the cluster only."""
    env = {}
    for source in container.get("envFrom", []):
        if "configMapRef" in source:
            env.update(find(objects, "ConfigMap", source["configMapRef"]["name"])["data"])
    for e in container.get("env", []):
        env[e["name"]] = e.get("value")
    return env


def job_files(objects):
    """The job's four files as they will lie in /etc/saffron/job."""
    return find(objects, "ConfigMap", "saffron-job")["data"]
