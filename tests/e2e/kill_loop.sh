#!/usr/bin/env bash
# Processes of real jobs are killed and stopped at random, again and again (tests/e2e/kill_loop.py): `local` starts them again, and at
# the end of each job every row of the data has been applied once in each epoch, no more and no less. KILLS of them (`make kill-loop`
# asks for 500), by seeds from SEED on. The last line is `kills N lost 0 doubled 0 hangs 0`.
. "$(dirname "$0")/lib.sh"
KILLS=${KILLS:-20} SEED=${SEED:-1}
faults=$B/tests/e2e/faults
[ -x "$faults" ] || fail "no program $faults: run make B=$B unit"
mkdir "$work/job"
"$faults" make "$work/job" || fail "the job"
runs=$B/kill-loop # what a run that failed left stays there
rm -rf "$runs"
mkdir -p "$runs"
PYTHONDONTWRITEBYTECODE=1 "$python" tests/e2e/kill_loop.py "$B" "$work/job" "$runs" "$KILLS" "$SEED"
