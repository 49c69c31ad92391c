#!/usr/bin/env bash
# A folder with checkpoints that a job cannot go on from: of another job, of other tables, optimizers or batches, of an older or a newer
# format. Whoever is started says why, ends with exit status 2 before it has done anything, and the folder stays as it was.
. "$(dirname "$0")/lib.sh"
job=("${short[@]:2}" --set global.embedding_server.workers=1 --set global.middleware.loops=1 --set data.epochs=100000)
has_two() { [ "$(find "$work/run/checkpoints" -name manifest.json 2>/dev/null | wc -l)" -ge 2 ]; }
cp -r configs/synthetic "$work/synthetic"
cp -r configs/synthetic "$work/other"
local_start --config "$work/synthetic" "${job[@]}" --set global.checkpoint.every_steps=30
wait_for 60 "two checkpoints" has_two
kill -INT "$supervisor"
wait_end 40
[ "$status" -eq 130 ] || fail "exit status $status"
all=$work/checkpoints
mv "$work/run/checkpoints" "$all"

contents() {
    (cd "$all" && find . -type f -exec cksum {} + | sort)
}
# refused PATTERN CONFIG WORD... -- by a trainer, by an embedding server, and by `local --restore`.
refused() {
    local pattern=$1 config=$work/$2 program
    shift 2
    contents >"$work/before"
    for program in trainer embedding-server; do
        timeout 60 "$B/saffron-$program" --nats nats://127.0.0.1:1 --config "$config" "${job[@]}" --admin-port 0 --bind 127.0.0.1 \
            --index 0 --size 1 --checkpoint-dir "$all" "$@" >"$work/said" 2>&1
        status=$?
        [ "$status" -eq 2 ] || fail "$program $*: exit status $status, expected 2: $(cat "$work/said")"
        grep -qE "$pattern" "$work/said" || fail "$program $*: expected '$pattern', got: $(cat "$work/said")"
        [ "$(grep -c ' ERROR ' "$work/said")" -le 1 ] || fail "$program $*: more than one error: $(cat "$work/said")"
    done
    SAFFRON_CHECKPOINT_DIR=$all local_run --config "$config" "${job[@]}" --restore latest "$@"
    [ "$status" -eq 2 ] || fail "local $*: exit status $status, expected 2: $(cat "$work/err")"
    grep -qE "$pattern" "$work/err" "$work/out" || fail "local $*: expected '$pattern', got: $(cat "$work/out" "$work/err")"
    [ ! -e "$work/run/pids/trainer-0" ] || fail "local $*: something was started"
    contents | diff "$work/before" - >"$work/said" || fail "$*: the folder is another: $(cat "$work/said")"
}

refused "is of the job 'synthetic', this is 'other'" other
refused "was made with other files, these differ: embedding" synthetic --set embedding.defaults.dim=8 --set "model.params.bottom=[64, 8]"
refused "was made with other files, these differ: embedding" synthetic --set embedding.tables.c1.optimizer.type=adam
refused "was made with other files, these differ: data" synthetic --set data.batch_size=512

# Of another version, and right otherwise.
for version in 0 1000; do
    "$python" - "$all" "$version" <<'PY' || fail "no manifest was changed"
import ctypes, glob, re, sys
xxh3 = ctypes.CDLL("libxxhash.so.0").XXH3_64bits
xxh3.restype, xxh3.argtypes = ctypes.c_uint64, [ctypes.c_char_p, ctypes.c_size_t]
for path in glob.glob(sys.argv[1] + "/*/manifest.json"):
    with open(path, "rb") as file:
        head, key, says, end = re.fullmatch(rb'(.*)(  "digest": ")([0-9a-f]{16})(".*)', file.read(), re.S).groups()
    assert int(says, 16) == xxh3(head, len(head)), path
    head = re.sub(rb'^(\{\n  "format": )\d+', rb"\g<1>" + sys.argv[2].encode(), head)
    with open(path, "wb") as file:
        file.write(head + key + b"%016x" % xxh3(head, len(head)) + end)
PY
    refused "manifest of version $version, this program reads version" synthetic
done
