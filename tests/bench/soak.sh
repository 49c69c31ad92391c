#!/usr/bin/env bash
# configs/bench, epoch after epoch, for MINUTES (60): resident memory and open descriptors of every process each second;
# see soak.py. `make soak`.
. "$(dirname "$0")/lib.sh"
minutes=${MINUTES:-60}
[[ $minutes =~ ^[1-9][0-9]{0,4}$ ]] || die "MINUTES: expected a whole number of minutes, got '$minutes'"
make_bench_data "${ROWS:-2000000}" 100000
PYTHONPATH=tests/bench "$python" -B tests/bench/soak.py "$B" "$bench_data" "$work/run" "$out/soak" "$minutes"
