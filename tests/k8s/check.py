"""Overlays of k8s/ against the schemas of Kubernetes and our own rules; and the rules against counter-examples.

    check.py [FOLDER...]          further folders, only against the schemas
    check.py --rendered FILE      what somebody's own overlay came to, against our rules alone

Prints a line per finding and what was checked; the status is 1 when something was found, and 77 when all is well but
the package kubernetes-validate is not there, so that no schema was read."""
import copy
import json
import os
import re
import shutil
import sys
import tempfile

import yaml

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import counter_examples  # noqa: E402 (beside this file)
import rules  # noqa: E402
from render import containers, find, labels_of, render, selects, title  # noqa: E402

try:
    import kubernetes_validate
except ImportError:
    kubernetes_validate = None

OVERLAYS = ("small", "large")
RESTRICTED = [rule for name, rule in rules.RULES.items() if name.startswith("restricted.")]
VERSIONS = ("1.27", "1.37")  # the oldest that knows all that we say, and the newest that the package knows

findings = []
read = set()  # objects that the schemas have read


def found(what):
    findings.append(what)
    print("  " + what)


def schemas(folder, objects):
    """Strict: a field that the schema does not know is an error, not a slip that the cluster passes over."""
    news = [o for o in objects if json.dumps(o) not in read]
    read.update(json.dumps(o) for o in news)
    for version in VERSIONS if kubernetes_validate else ():
        for o in news:
            try:
                kubernetes_validate.validate(o, version, strict=True)
            except kubernetes_validate.SchemaNotFoundError:
                # Another project's kind; its own tools have its schema.
                if o["apiVersion"].partition("/")[0].endswith((".k8s.io", "apps", "policy", "v1")):
                    found(f"{folder}: {title(o)}: no {o['apiVersion']} in Kubernetes {version}")
            except kubernetes_validate.ValidationError as e:
                at = ".".join(str(k) for k in e.path)
                found(f"{folder}: {title(o)}: Kubernetes {version}: {at}: {e.message}")


def schemas_refuse(objects):
    """The check itself: a misspelled field has to be seen."""
    slip = copy.deepcopy(next(o for o in objects if o["kind"] == "StatefulSet"))
    slip["spec"]["template"]["spec"]["terminationGracePeriodSecond"] = 30
    before = len(findings)
    for version in VERSIONS if kubernetes_validate else ():
        try:
            kubernetes_validate.validate(slip, version, strict=True)
            found(f"the schemas of {version} pass a field that is none")
        except kubernetes_validate.ValidationError:
            pass
    return len(findings) == before


def render_with(name, change):
    """An overlay whose kustomization.yaml is another text, in a copy of the tree."""
    with tempfile.TemporaryDirectory() as copy_of:
        for folder in ("k8s", "configs"):
            shutil.copytree(folder, f"{copy_of}/{folder}")
        path = f"{copy_of}/k8s/overlays/{name}/kustomization.yaml"
        with open(path) as f:
            text = f.read()
        with open(path, "w") as f:
            f.write(change(text))
        return render(os.path.dirname(path))


def replicas_elsewhere(name):
    """Counts changed in the one place where they stand: REPLICA_SIZE has to follow."""

    def change(text):
        for role in rules.ROLES:
            there = f"name: saffron-{role}, count: {rules.SIZES[name][role][0]}}}"
            if text.count(there) != 1:
                found(f"overlay {name}: expected one '{there}'")
            text = text.replace(there, f"name: saffron-{role}, count: 17}}")
        return text

    objects = render_with(name, change)
    for complaint in rules.replica_size(rules.World(name, objects)):
        found(f"{name}, with 17 of each: {complaint}")
    for o in rules.role_sets(objects).values():
        if o["spec"]["replicas"] != 17:
            found(f"{name}: replicas of {title(o)} stand elsewhere, too")


def push_gateway():
    """The component beside an overlay: what it opens is what the environment then needs, and no more."""
    objects = render_with("small", lambda text: text + "components: [../../push-gateway]\n")
    schemas("k8s/push-gateway", objects)
    for rule in rules.RULES.values():
        for complaint in rule(rules.World("small", objects)):
            found(f"k8s/push-gateway: {rule.__name__}: {complaint}")
    if "SAFFRON_METRICS_GATEWAY_ADDR" not in find(objects, "ConfigMap", "saffron-environment")["data"]:
        found("k8s/push-gateway: no SAFFRON_METRICS_GATEWAY_ADDR")


