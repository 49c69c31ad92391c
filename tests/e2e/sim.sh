#!/usr/bin/env bash
# `make sim`: what it says of seeds that are right, and of one that is not. (`make test` runs 2,000 seeds of it as sim-test_sim.)
. "$(dirname "$0")/lib.sh"
sim=$B/tests/sim/test_sim
[ -x "$sim" ] || fail "no program $sim: run make B=$B unit"

CMOCKA_MESSAGE_OUTPUT=stdout SEEDS=10 SEED=3 "$sim" >"$work/out" 2>&1 || fail "not all of ten seeds are right"
tail -n 1 "$work/out" | grep -qE '^sim: [0-9]+ seeds, kills of trainers .* simulated [0-9]+ seconds in .* of a core: [0-9]+x real time, 0 failures$' ||
    fail "the last line: $(tail -n 1 "$work/out")"

# An embedding server takes a batch that it never had for applied (SIM_FORGETS): that is told, with what happened and how to see it again.
SAFFRON_COMMIT=c0ffee SIM_FORGETS=1 SEEDS=1 SEED=3 "$sim" >"$work/out" 2>&1 && fail "a lost batch was not found"
for words in 'FAILED: seed 3' 'commit c0ffee' 'seed 3: ' 'data.epochs=' 'again: make sim SEEDS=1 SEED=3' ', 1 failures'; do
    grep -qF "$words" "$work/out" || fail "'$words' is not in the report of a failure"
done
