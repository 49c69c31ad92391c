#!/usr/bin/env bash
# Dense gradients that trainers sum in buckets while earlier layers are still being computed: the bits of an `exact` job do not
# depend on the buckets; a rank that dies with some of them out is noticed in 5 s and named, and the job goes on when it does.
. "$(dirname "$0")/lib.sh"

# Three ranks: the order in which an element's sum is made is no matter of taste there. 46,000 parameters: 12 buckets, or one.
for bytes in 16384 4194304; do
    local_run "${short[@]}" --trainers 3 --set data.synthetic.rows=6000 --set data.synthetic.test_rows=1000 --set data.batch_size=64 \
        --set global.mode=full --set global.exact=true --set global.trainer.bucket_bytes=$bytes
    expect_success
    grep -o 'dense_digest=[0-9a-f]*' "$work/run/logs/trainer-0.log" >"$work/digest-$bytes" || fail "the trainer told no digest"
done
cmp "$work/digest-16384" "$work/digest-4194304" || fail "other buckets, other bits"

local_run "${short[@]}" --set global.trainer.bucket_bytes=100
[ "$status" -eq 2 ] || fail "buckets of 100 bytes: exit status $status, expected 2"
grep -q "bucket_bytes" "$work/err" || fail "buckets of 100 bytes: $(cat "$work/err")"

# 1.6 million parameters and small batches: the sum, of 400 buckets, is most of a step.
local_start --config configs/synthetic --set data.epochs=100000 --set data.synthetic.rows=4000 --set data.synthetic.test_rows=100 \
    --set "model.params.top=[1024,1024,512,1]" --set data.batch_size=32 --set global.trainer.bucket_bytes=16384 --trainers 2
log=$work/run/logs/trainer-0.log
# shellcheck disable=SC2317 # wait_for calls it
epochs_over() {
    [ -s "$log" ] && [ "$(grep -c ' epoch_over ' "$log")" -ge "$1" ]
}
wait_for $((60 * slow)) "an epoch" epochs_over 1
"$python" - "$work/run" "$slow" <<'PY' || fail "a rank that is stopped between buckets: see above"
import os, re, signal, sys, time, urllib.request
run, slow = sys.argv[1], int(sys.argv[2])
log = run + "/logs/trainer-0.log"
pid = int(open(run + "/pids/trainer-1").read())
admin = re.search(r"admin=([0-9.:]+)", open(log).read())[1]
told = re.compile(r"^(\S+)Z WARN trainer/0 peer_down peer=trainer/1.0 .*silent for 5000 ms", re.M)


def chunks():
    page = urllib.request.urlopen(f"http://{admin}/metrics", timeout=20).read().decode()
    return int(re.search(r'saffron_trainer_serve_seconds_count\{[^}]*method="ReduceChunk"[^}]*\} (\d+)', page)[1])


def settled():
    """Once nothing comes any more: chunks of rank 1 since the start."""
    last, now = -1, chunks()
    while now != last:
        time.sleep(0.3)
        last, now = now, chunks()
    return now


sizes = (4, 64, 16), (16 + 9 * 8 // 2, 1024, 1024, 512, 1)  # bottom, top: DLRM of 4 dense columns, 8 features of dim 16
parameters = sum((i + 1) * o for part in sizes for i, o in zip(part, part[1:]))
each = 2 * -(-parameters * 4 // 16384)  # of a sum, that each of two ranks hears
for attempt in range(10):
    os.kill(pid, signal.SIGSTOP)
    at = time.time()
    total = settled()
    some = total % each
    print(f"stopped with {some} of {each} chunks of sum {total // each} heard")
    if some:
        break
    os.kill(pid, signal.SIGCONT)
    time.sleep(0.5 + 0.1 * attempt)
else:
    sys.exit("never between the buckets of a sum")
while not told.search(open(log).read()) and time.time() < at + 60:
    time.sleep(0.05)
took = time.time() - at
os.kill(pid, signal.SIGCONT)
print(f"named after {took:.1f} s")
sys.exit(not took < 10 * slow)  # 5 s, and what a busy machine takes to say so; a kernel that gives it up takes minutes
PY
begun=$(grep -c ' epoch_over ' "$log")
wait_for $((60 * slow)) "two epochs more, when it goes on" epochs_over $((begun + 2))
# Of each epoch that both have over, the two ranks' samples together are all that there are.
cat "$work"/run/logs/trainer-?.log | sed -n 's/.* epoch_over epoch=\([0-9]*\) samples=\([0-9]*\) .*/\1 \2/p' |
    awk '{ sum[$1] += $2; n[$1]++ } END { for (e in n) if (n[e] == 2) { all++; bad += sum[e] != 4000 }; exit !(all > 2 && !bad) }' ||
    fail "epochs that are not whole"

kill -9 "$(cat "$work/run/pids/trainer-1")"
wait_end 20
[ "$status" -eq 1 ] || fail "trainer/1 killed: exit status $status, expected 1"
nothing_left
grep -q "saffron local: trainer/1 was killed by signal 9" "$work/err" || fail "the message does not name it: $(cat "$work/err")"
expect "samples_dropped == 0 and samples_read == samples_trained + samples_quarantined + samples_dropped"
exit 0
