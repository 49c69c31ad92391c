# tests/e2e/pods.sh -- overlays as pods in namespaces (tests/k8s/run_pods.py); sourced, never run (it is not executable).
# shellcheck shell=bash
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need_data adult
command -v kubectl >/dev/null || skip "no kubectl: manifests cannot be rendered"
[ ! -x build/venv/bin/python ] || python=build/venv/bin/python
"$python" -c 'import yaml' 2>/dev/null || skip "no Python package yaml: manifests cannot be read"
for program in ip nsenter nats-server; do
    command -v "$program" >/dev/null || skip "no program $program: pods cannot be started"
done

# all_enforced -- the last word of a script: pods that reach everybody prove no policy.
all_enforced() {
    ! grep -q 'policies not enforced' "$work/out" || skip "all but the network policies: no iptables here"
}

# run_overlay FOLDER AUC -- to a trained model of adult that is as good as that.
run_overlay() {
    # /opt/saffron as the image has it.
    mkdir -p "$work/tree/bin" "$work/node"
    cp -r launch.sh configs "$work/tree"
    cp "$B"/saffron "$B"/saffron-{data-compose,middleware,embedding-server,trainer} "$work/tree/bin"
    SLOW=$slow "$python" tests/k8s/run_pods.py "$1" "$work/tree" "$work/node" \
        "saffron-data=$(realpath "$data/adult")" >"$work/out" 2>"$work/err"
    status=$?
    cat "$work/out" "$work/err"
    [ "$status" -ne 77 ] || skip "$(tail -n 1 "$work/out")"
    [ "$status" -eq 0 ] || fail "exit status $status"
    "$python" -c 'import re, sys
auc = float(re.search(r"^auc=([0-9.]+) ", open(sys.argv[1]).read(), re.M).group(1))
sys.exit(not auc >= float(sys.argv[2]))' "$work/out" "$2" || fail "the AUC is below $2"
}
