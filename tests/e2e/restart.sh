#!/usr/bin/env bash
# `local --restart on-failure`: a role that is killed, or told to end, is started again and the job is done as if nothing had
# happened; a complaint about the configuration ends the run at once, and so does a process that ends again and again.
. "$(dirname "$0")/lib.sh"
again=(--restart on-failure)

# hit SIGNAL NAME -- and wait until there is another process of that name; 1: the job was over.
hit() {
    local old
    old=$(cat "$work/run/pids/$2")
    kill "-$1" "$old" 2>/dev/null
    meanwhile 20 "$2 is started again" is_new "$2" "$old"
}
is_new() {
    [ "$(cat "$work/run/pids/$1")" != "$2" ]
}
epochs_over() {
    [ "$(grep -c ' epoch_over ' "$work/run/logs/trainer-0.log")" -ge "$1" ]
}

# hit_all TIMES -- 1: the job did not train for two epochs more. (What comes back after its last batch has no CPU time of training.)
hit_all() {
    local name
    epochs=$((80 * $1))
    local_start "${short[@]}" --epochs $epochs --trainers 2 --set global.checkpoint.every_seconds=1 "${again[@]}"
    meanwhile 60 "training" is_training || return
    for name in data_compose-0 middleware-0 trainer-0 trainer-1 nats embedding_server-0; do
        hit KILL "$name" || return
        sleep 0.7
    done
    hit TERM data_compose-0 || return
    meanwhile 60 "two epochs more" epochs_over $(($(grep -c ' epoch_over ' "$work/run/logs/trainer-0.log") + 2))
}
long_enough hit_all
wait_end 250
expect_success
expect "samples_trained == $epochs * 40000" "test_samples == 10000" \
    "{k: n for k, n in restarts.items() if k != 'trainer'} == {'data_compose': 2, 'middleware': 1, 'embedding_server': 1}" \
    "restarts['trainer'] == 2" # in an evaluation too: the others stay
for name in data_compose middleware trainer embedding_server; do
    grep -q "^$name/0 was killed by signal 9 (Killed); starting it again in 0\.[12] s$" "$work/out" || fail "it does not say that $name/0 ended"
done
grep -q '^data_compose/0 exited with status 0; starting it again in 0\.[1248] s$' "$work/out" || fail "it does not say who ended by itself"
[ "$(grep -c ' start version=' "$work/run/logs/data_compose-0.log")" -eq 3 ] || fail "the log does not have all starts"

# ---- in the midst of an evaluation, one trainer and then the other ----
has_begun() { # N -- evaluations, as the rank says that is not killed
    local begun
    begun=$(grep -sc ' phase kind=evaluate ' "$work/run/logs/trainer-$((1 - rank)).log")
    [ "${begun:-0}" -ge "$1" ]
}
local_start --config configs/synthetic --set data.synthetic.rows=40000 --set data.synthetic.test_rows=200000 --epochs 2 --trainers 2 "${again[@]}"
for rank in 1 0; do
    wait_for 100 "an evaluation" has_begun $((3 - 2 * rank))
    hit KILL "trainer-$rank"
done
wait_end 200
[ "$status" -eq 0 ] || fail "exit status $status: $(cat "$work/err")"
expect "'error' not in f" "samples_read == samples_trained == 2 * 40000" "test_samples == 200000" "restarts['trainer'] == 2"
nothing_left
for rank in 1 0; do
    grep -q " evaluation_again .*trainer/$rank was started anew" "$work/run/logs/trainer-0.log" || fail "trainer/$rank did not die in an evaluation"
done

# ---- exit status 2 ----
job_folder wrong 1 'a'
printf 'y\ta\n1\t3\n' | tee "$work/wrong/train.tsv" >"$work/wrong/test.tsv"
printf '  y: label\n  b: {kind: feature, feature: a}\n' >>"$work/wrong/data.yml"
printf 'tables:\n  a: {dim: 4}\nfeatures:\n  a: {}\n' >"$work/wrong/embedding.yml"
local_run --config "$work/wrong" "${again[@]}"
[ "$status" -eq 2 ] || fail "exit status $status, expected 2: $(cat "$work/err")"
grep -q "column 'a' is not in data.yml" "$work/err" || fail "no reason: $(cat "$work/err")"
expect "sum(restarts.values()) == 0"
nothing_left

# ---- again and again ----
local_start "${long[@]}" "${again[@]}"
wait_for 60 "training" is_training
old=0
while kill -0 "$supervisor" 2>/dev/null; do
    pid=$(cat "$work/run/pids/middleware-0")
    [ "$pid" = "$old" ] || kill -9 "$pid" 2>/dev/null
    old=$pid
    sleep 0.02
done
wait_end 1
[ "$status" -eq 1 ] || fail "exit status $status, expected 1"
grep -q '^saffron local: middleware/0 was killed by signal 9 (Killed); it was started again 10 times within 60 s, and is not any more (log: ' "$work/err" ||
    fail "it does not say why it gives up: $(cat "$work/err")"
expect "restarts['middleware'] == 10" "samples_read == samples_trained + samples_quarantined + samples_dropped"
nothing_left
