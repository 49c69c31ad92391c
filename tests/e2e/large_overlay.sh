#!/usr/bin/env bash
# The overlay `large` with 12 pods in place of 471, as `small` is run: two hosts of two trainers each, two embedding servers
# of 16 owners, two middlewares of 8 loops, three composers and three servers of NATS, which find each other. The job is
# adult, in batches of a quarter, since four ranks take four of them in a step.
. "$(dirname "$0")/pods.sh"
overlay=$work/overlay
mkdir "$overlay"
cp configs/adult/{embedding,model}.yml "$overlay"
sed 's/^batch_size: .*/batch_size: 256/' configs/adult/data.yml >"$overlay/data.yml"
cat >"$overlay/kustomization.yaml" <<YAML
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [$(realpath --relative-to "$overlay" k8s/overlays/large)]
transformers: [$(realpath --relative-to "$overlay" k8s/replica-size)]
replicas:
  - {name: saffron-data-compose, count: 3}
  - {name: saffron-middleware, count: 2}
  - {name: saffron-embedding-server, count: 2}
  - {name: saffron-trainer, count: 2}
configMapGenerator:
  - {name: saffron-job, namespace: saffron, behavior: merge, files: [data.yml, embedding.yml, model.yml]}
patches:
  - target: {kind: StatefulSet, name: saffron-trainer}
    patch: |
      apiVersion: apps/v1
      kind: StatefulSet
      metadata: {name: saffron-trainer}
      spec:
        template:
          spec:
            containers:
              - name: trainer
                env: [{name: NPROC_PER_NODE, value: "2"}]
YAML
run_overlay "$overlay" 0.895
grep -q "^12 pods, " "$work/out" || fail "expected 12 pods"
all_enforced
exit 0
