"""Pod Security "restricted" (Kubernetes' Pod Security Standards), as complaints about rendered objects."""
from render import containers, of_kind, pod_of, title, workloads

VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
SYSCTLS = {
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
}


def namespace(world):
    """Namespaces that hold pods enforce the profile."""
    spaces = {o["metadata"].get("namespace") for o in workloads(world.objects)}
    for o in of_kind(world.objects, "Namespace"):
        spaces.discard(o["metadata"]["name"])
        if o["metadata"].get("labels", {}).get("pod-security.kubernetes.io/enforce") != "restricted":
            yield f"{title(o)}: does not enforce the restricted profile"
    for name in spaces:
        yield f"namespace {name}: holds pods and is not made here"


def pods(world):
    for o in workloads(world.objects):
        for complaint in of_pod(pod_of(o)["spec"]):
            yield f"{title(o)}: {complaint}"


def of_pod(spec):
    security = spec.get("securityContext", {})
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(key):
            yield key
    for volume in spec.get("volumes", []):
        kinds = set(volume) - {"name"}
        if not kinds <= VOLUMES:
            yield f"volume {volume['name']} of type {', '.join(kinds)}"
    for s in security.get("sysctls", []):
        if s["name"] not in SYSCTLS:
            yield f"sysctl {s['name']}"
    for container in containers({"kind": "Pod", "spec": spec}):
        for complaint in of_container(container, security):
            yield f"container {container['name']}: {complaint}"


def of_container(container, pod):
    own = container.get("securityContext", {})
    both = {**pod, **own}
    if own.get("privileged"):
        yield "privileged"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation is not false"
    capabilities = own.get("capabilities", {})
    if "ALL" not in capabilities.get("drop", []):
        yield "does not drop all capabilities"
    if set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
        yield f"adds capabilities {capabilities['add']}"
    if both.get("runAsNonRoot") is not True:
        yield "runAsNonRoot is not true"
    if not both.get("runAsUser"):
        yield "runs as user 0, or as whom the image says"
    if both.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
        yield "no seccomp profile"
    if own.get("procMount", "Default") != "Default":
        yield f"procMount {own['procMount']}"
    if both.get("seLinuxOptions", {}).get("type", "") not in ("", "container_t", "container_init_t", "container_kvm_t"):
        yield "seLinuxOptions of another type"
    if both.get("appArmorProfile", {}).get("type") == "Unconfined":
        yield "AppArmor: Unconfined"
    for port in container.get("ports", []):
        if port.get("hostPort"):
            yield f"hostPort {port['hostPort']}"


def beyond(world):
    """What the profile does not ask for, and we do."""
    for o in workloads(world.objects):
        spec = pod_of(o)["spec"]
        if spec.get("automountServiceAccountToken") is not False:
            yield f"{title(o)}: a token of the cluster is mounted"
        if spec.get("enableServiceLinks") is not False:
            yield f"{title(o)}: services of the namespace get into the environment"
        for c in containers(o):
            if c.get("securityContext", {}).get("readOnlyRootFilesystem") is not True:
                yield f"{title(o)}: container {c['name']}: the root can be written"
