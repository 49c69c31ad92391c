#!/usr/bin/env bash
# The overlay `small` without a cluster: its pods' own commands, environment, volumes and users, each in namespaces of
# its own, up to a trained model.
. "$(dirname "$0")/pods.sh"
run_overlay k8s/overlays/small 0.902
all_enforced
exit 0
