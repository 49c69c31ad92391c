#!/usr/bin/env bash
# Two trainers that sum their dense gradients in bfloat16 send half as much to each other and learn the same: on real data the
# mean AUC of SEEDS="1 2 3" loses at most 0.001. In `full`, as half_rows.sh.
. "$(dirname "$0")/lib.sh"
. tests/e2e/seeds.sh
tolerance=$(tolerance_of_seeds 0.003 0.001)
need_data adult
for sum in float32 bfloat16; do
    train_seeds adult adult "$sum" --trainers 2 --set data.batch_size=512 --set global.mode=full --set "global.wire.all_reduce=$sum"
done
"$python" - "$work" "${seed_list[0]}" <<'PY' || fail "the sum did not travel in 16 bits"
import json, sys
work, seed = sys.argv[1:]
whole, half = (json.load(open(f"{work}/adult-{sum}-{seed}.json"))["bytes_per_sample"]["trainer_to_trainer"]
               for sum in ("float32", "bfloat16"))
print(f"adult: trainer_to_trainer {whole:.0f} > {half:.0f} bytes a sample")
sys.exit(not 0.45 < half / whole < 0.6)
PY
compare_auc adult loses "$tolerance" float32 bfloat16 || fail "summing in bfloat16 loses quality"
