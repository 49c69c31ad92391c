#!/usr/bin/env bash
# An embedding server that is told to stop alone loses nothing: trainer/0 makes a checkpoint at once, for which it waits, and no step
# follows before it has gone. There is no other checkpoint in this job: who is killed loses all.
. "$(dirname "$0")/lib.sh"

# hit SIGNAL NAME -- and wait until there is another process of that name.
hit() {
    local old
    old=$(cat "$work/run/pids/$2")
    kill "-$1" "$old"
    wait_for 20 "$2 is started again" is_new "$2" "$old"
}
is_new() {
    [ "$(cat "$work/run/pids/$1")" != "$2" ]
}
# go_on -- there is something to be lost again.
go_on() {
    wait_for 20 "another step" has_stepped "$(($(sed -n 's/.* checkpoint name=[^ ]* step=\([0-9]*\) .*/\1/p' "$log" | tail -n 1) + 1))"
}
epochs=50
log=$work/run/logs/trainer-0.log

for mode in "--set global.mode=hybrid" "--set global.mode=full --set global.exact=true"; do
    # shellcheck disable=SC2086 # words
    local_start "${short[@]}" $mode --epochs $epochs --trainers 2 --embedding-servers 2 --set global.checkpoint.every_seconds=0 --restart on-failure
    wait_for 60 "training" is_training
    for i in 0 1 0 1; do # the second while the first comes back, where no step may have been made: it needs no checkpoint then
        sleep "0.$((RANDOM % 4))"
        SECONDS=0
        hit TERM embedding_server-$i
        [ "$SECONDS" -le $((4 * slow)) ] || fail "embedding_server/$i took $SECONDS s to end"
        [ "$i" -eq 0 ] || go_on
    done
    wait_end 200
    expect_success
    expect "samples_trained == $epochs * 40000" "restarts['embedding_server'] == 4" "restarts['trainer'] == 0"
    made=$(grep -c ' checkpoint name=' "$log")
    [[ $made -ge 2 && $made -le 4 ]] || fail "$made checkpoints: $(grep -E ' checkpoint|WARN' "$log")"
    grep -q ' checkpoint name=.* full=0 ' "$log" || fail "no increment: $(grep ' checkpoint' "$log")"
    ! grep -q 'updates_lost\|goes_back' "$work"/run/logs/*.log || fail "$(grep -h 'updates_lost\|goes_back' "$work"/run/logs/*.log)"
done
