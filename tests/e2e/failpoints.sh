#!/usr/bin/env bash
# Processes die, fail or wait at each step of the protocol: tests/failpoints.md says at which, and what must happen
# (tests/e2e/failpoints.py). CASES: all of them in both modes (`make failpoints`), or those that have the word; else a third.
. "$(dirname "$0")/lib.sh"
table=tests/failpoints.md points=$B/failpoints
faults=$B/tests/e2e/faults
[ -x "$faults" ] || fail "no program $faults: run make B=$B unit"
[ -x "$points/saffron" ] || fail "no program $points/saffron: run make B=$B points"

# Each that the code has is in the table, and the other way round; what users get has none.
grep -rhoE 'RT_FAILPOINT(_FAILS)?\("[^"]+"' --include=*.c runtime "${roles[@]}" | cut -d'"' -f2 | sort -u >"$work/code"
# shellcheck disable=SC2016 # the backquotes are markdown
grep -oE '^\| `[^`]+`' "$table" | grep -oE 'P[0-9]+\.[a-z_]+' | sort -u >"$work/names"
diff "$work/code" "$work/names" >"$work/diff" || fail "the code and $table differ: $(cat "$work/diff")"
for program in "$B"/saffron*; do
    [ ! -f "$program" ] || ! grep -aqwFf "$work/names" "$program" || fail "$program has failpoints"
done
grep -aqwF P9.after_apply "$points/saffron-embedding-server" || fail "$points has no failpoints"

mkdir "$work/job"
"$faults" make "$work/job" || fail "the job"
runs=$B/failpoints-runs # what a run that failed left stays there
rm -rf "$runs"
mkdir -p "$runs"
modes=(turns)
[ -z "${CASES:-}" ] || modes=(hybrid full)
PYTHONDONTWRITEBYTECODE=1 "$python" tests/e2e/failpoints.py "$points" "$work/job" "$runs" "$table" "${CASES:-third}" "${modes[@]}"
