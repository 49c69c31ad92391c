#!/usr/bin/env bash
# Everything that a peer can get wrong on the wire, at each port of each role, while a job trains (hostile.c): one
# clear line each at the victim, and the job ends as if nothing had been.
. "$(dirname "$0")/lib.sh"
hostile=$B/tests/e2e/hostile
[ -x "$hostile" ] || fail "no program $hostile: run make B=$B unit"
logs=$work/run/logs

# address_of ROLE LOG -- as a peer was told it.
address_of() {
    sed -n "s/.* peer_up peer=$1\/0\.0 address=\([^ ]*\) .*/\1/p" "$logs/$2-0.log" | head -n 1
}

hash_of() {
    sed -n "s/.* $1=\([0-9a-f]*\).*/\1/p" "$logs/trainer-0.log" | head -n 1
}

# attack TIMES -- 1: the job was over before the attack was.
attack() {
    local attackers=() broken=0 role told_by address pid
    epochs=$((25 * $1))
    local_start --config configs/synthetic --set data.synthetic.rows=100000 --set data.synthetic.test_rows=2000 --epochs $epochs
    meanwhile 60 "training" is_training || return
    while read -r role told_by; do
        address=$(address_of "$role" "$told_by")
        [ -n "$address" ] || fail "$told_by was not told where $role is"
        timeout 120 "$hostile" "$address" "$logs/$role-0.log" "$role" synthetic "$(hash_of config_hash)" \
            "$(hash_of plan_hash)" >"$work/$role" 2>&1 &
        attackers+=("$!")
    done <<'LIST'
middleware trainer
embedding_server middleware
trainer data_compose
LIST
    for pid in "${attackers[@]}"; do
        wait "$pid" || broken=1
    done
    cat "$work/middleware" "$work/embedding_server" "$work/trainer"
    ! grep -q 'state now=done' "$logs/trainer-0.log" || return
    [ "$broken" -eq 0 ] || fail "a case went wrong"
}
long_enough attack
! grep -h 'peer_down' "$logs"/*-0.log || fail "a link of the job went"
wait_end $((200 * slow))
expect_success
expect "samples_read == $epochs * 100000" "samples_quarantined == 0" "steps >= $epochs * 98"
