#!/usr/bin/env bash
# scripts/staleness trains and draws: two of its variants, one seed, and a point in the picture for each.
. "$(dirname "$0")/lib.sh"
need_data adult
scripts/staleness --build "$B" --data "$data" --jobs adult --variants 16 async --seeds 2 --out "$work/staleness.svg" >"$work/out" ||
    fail "scripts/staleness: $(cat "$work/out")"
cat "$work/out"
"$python" - "$work" <<'PY' || fail "scripts/staleness: not what it trained"
import re, sys, xml.dom.minidom
work = sys.argv[1]
said = re.findall(r"^adult +(\S+) +AUC (0\.\d+), mean (0\.\d+); at most (\d+) permits in use$", open(work + "/out").read(), re.M)
points = xml.dom.minidom.parse(work + "/staleness.svg").getElementsByTagName("circle")
names = [name for name, _, _, _ in said]
print(f"{len(points)} points for {names}")
sys.exit(not (names == ["16", "async"] and all(0.88 < float(auc) < 0.92 and auc == mean for _, auc, mean, _ in said) and
              4 < int(said[0][3]) <= 16 and len(points) == 2))
PY
