#!/usr/bin/env bash
# What a storm of NATS costs: see nats_storm.py. STORM_SECONDS (270 here: under 5 minutes; `make storm` takes 600).
. "$(dirname "$0")/lib.sh"
PYTHONPATH=tests/bench STORM_SECONDS=${STORM_SECONDS:-270} "$python" -B tests/bench/nats_storm.py "$B" "$work" "$out/nats_storm.json"
