"""NetworkPolicies against the arrows of the programs.

Policies are made flat: a set of (from, to, protocol, first port, last port), once for what may leave a pod and once for
what may enter it; an end is a component of ours, or "namespace/pod labels" of somebody else's. Both sets have to be
exactly what the code says."""
import program
from render import COMPONENT, ROLES, environment, containers, labels_of, of_kind, role_sets, selects, title, workloads

DNS = "kube-system/k8s-app=kube-dns"
GATEWAY = "monitoring/app.kubernetes.io/name=prometheus-pushgateway"
SPACE = "kubernetes.io/metadata.name"


def expected(objects):
    """(egress, ingress)"""
    listens = program.deployed(objects)
    inside = set()

    def arrow(source, target, ports):
        inside.add((source, target, "TCP", ports.start, ports.stop - 1))

    for server, callers in program.served_by_folder().items():
        for caller in callers:
            arrow(caller, server, listens[server]["data"])
    for role in ROLES:
        arrow(role, "nats", listens["nats"]["client"])
    if "cluster" in listens["nats"]:
        arrow("nats", "nats", listens["nats"]["cluster"])
    if program.nccl_range(objects):
        arrow("trainer", "trainer", program.nccl_range(objects))

    by_name = set(ROLES) | ({"nats"} if "cluster" in listens["nats"] else set())
    egress = inside | {(who, DNS, protocol, 53, 53) for who in by_name for protocol in ("UDP", "TCP")}
    ingress = inside | {
        ("monitoring/", role, "TCP", port, port) for role in ROLES for port in listens[role]["admin"]
    }
    gateway = {environment(objects, containers(o)[0]).get("SAFFRON_METRICS_GATEWAY_ADDR")
               for o in role_sets(objects).values()} - {None, ""}
    for address in gateway:
        port = int(address.rpartition(":")[2])
        egress |= {(role, GATEWAY, "TCP", port, port) for role in ROLES}
    return single(egress), single(ingress)


def single(arrows):
    """Ranges next to each other are the same as one: every port stands for itself."""
    return {(a, b, protocol, port) for a, b, protocol, low, high in arrows for port in range(low, high + 1)}


def ends(objects, peers):
    """What a from: or to: list means."""
    if not peers:
        yield "anybody"
    for peer in peers or []:
        if "ipBlock" in peer:
            yield f"addresses {peer['ipBlock']['cidr']}"
        elif "namespaceSelector" in peer:
            space = peer["namespaceSelector"].get("matchLabels", {})
            pods = peer.get("podSelector", {}).get("matchLabels", {})
            plain = set(space) == {SPACE} and not peer["namespaceSelector"].get("matchExpressions")
            text = ",".join(f"{k}={v}" for k, v in sorted(pods.items()))
            yield f"{space[SPACE] if plain else 'some namespace'}/{text}"
        else:
            yield from components(objects, peer["podSelector"])


def components(objects, selector):
    found = {labels_of(o).get(COMPONENT, "unnamed") for o in workloads(objects) if selects(selector, labels_of(o))}
    return found or {"nobody"}


def ports_of(rule):
    for p in rule.get("ports") or [{"port": 1, "endPort": 65535}]:
        low = p.get("port", 1)
        yield p.get("protocol", "TCP"), low, p.get("endPort", low if "port" in p else 65535)


def allowed(objects):
    """(egress, ingress) of all policies together; a list whose type the policy does not name has no effect."""
    out, into = set(), set()
    for policy in of_kind(objects, "NetworkPolicy"):
        spec = policy["spec"]
        mine = components(objects, spec["podSelector"])
        for key, peers, flat in (("egress", "to", out), ("ingress", "from", into)):
            rules = spec.get(key, []) if key.capitalize() in spec.get("policyTypes", []) else []
            for rule in rules:
                for other in ends(objects, rule.get(peers)):
                    for protocol, low, high in ports_of(rule):
                        pairs = {(m, other) if key == "egress" else (other, m) for m in mine}
                        flat |= {(a, b, protocol, low, high) for a, b in pairs}
    return single(out), single(into)


def told(arrows):
    """A few of them, for the complaint."""
    shown = sorted(arrows)[:3]
    more = f" and {len(arrows) - 3} more" if len(arrows) > 3 else ""
    return ", ".join(f"{a} -> {b} {protocol} {port}" for a, b, protocol, port in shown) + more


def exact(world):
    wanted, got = expected(world.objects), allowed(world.objects)
    for way, want, have in (("egress", wanted[0], got[0]), ("ingress", wanted[1], got[1])):
        if have - want:
            yield f"{way}: allowed, but no program needs it: {told(have - want)}"
        if want - have:
            yield f"{way}: needed, but not allowed: {told(want - have)}"


def denied(world):
    """Nothing else: a policy that selects every pod and allows nothing."""
    for policy in of_kind(world.objects, "NetworkPolicy"):
        spec = policy["spec"]
        if spec["podSelector"] == {} and set(spec.get("policyTypes", [])) == {"Ingress", "Egress"} \
                and not spec.get("ingress") and not spec.get("egress"):
            return
    yield "no policy denies all that the others do not allow"


def nobody(world):
    """A selector that selects no pod is a slip of the pen."""
    for policy in of_kind(world.objects, "NetworkPolicy"):
        if components(world.objects, policy["spec"]["podSelector"]) == {"nobody"}:
            yield f"{title(policy)}: selects no pod"
