#!/usr/bin/env bash
# Two jobs of one name on one machine at once, several of each role, --max-steps; both end as if they were
# alone. Then a stop that reaches one of them only.
. "$(dirname "$0")/lib.sh"
several=(--trainers 2 --middlewares 2 --embedding-servers 2 --data-composes 2 --set data.batch_size=512)

# begin NAME ARG... -- `saffron local` in $work/NAME, in the background; its pid in $pid.
begin() {
    local name=$1
    shift
    "$B/saffron" local --run-dir "$work/$name" --timeout $((240 * slow)) "$@" >"$work/$name.out" 2>"$work/$name.err" &
    pid=$!
}

# choose NAME STATUS -- the run that expect and nothing_left look at.
choose() {
    ln -sfn "$work/$1" "$work/run"
    status=$2
}

begin one "${short[@]}" "${several[@]}" --max-steps 30 --set global.evaluate_every=10 --quiet
one=$pid
begin two "${short[@]}" "${several[@]}" --seed 2
two=$pid
wait "$one"
choose one $?
expect_success
expect "steps == 30" "samples_trained == 30 * 2 * 512" "samples_read == samples_trained" \
    "[e['step'] for e in evaluations] == [10, 20, 30]" "evaluations[-1]['auc'] == test_auc" "test_samples == 10000"
[ ! -s "$work/one.err" ] || fail "--quiet, but it says: $(cat "$work/one.err")"
[ "$(grep -c . "$work/one.out")" -eq 6 ] || fail "--quiet, but more than the result: $(cat "$work/one.out")"
wait "$two"
choose two $?
expect_success
expect "steps == 40" "samples_trained == 40000" "test_samples == 10000" "seed == 2" "len(evaluations) == 1"
grep -q '^synthetic: training dlrm with 2 trainers, 2 embedding_servers, 2 middlewares, 2 data_composes; logs in' \
    "$work/two.out" || fail "it does not say what is started: $(cat "$work/two.out")"
for role in "${roles[@]}"; do
    for i in 0 1; do
        [ -e "$work/two/logs/$role-$i.log" ] || fail "no log of $role/$i"
        [ -s "$work/two/pids/$role-$i" ] || fail "no pid of $role/$i"
    done
done
[ "$(sed -n 's/.*"nats": //p' "$work/one/local.json")" != "$(sed -n 's/.*"nats": //p' "$work/two/local.json")" ] ||
    fail "two jobs have one nats-server"

# trains NAME PID -- wait until it does.
trains() {
    local tries=600
    until grep -q ' samples' "$work/$1.out"; do
        kill -0 "$2" 2>/dev/null || fail "$1 has ended: $(cat "$work/$1.err")"
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || fail "$1 does not train"
        sleep 0.1
    done
}

begin three "${long[@]}" "${several[@]}"
three=$pid
begin four "${long[@]}" "${several[@]}"
four=$pid
trains three "$three"
trains four "$four"
# all_ready -- of job three; training begins with the first composer that is.
all_ready() {
    "$B/saffron" status --run-dir "$work/three" >"$work/status" 2>&1 || fail "status: $(cat "$work/status")"
    [ "$(grep -cE '^[a-z_]+/[01]  *ready ' "$work/status")" -eq 8 ]
}
supervisor=$three
wait_for 20 "all of job three are ready" all_ready
[ "$(sed -n '2,$p' "$work/status" | cut -d/ -f1 | uniq | wc -l)" -eq 4 ] || fail "status is not in order: $(cat "$work/status")"
"$B/saffron" stop --run-dir "$work/three" >"$work/status" 2>&1 || fail "stop: $(cat "$work/status")"
wait "$three"
choose three $?
[ "$status" -eq 143 ] || fail "stop: exit status $status, expected 143"
expect "samples_trained > 0" "samples_read == samples_trained + samples_quarantined + samples_dropped" \
    "error == 'stopped by signal 15 (Terminated)'"
nothing_left
"$B/saffron" status --run-dir "$work/four" >"$work/status" 2>&1 || fail "the other job: $(cat "$work/status")"

# One of two trainers dies: the run ends, and names it.
kill -9 "$(cat "$work/four/pids/trainer-1")"
wait "$four"
choose four $?
[ "$status" -eq 1 ] || fail "trainer/1 killed: exit status $status, expected 1"
grep -q '^saffron local: trainer/1 was killed by signal 9' "$work/four.err" || fail "it is not named: $(cat "$work/four.err")"
expect "samples_trained > 0" "samples_read == samples_trained + samples_quarantined + samples_dropped"
nothing_left
