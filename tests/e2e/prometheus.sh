#!/usr/bin/env bash
# Monitoring against the real thing: Debian's Prometheus scrapes a job with two of each role. Every query of the
# dashboard and every alert's expression finds series there, the rules pass promtool, each alert fires when it
# should and only then, docs/metrics.md lists what the pages have, scripts/plot draws the run, and a push gateway
# receives a job that ends.
#   PICTURE=docs/pictures/run.svg   keep the drawing, of a minute
. "$(dirname "$0")/lib.sh"
monitoring=k8s/monitoring
tool=("$python" tests/e2e/prometheus.py)
for program in prometheus promtool; do
    command -v "$program" >/dev/null || skip "no $program: the package prometheus is not installed"
done

# ---- files: as they should be before anything runs ----
"$monitoring/dashboard.py" | cmp -s - "$monitoring/dashboard.json" ||
    fail "$monitoring/dashboard.json is stale; run $monitoring/dashboard.py >$monitoring/dashboard.json"
"${tool[@]}" valid "$monitoring/dashboard.json" || fail "dashboard.json is no dashboard"
sed '1,/^spec:/d; s/^  //' "$monitoring/alerts.yaml" >"$work/alerts.rules.yml"
"$python" tests/e2e/alert_cases.py "$work/alerts.rules.yml" >"$work/alerts.test.yml" || fail "alert_cases.py"
grep '^ *- alert:' "$monitoring/alerts.yaml" | while read -r _ _ name; do
    grep -qx "### $name" docs/trouble.md || fail "docs/trouble.md has no section $name"
    grep -q "runbook_url: docs/trouble.md#${name,,}\$" "$monitoring/alerts.yaml" || fail "$name: no runbook_url"
done || exit 1
promtool check rules "$work/alerts.rules.yml" >"$work/out" 2>&1 || fail "promtool check rules: $(cat "$work/out")"
promtool test rules "$work/alerts.test.yml" >"$work/out" 2>&1 || fail "promtool test rules: $(cat "$work/out")"
if kubectl kustomize k8s/base >/dev/null 2>&1; then # not by every kubectl
    kubectl kustomize "$monitoring" >"$work/objects.yaml" || fail "kubectl kustomize $monitoring"
    [ "$(grep '^kind:' "$work/objects.yaml" | sort | xargs)" = "kind: ConfigMap kind: PodMonitor kind: PrometheusRule" ] ||
        fail "kubectl kustomize $monitoring: $(grep '^kind:' "$work/objects.yaml")"
fi

# ---- a job, a Prometheus, a push gateway ----
read -r port gateway_port < <("${tool[@]}" ports 2)
url=http://127.0.0.1:$port
gateway=127.0.0.1:$gateway_port
# The PodMonitor's relabelings, by Prometheus' own names for their keys: targets look as pods do.
relabelings=$(sed -n '/relabelings: &/,/^    - {port/s/^ *- {sourceLabels/      - {source_labels/p' "$monitoring/podmonitor.yaml" |
    sed 's/targetLabel/target_label/')
[ "$(printf '%s\n' "$relabelings" | wc -l)" -eq 3 ] || fail "the relabelings of podmonitor.yaml are not found"
cat >"$work/prometheus.yml" <<YML
global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}
rule_files: [alerts.rules.yml]
scrape_configs:
  - job_name: saffron
    file_sd_configs: [{files: [targets.json], refresh_interval: 1s}]
    relabel_configs:
$relabelings
  - job_name: gateway
    honor_labels: true
    static_configs: [{targets: ["$gateway"]}]
YML
local_start "${long[@]}" --set data.synthetic.rows=20000000 --set data.synthetic.test_rows=50000 \
    --set global.evaluate_every=200 --set global.checkpoint.every_seconds=2 --trainers 2 --middlewares 2 --embedding-servers 2 --data-composes 2
wait_for $((30 * slow)) "it trains" is_training
"${tool[@]}" targets "$work/run" >"$work/targets.json" || fail "the logs do not tell the admin ports"
promtool check config "$work/prometheus.yml" >"$work/out.config" 2>&1 || fail "promtool check config: $(cat "$work/out.config")"
prometheus --config.file="$work/prometheus.yml" --storage.tsdb.path="$work/tsdb" --web.listen-address="127.0.0.1:$port" \
    --log.level=warn >"$work/prometheus.log" 2>&1 &
prometheus=$!
pushgateway=
if command -v prometheus-pushgateway >/dev/null; then
    # Debian's keeps what it is sent in a file of the machine unless told not to.
    prometheus-pushgateway --web.listen-address="$gateway" --persistence.file= --log.level=warn >"$work/gateway.log" 2>&1 &
    pushgateway=$!
fi
"${tool[@]}" wait "$url" $((60 * slow)) || fail "no scrapes: $(tail -n 5 "$work/prometheus.log")"

# ---- what it knows ----
bad=0
"${tool[@]}" dashboard "$url" "$monitoring/dashboard.json" || bad=1
"${tool[@]}" alerts "$url" || bad=1
"${tool[@]}" pages "$work/targets.json" docs/metrics.md || bad=1
[ "$bad" -eq 0 ] || fail "see above"
[ -z "${PICTURE:-}" ] || sleep 60
scripts/plot "$url" --job synthetic >"$work/run.svg" || fail "scripts/plot"
"$python" -c 'import sys, xml.dom.minidom; xml.dom.minidom.parse(sys.argv[1])' "$work/run.svg" || fail "scripts/plot: no XML"
! grep 'no data' "$work/run.svg" || fail "scripts/plot: a panel without data"
[ "$(wc -c <"$work/run.svg")" -lt 150000 ] || fail "scripts/plot: over 150 kB"
[ -z "${PICTURE:-}" ] || cp "$work/run.svg" "$PICTURE"

# ---- a job that ends, and is pushed ----
if [ -n "$pushgateway" ]; then
    cp -r configs/synthetic "$work/ends"
    SAFFRON_METRICS_GATEWAY_ADDR=$gateway "$B/saffron" local --run-dir "$work/pushed" "${short[@]}" --config "$work/ends" \
        --trainers 2 --timeout $((60 * slow)) >"$work/pushed.out" 2>&1 || fail "the job that ends: $(cat "$work/pushed.out")"
    "${tool[@]}" pushed "$url" "$work/pushed" || fail "the push gateway, or Prometheus behind it, is wrong"
    kill "$pushgateway" 2>/dev/null
fi
kill -INT "$supervisor"
wait_end $((15 * slow))
nothing_left
kill "$prometheus" 2>/dev/null
wait "$prometheus" || fail "Prometheus: exit status $?"
[ -n "$pushgateway" ] || skip "all but the push: the package prometheus-pushgateway is not installed"
exit 0
