#!/usr/bin/env bash
# A bit of a trainer's dense weights changes in its memory: all trainers end, with one error that says so, and no checkpoint is made any
# more; started again they go on from the newest one, to the job's end. The learning rate is 0, so that the weights are those of the first
# checkpoint, and can be found.
. "$(dirname "$0")/lib.sh"
[ "$(id -u)" -eq 0 ] || skip "digests: needs root, to write into another process"
job=(--config configs/synthetic --set data.synthetic.rows=40000 --set data.synthetic.test_rows=1000 --epochs 100000 --trainers 2
    --set model.optimizer.learning_rate=0 --set global.guard.digest_every=50 --set global.checkpoint.every_steps=20)
has_one() { [ -n "$(find "$work/run/checkpoints" -name manifest.json 2>/dev/null)" ]; }

# flip PID -- bit 20 of a weight, wherever the process has the largest tensor.
flip() {
    "$python" - "$1" "$work/run/checkpoints" <<'PY'
import glob, json, re, struct, sys
pid, folder = sys.argv[1:]
data = open(sorted(glob.glob(f"{folder}/*/dense.safetensors"))[0], "rb").read()
size = struct.unpack("<Q", data[:8])[0]
head = json.loads(data[8:8 + size])
head.pop("__metadata__")
begin, end = max((t["data_offsets"] for t in head.values()), key=lambda at: at[1] - at[0])
pattern = data[8 + size + begin:8 + size + begin + 512]
found = 0
try:
    memory = open(f"/proc/{pid}/mem", "r+b", buffering=0)
except PermissionError:
    sys.exit(77)
for line in open(f"/proc/{pid}/maps"):
    low, high, rights = re.match(r"(\w+)-(\w+) (\S+)", line).groups()
    if not rights.startswith("rw"):
        continue
    low, high = int(low, 16), int(high, 16)
    try:
        memory.seek(low)
        part = memory.read(high - low)
    except (OSError, ValueError):
        continue
    at = part.find(pattern)
    while at >= 0:
        memory.seek(low + at + 402)  # the third byte of weight 100
        memory.write(bytes([part[at + 402] ^ 0x10]))
        found += 1
        at = part.find(pattern, at + 1)
print(f"{found} copies changed")
sys.exit(0 if found else 1)
PY
}
# flip_one RANK -- 1: the job was over before there was a checkpoint.
flip_one() {
    meanwhile $((40 * slow)) "a checkpoint" has_one || return
    flip "$(cat "$work/run/pids/trainer-$1")"
    case $? in
    0) ;;
    77) skip "digests: no process may write into another one here" ;;
    *)
        ! grep -q 'state now=done' "$work/run/logs/trainer-0.log" || return
        fail "the weights were not found"
        ;;
    esac
}
error='dense weights differ after step [0-9]*: trainer/1 has digest [0-9a-f]{16}, trainer/0 has [0-9a-f]{16}, and no digest is that of most'

for rank in 0 1; do
    local_start "${job[@]}"
    flip_one $rank || fail "the run ended before there was a checkpoint"
    wait_end $((30 * slow))
    [ "$status" -eq 1 ] || fail "rank $rank: exit status $status, expected 1: $(cat "$work/err")"
    nothing_left
    grep -qE "$error" "$work/err" || fail "rank $rank: not the error: $(cat "$work/err")"
    step=$(sed -nE 's/.*dense weights differ after step ([0-9]+):.*/\1/p' "$work/run/logs/trainer-0.log" | head -n 1)
    "$B/saffron" checkpoints "$work/run/checkpoints" >"$work/list" || fail "saffron checkpoints: $(cat "$work/list")"
    [ "$(awk 'NR == 2 {gsub(",", "", $2); print $2}' "$work/list")" -lt "$step" ] || fail "rank $rank: a checkpoint was made of it: $(cat "$work/list")"
done

# flip_in TIMES -- 1: the job was over before anybody saw it.
flip_in() {
    epochs=$((20 * $1))
    local_start "${job[@]}" --set data.synthetic.rows=80000 --epochs $epochs --restart on-failure
    flip_one 1 || return
    meanwhile $((120 * slow)) "the error" grep -qE "$error" "$work/run/logs/trainer-0.log"
}
long_enough flip_in
wait_end $((120 * slow))
[ "$status" -eq 0 ] || fail "started again: exit status $status: $(cat "$work/err")"
nothing_left
for rank in 0 1; do
    grep -qE "$error" "$work/run/logs/trainer-$rank.log" || fail "trainer/$rank does not say why it ended"
    grep -q "INFO trainer/$rank restored name=" "$work/run/logs/trainer-$rank.log" || fail "trainer/$rank did not go on from a checkpoint"
done
expect "restarts['trainer'] == 2" "samples_read == $epochs * 80000"
