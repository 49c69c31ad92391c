#!/usr/bin/env bash
# The embedding server's engine beside the limit of the machine's memory, measured in the same run: lookups, updates,
# owners, sizes, memory, pauses, the wire; and beside it, for the reader, other stores with the same rows.
#
# Each part is a process of its own, one after the other (tests/bench/embedding_server/: its files say what they do);
# PARTS chooses some of them; `cut`, four minutes of a checkpoint beside requests, runs only when it is named. BENCH_GIB (6): rows of one case; peak memory is about twice that. Rates are of CPU time, but
# neighbours that use the memory disturb them all the same: run it on a quiet machine.
. "$(dirname "$0")/lib.sh"
program=$B/tests/bench/embedding_server
parts=${PARTS:-"rows:dim64 rows:dim16 rows:dim128 rows:dim64_adagrad rows:dim16_adagrad rows:dim64_adam rows:dim16_adam
    owners sizes growth:off growth:on wire peers peer_map peer_rocksdb"}
results=$work/results.jsonl
: >"$results"

for part in $parts; do
    started=$SECONDS
    case $part in
    peer_*)
        if [ ! -x "$program/$part" ]; then
            echo "skipped $part: its package was not there when this was built (scripts/packages-test.txt)"
            continue
        fi
        "$program/$part" "$results" "$work" || die "$part failed"
        ;;
    *)
        [ -x "$program/bench" ] || die "no program $program/bench: run make bench"
        argument=
        [[ $part == *:* ]] && argument=${part#*:}
        "$program/bench" "$results" "${part%%:*}" "$argument" || die "$part failed"
        ;;
    esac
    echo "  $part: $((SECONDS - started)) s"
done

PYTHONPATH=tests/bench "$python" -B - "$results" "$out/embedding_server.json" <<'PY'
import json, sys
import report
entries = [report.entry(**json.loads(line)) for line in open(sys.argv[1])]
report.write(sys.argv[2], entries)
short = [e["name"] for e in entries if "demanded" in e and e["ratio"] < e["demanded"]]
demanded = sum("demanded" in e for e in entries)
print(f"  {demanded - len(short)} of {demanded} demanded figures are met" + (": not " + ", ".join(short) if short else ""))
PY
