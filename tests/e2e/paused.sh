#!/usr/bin/env bash
# A process that stops reading (SIGSTOP, for SECONDS_PAUSED=6, which is longer than its peers wait) costs each of the others
# at most the credit that it was given; when it goes on, so does the job, and no sample is lost or trained twice. Every
# role in turn, in one job; ROLES="trainer middleware" pauses only these. By hand: SECONDS_PAUSED=60.
#
# The credit is global.link.credit, as each process states it on its page: one link leads to the paused one. The window
# asks for ten times as much: data.window batches, with all that a batch is on its four hops.
. "$(dirname "$0")/lib.sh"
seconds=${SECONDS_PAUSED:-6}
read -ra paused <<<"${ROLES:-trainer middleware embedding_server data_compose}"
rows=100000 batch=4096 window=8 credit=4194304
log=$work/run/logs/trainer-0.log

local_start --config configs/synthetic --set data.epochs=100000 --set data.synthetic.rows=$rows \
    --set global.link.credit=$credit --set data.synthetic.test_rows=1000 --set data.batch_size=$batch --set data.window=$window \
    --timeout $((240 * slow + 5 * seconds))
# shellcheck disable=SC2317 # wait_for calls it
epochs_over() {
    [ -s "$log" ] && [ "$(grep -c ' epoch_over ' "$log")" -ge "$1" ]
}
wait_for $((60 * slow)) "two epochs: all rows are made, all buffers have their size" epochs_over 2

for role in "${paused[@]}"; do
    "$python" - "$work/run" "$role" "$seconds" "$slow" "$((window * batch))" $credit <<'PY' || fail "$role paused for $seconds s: see above"
import glob, json, os, re, signal, sys, time, urllib.request
run, role, seconds, slow = sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
samples, want = int(sys.argv[5]), int(sys.argv[6])
LAX = 1.25  # of the credit: buffers come in classes of sizes
LINKS = 4   # whose credit a process lends (runtime/net/credit.h)
log = run + "/logs/trainer-0.log"
pid = {os.path.basename(f)[:-2]: int(open(f).read()) for f in glob.glob(run + "/pids/*-0")}
others = [name for name in pid if name != role]

def page(name, path):
    admin = re.search(r"admin=([0-9.:]+)", open(f"{run}/logs/{name}-0.log").read())[1]
    return urllib.request.urlopen(f"http://{admin}/{path}", timeout=20).read().decode()

def status(name):
    return json.loads(page(name, "status"))

def credit_of(name, kind):
    got = re.search(r'saffron_%s_link_credit_bytes\{kind="%s"\} ([0-9.e+]+)' % (name, kind), page(name, "metrics"))
    return int(float(got[1]))

def resident(name):
    return 1024 * int(re.search(r"VmRSS:\s+(\d+)", open(f"/proc/{pid[name]}/status").read())[1])

def epochs():
    return open(log).read().count(" epoch_over ")

def watch(most, until):
    while not until():
        for name in others:
            most[name] = max(most.get(name, 0), resident(name))
        time.sleep(0.05)
    return most

def after(s):
    end = time.monotonic() + s
    return lambda: time.monotonic() >= end

told = {name: status(name) for name in pid}
sent = sum(sum(s["hop_bytes"]["train"].values()) for s in told.values())
sample = sent / told["trainer"]["samples_trained"]
credit = {name: credit_of(name, "limit") // LINKS for name in pid}
before = watch({}, after(2))
os.kill(pid[role], signal.SIGSTOP)
try:
    most = watch(dict(before), after(seconds))
finally:
    os.kill(pid[role], signal.SIGCONT)
    began, since = epochs(), time.monotonic()
late = after(60 * slow)
watch(most, lambda: epochs() >= began + 2 or late())
print(f"{role} paused for {seconds:g} s: {sample:,.0f} bytes of a sample on all hops, {samples * sample:,.0f} of the window; "
      f"two epochs more {time.monotonic() - since:.1f} s after it went on")
bad = late() or any(c != want for c in credit.values())
if bad:
    print(f"  no epoch ends any more; {began} before")
for name in others:
    grown = most[name] - before[name]
    lent = credit_of(name, "lent")
    print(f"  {name} grew by {grown:,} bytes, credit {credit[name]:,}; {lent:,} lent now")
    bad |= grown > LAX * credit[name]
sys.exit(bad)
PY
done

kill -INT "$supervisor"
wait_end $((20 * slow))
nothing_left
grep ' epoch_over ' "$log" | grep -v " samples=$rows " && fail "epochs that are not whole"
expect "samples_dropped == 0 and samples_quarantined == 0" \
    "samples_read == samples_trained + samples_quarantined + samples_dropped" "0 <= staleness_max <= 4"
exit 0