def loader(objects):
    """The pod that fills the claim, and the label by which README.md applies the claim alone."""
    with open("k8s/loader.yaml") as f:
        pod = list(yaml.safe_load_all(f))
    schemas("k8s/loader.yaml", pod)
    world = rules.World("small", objects + pod)
    for rule in (rules.references, rules.mounts, rules.resources, rules.images, rules.names, *RESTRICTED):
        for complaint in rule(world):
            found(f"k8s/loader.yaml: {rule.__name__}: {complaint}")
    data = [title(o) for o in objects if o["metadata"].get("labels", {}).get("app.kubernetes.io/component") == "data"]
    if data != ["PersistentVolumeClaim saffron-data"]:
        found(f"component=data are {data}")


def scraped(monitors, world):
    """A PodMonitor that selects every role's pods and knows every admin port by its name."""
    for o in rules.role_sets(world.objects).values():
        admin = {p["name"] for p in containers(o)[0]["ports"] if p["name"].startswith("admin")}
        names = {e["port"] for m in monitors if selects(m["spec"]["selector"], labels_of(o))
                 for e in m["spec"]["podMetricsEndpoints"]}
        if not admin <= names:
            found(f"{world.name}: {title(o)}: nobody scrapes {', '.join(sorted(admin - names))}")


def page(objects):
    """What the commands of k8s/README.md name is there."""
    with open("k8s/README.md") as f:
        text = f.read()
    commands = re.findall(r"^    (kubectl .*)$", text, re.M)
    if not commands:
        found("k8s/README.md: no command")
    names = {o["metadata"]["name"] for o in objects} | {"saffron-loader"}
    for command in commands:
        for path in re.findall(r"(?<=\s)k8s/\S+", command):
            if not os.path.exists(path):
                found(f"k8s/README.md: {command}: no {path}")
        for name in re.findall(r"saffron-[a-z-]*[a-z](?:-\d+)?\b", command):
            if re.sub(r"-\d+$", "", name) not in names:
                found(f"k8s/README.md: {command}: nothing is called {name}")


def same_job():
    """The small overlay has a global.yml of its own; what configs/adult says there has to hold in it, too."""
    text = {}
    for path in ("configs/adult/global.yml", "k8s/overlays/small/global.yml"):
        with open(path) as f:
            text[path] = yaml.safe_load(f)
    theirs, ours = text.values()
    for key, value in theirs.items():
        if ours.get(key) != value:
            found(f"k8s/overlays/small/global.yml: {key} is {ours.get(key)}, in configs/adult {value}")


def rendered(path):
    """All rules but the one that knows our overlays' sizes."""
    with open(path) as f:
        world = rules.World(path, [o for o in yaml.safe_load_all(f) if o])
    for rule in rules.RULES.values():
        for complaint in rule(world) if rule is not rules.sizes else ():
            found(f"{rule.__name__}: {complaint}")
    return 1 if findings else 0


def main(folders):
    worlds = {}
    for name in OVERLAYS:
        folder = f"k8s/overlays/{name}"
        worlds[name] = rules.World(name, render(folder))
        schemas(folder, worlds[name].objects)
        for rule in rules.RULES.values():
            for complaint in rule(worlds[name]):
                found(f"{folder}: {rule.__name__}: {complaint}")
        replicas_elsewhere(name)
    schemas_refuse(worlds["small"].objects)
    same_job()
    page(worlds["small"].objects)
    push_gateway()
    loader(worlds["small"].objects)
    for folder in ["k8s/base", *folders]:
        objects = render(folder)
        schemas(folder, objects)
        monitors = [o for o in objects if o["kind"] == "PodMonitor"]
        for world in worlds.values() if monitors else ():
            scraped(monitors, world)

    by_name = {rule.__name__: rule for rule in rules.RULES.values()}
    for rule, overlay, what, change in counter_examples.ROWS:
        world = rules.World(overlay, copy.deepcopy(worlds[overlay].objects))
        change(world.objects)
        if not list(by_name[rule](world)):
            found(f"counter-example '{rule}: {what}' passes the rule")
    for name in sorted(set(by_name) - {row[0] for row in counter_examples.ROWS}):
        found(f"rule {name} has no counter-example")

    count = sum(len(w.objects) for w in worlds.values())
    print(f"{count} objects of {len(worlds)} overlays, {len(rules.RULES)} rules, "
          f"{len(counter_examples.ROWS)} counter-examples, "
          + (f"schemas of Kubernetes {' and '.join(VERSIONS)} (kubernetes-validate {kubernetes_validate.__version__})"
             if kubernetes_validate else "no schemas"))
    if not findings and not kubernetes_validate:
        return 77
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(rendered(sys.argv[2]) if sys.argv[1:2] == ["--rendered"] else main(sys.argv[1:]))
