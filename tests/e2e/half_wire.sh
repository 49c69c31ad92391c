#!/usr/bin/env bash
# A wire of 16 bits (rows, embeddings and both kinds of gradients rounded to the nearest on their way) trains what a
# wire of float32 trains: on real data the mean AUC of SEEDS="1 2 3" loses at most 0.001. In `full`, as half_rows.sh.
#   WIRE="bfloat16 float16"   the types that are compared with float32
. "$(dirname "$0")/lib.sh"
. tests/e2e/seeds.sh
read -ra wires <<<"${WIRE:-bfloat16}"
tolerance=$(tolerance_of_seeds 0.003 0.001)

# The wire is what it was told to be: its payloads are half as large.
compare_bytes() {
    "$python" - "$work" "$1" "${seed_list[0]}" "${wires[@]}" <<'PY'
import json, sys
work, job, seed, *wires = sys.argv[1:]
def bytes_of(wire):
    return json.load(open(f"{work}/{job}-{wire}-{seed}.json"))["bytes_per_sample"]
whole, bad = bytes_of("float32"), False
for wire in wires:
    for hop in "middleware_to_trainer", "trainer_to_middleware":
        part = bytes_of(wire)[hop]
        print(f"{job}: {hop} {whole[hop]:.0f} > {part:.0f} bytes a sample with {wire}")
        bad |= not 0.45 < part / whole[hop] < 0.6
sys.exit(bad)
PY
}

for row in adult:adult frappe:frappe_sub; do
    job=${row%%:*} set=${row#*:}
    need_data "$set"
    for wire in float32 "${wires[@]}"; do
        train_seeds "$job" "$set" "$wire" --set "global.mode=${MODE:-full}" --set "global.wire.dtype=$wire"
    done
    compare_bytes "$job" || fail "$job: the wire is none of 16 bits"
    compare_auc "$job" loses "$tolerance" float32 "${wires[@]}" || fail "$job: a 16-bit wire loses quality"
done
