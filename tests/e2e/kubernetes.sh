#!/usr/bin/env bash
# Manifests without a cluster: rendered by kubectl, read by the schemas of Kubernetes and by our own rules, and every
# container started as they say, to see what it listens on and what answers its probes; NATS as a cluster, too.
. "$(dirname "$0")/lib.sh"
command -v kubectl >/dev/null || skip "no kubectl: manifests cannot be rendered"
kubectl kustomize k8s/base >/dev/null 2>"$work/err" ||
    { grep -q 'unknown field\|unknown command' "$work/err" && skip "this kubectl is too old: $(head -n 1 "$work/err")"; }
[ ! -x build/venv/bin/python ] || python=build/venv/bin/python
"$python" -c 'import yaml' 2>/dev/null || skip "no Python package yaml: manifests cannot be read"

folders=()
[ ! -f k8s/monitoring/kustomization.yaml ] || folders+=(k8s/monitoring)
"$python" tests/k8s/check.py "${folders[@]}"
schemas=$?
[ "$schemas" -eq 0 ] || [ "$schemas" -eq 77 ] || fail "the manifests are not as they should be"

"$python" tests/k8s/listen.py "$B" small large
network=$?
[ "$network" -eq 0 ] || [ "$network" -eq 77 ] || fail "a container does not do what its manifest says"
if [ "$network" -eq 0 ]; then
    "$python" tests/k8s/cluster.py || fail "the servers of NATS are not a cluster"
fi

[ "$schemas" -eq 0 ] || skip "the rules hold, but there are no schemas: no Python package kubernetes-validate"
[ "$network" -eq 0 ] || skip "the manifests are right, but what listens was not seen: no network namespace can be made"
exit 0
