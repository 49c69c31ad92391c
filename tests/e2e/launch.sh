#!/usr/bin/env bash
# launch.sh as containers run it: every variable of its environment, several trainers on a host, PID 1, and what
# is done when the job is done.
. "$(dirname "$0")/lib.sh"
export SAFFRON_BIN_DIR=$PWD/$B OMP_NUM_THREADS=1
unset "${!REPLICA_@}" "${!NPROC_@}" LOG_LEVEL
cp -r configs/synthetic "$work/job"
mkdir "$work/run dir" "$work/checkpoints"
trainers=() # pids of the newest of them

# ---- every variable: what it does, and what is said of a wrong value ----

# tells VARIABLE=VALUE... PATTERN ROLE -- what --describe prints of it.
tells() {
    local role=${!#} pattern=${*: -2:1}
    env "${@:1:$#-2}" ./launch.sh "$role" --describe >"$work/out" 2>&1 ||
        fail "$*: exit status $?: $(cat "$work/out")"
    grep -qE -e "$pattern" "$work/out" || fail "$*: expected '$pattern', got: $(cat "$work/out")"
}

# refuses VARIABLE=VALUE... PATTERN ROLE -- exit status 2, and one line (argp's hint beside) that names the variable.
refuses() {
    local role=${!#} pattern=${*: -2:1} rc
    env "${@:1:$#-2}" timeout 20 ./launch.sh "$role" >"$work/out" 2>&1
    rc=$?
    [ "$rc" -eq 2 ] || fail "$*: exit status $rc, expected 2: $(cat "$work/out")"
    [ "$(grep -cvE "^Try|^information" "$work/out")" -eq 1 ] || fail "$*: expected one line, got: $(cat "$work/out")"
    grep -qE -e "$pattern" "$work/out" || fail "$*: expected '$pattern', got: $(cat "$work/out")"
}

for file in global data embedding model; do
    declare -x "SAFFRON_${file^^}_CONFIG=$work/job/$file.yml"
done
export SAFFRON_JOB=table SAFFRON_NATS_URL=nats://127.0.0.1:1
sed 's/^mode: .*/mode: full/; s/^staleness: .*/staleness: 1/' "$work/job/global.yml" >"$work/full.yml"
sed 's/dim: *[0-9]*/dim: wide/' "$work/job/embedding.yml" >"$work/wide.yml"
sed 's/^use: .*/use: nothing/' "$work/job/model.yml" >"$work/nothing.yml"
cat >"$work/tsv.yml" <<'YAML'
name: here
format: tsv
train: ["part-*.tsv"]
columns: {label: label, c1: feature, c2: feature, c3: feature, c4: feature, c5: feature, c6: feature, c7: feature, c8: feature}
YAML
mkdir "$work/data"
touch "$work/data/part-1.tsv" "$work/data/part-2.tsv"

tells REPLICA_INDEX=2 REPLICA_SIZE=3 '^process middleware/2 of 3$' middleware
tells SAFFRON_JOB=other '^job other: ' trainer
tells SAFFRON_NATS_URL=nats://user:secret@10.1.2.3:99 'NATS +nats://10\.1\.2\.3:99$' trainer
tells SAFFRON_GLOBAL_CONFIG="$work/full.yml" '^job table: full' trainer
tells SAFFRON_DATA_CONFIG="$work/tsv.yml" SAFFRON_DATA_DIR="$work/data" '^data here: 2 train and 0 test' datacompose
tells SAFFRON_MODELS_DIR="$PWD/configs/models" '^model dlrm' trainer
tells SAFFRON_RUN_DIR="$work/run dir" 'run dir +/.*/run dir$' datacompose
tells SAFFRON_CHECKPOINT_DIR="$work/checkpoints" 'checkpoints +/.*/checkpoints$' embserver
tells SAFFRON_BIND=127.0.0.9 'data plane +127\.0\.0\.9:7300$' embserver
tells NPROC_PER_NODE=8 REPLICA_INDEX=3 REPLICA_SIZE=8 '^process trainer/24 of 64, number 0 of the 8 on this host$' trainer
tells NPROC_PER_NODE=8 SAFFRON_LOCAL_RANK=5 REPLICA_INDEX=3 REPLICA_SIZE=8 '^process trainer/29 of 64' trainer
tells NPROC_PER_NODE=8 SAFFRON_LOCAL_RANK=5 REPLICA_INDEX=3 REPLICA_SIZE=8 'data plane +127\.0\.0\.1:7605$' trainer
tells NPROC_PER_NODE=8 SAFFRON_LOCAL_RANK=5 REPLICA_INDEX=3 REPLICA_SIZE=8 'admin +127\.0\.0\.1:9105$' trainer

while read -r variables pattern role; do
    IFS=, read -r -a assignment <<<"$variables"
    refuses "${assignment[@]}" "${pattern//_/ }" "$role"
done <<TABLE
REPLICA_INDEX=x REPLICA.INDEX:.expected.an.integer trainer
REPLICA_INDEX=3,REPLICA_SIZE=2 REPLICA.INDEX\)_is_3,_expected_less trainer
REPLICA_SIZE=0 REPLICA.SIZE:_expected_an_integer_in_1 middleware
NPROC_PER_NODE=0 NPROC.PER.NODE:_expected_an_integer_in_1\.\.64,_got_'0' trainer
NPROC_PER_NODE=many NPROC.PER.NODE:_expected_an_integer_in_1\.\.64,_got_'many' trainer
NPROC_PER_NODE=2 NPROC.PER.NODE\)_is_2,_expected_1:_only_trainers middleware
NPROC_PER_NODE=2,REPLICA_INDEX=0,CUDA_VISIBLE_DEVICES=5 CUDA.VISIBLE.DEVICES:_'5'_names_1,_expected_one_for_each_of_the_2 trainer
NPROC_PER_NODE=2,SAFFRON_LOCAL_RANK=2 SAFFRON.LOCAL.RANK\)_is_2,_expected_less_than trainer
SAFFRON_JOB=two.words SAFFRON.JOB:_expected_1_to_63_of_A-Z_a-z_0-9 embserver
SAFFRON_NATS_URL=http://here SAFFRON.NATS.URL:_expected_nats://HOST:PORT datacompose
SAFFRON_GLOBAL_CONFIG=/no/global.yml /no/global\.yml:_cannot_open:_No_such_file trainer
SAFFRON_DATA_CONFIG=/no/data.yml /no/data\.yml:_cannot_open:_No_such_file datacompose
SAFFRON_EMBEDDING_CONFIG=$work/wide.yml wide\.yml:[0-9]+:.*dim:_expected_an_integer embserver
SAFFRON_MODEL_CONFIG=$work/nothing.yml nothing trainer
SAFFRON_DATA_CONFIG=$work/tsv.yml,SAFFRON_DATA_DIR=/no no_file_matches_'part-\*\.tsv'_in_/no_ datacompose
SAFFRON_RUN_DIR=/proc/no SAFFRON.RUN.DIR\):_/proc/no datacompose
SAFFRON_CHECKPOINT_DIR=/no/where SAFFRON.CHECKPOINT.DIR\):_/no/where:_No_such trainer
SAFFRON_CHECKPOINT_DIR=$work/tsv.yml SAFFRON.CHECKPOINT.DIR\):_.*tsv\.yml:_expected_a_folder embserver
SAFFRON_BIND=localhost SAFFRON.BIND:_expected_an_IP_address,_got_'localhost' middleware
SAFFRON_ADVERTISE=10.0.0 SAFFRON.ADVERTISE:_expected_an_IP_address middleware
LOG_LEVEL=loud LOG.LEVEL:_.*'loud' trainer
TABLE

# The host name's number, where a namespace lets us have one.
if unshare --uts true 2>/dev/null; then
    REPLICA_SIZE=4 unshare --uts sh -c 'hostname trainer-3.trainers && exec ./launch.sh trainer --describe' >"$work/out" 2>&1
    grep -q '^process trainer/3 of 4$' "$work/out" || fail "host trainer-3: $(cat "$work/out")"
    unshare --uts sh -c 'hostname trainer-3 && exec ./launch.sh trainer' >"$work/out" 2>&1
    [ $? -eq 2 ] || fail "host trainer-3 of 1: expected exit status 2"
    grep -q "host name 'trainer-3' makes this number 3 of 1" "$work/out" || fail "host trainer-3 of 1: $(cat "$work/out")"
fi

# ---- a job: two trainers on a host ----

# Ports of our own: free ones side by side.
read -r port base <<<"$("$python" - <<'PY'
import random, socket
def free(p):
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", p)) != 0
while True:
    p = random.randrange(20000, 32000)
    if all(free(q) for q in range(p, p + 30)):
        print(p, p + 10)
        break
PY
)"
nats-server -a 127.0.0.1 -p "$port" >"$work/nats.log" 2>&1 &
export SAFFRON_JOB=launch SAFFRON_NATS_URL=nats://127.0.0.1:$port SAFFRON_RUN_DIR="$work/run dir"
export SAFFRON_CHECKPOINT_DIR=$work/checkpoints NCCL_SOCKET_IFNAME=lo
sets=(--set "global.ports.trainer=$base" --set "global.ports.admin=$((base + 10))" --set data.epochs=2
    --set data.synthetic.rows=20000 --set data.synthetic.test_rows=5000)
declare -A pid_of # by role

# role ROLE [ARG...] -- in the background.
role() {
    local name=$1
    shift
    : >"$work/$name" # what is read now is not of its predecessor
    case $name in
    trainer) NPROC_PER_NODE=2 CUDA_VISIBLE_DEVICES=3,7 REPLICA_INDEX=0 ./launch.sh trainer "${sets[@]}" "$@" \
        >"$work/trainer" 2>&1 & ;;
    *) ./launch.sh "$name" "${sets[@]}" --admin-port 0 "$@" >"$work/$name" 2>&1 & ;;
    esac
    pid_of[$name]=$!
}

# says SECONDS ROLE TIMES PATTERN
says() {
    local tries=$(($1 * 20 * slow))
    until [ "$(grep -cE -e "$4" "$work/$2")" -ge "$3" ]; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || fail "$2 does not say '$4' $3 times: $(tail -n 20 "$work/$2")"
        sleep 0.05
    done
}

# gone ROLE STATUS -- it ends soon, with the status.
gone() {
    local tries=$((1000 * slow)) rc
    while kill -0 "${pid_of[$1]}" 2>/dev/null; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || fail "$1 is still there: $(tail "$work/$1")"
        sleep 0.02
    done
    wait "${pid_of[$1]}" 2>/dev/null
    rc=$?
    [ "$rc" -eq "$2" ] || fail "$1: exit status $rc, expected $2: $(tail "$work/$1")"
}

# get PORT PATH
get() {
    "$python" -c 'import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=5).read().decode())' \
        "http://127.0.0.1:$1$2"
}

children() {
    mapfile -t trainers < <(pgrep -P "${pid_of[trainer]}" | sort -n)
    [ "${#trainers[@]}" -eq 2 ] || fail "expected two trainers below ${pid_of[trainer]}: ${trainers[*]}"
}

for name in embserver middleware trainer datacompose; do
    role "$name"
done
says 20 trainer 2 'state now=ready'
children
for rank in 0 1; do
    get $((base + 10 + rank)) /status >"$work/status" || fail "rank $rank: no /status"
    "$python" - "$work/status" "$rank" <<'PY' || fail "rank $rank: $(cat "$work/status")"
import json, sys
s, rank = json.load(open(sys.argv[1])), int(sys.argv[2])
sys.exit(not (s["role"] == "trainer" and s["index"] == s["rank"] == rank and s["world"] == 2))
PY
    tr '\0' '\n' <"/proc/${trainers[rank]}/environ" >"$work/environ"
    local_rank=$(sed -n 's/^SAFFRON_LOCAL_RANK=//p' "$work/environ")
    device=$([ "$local_rank" = 0 ] && echo 3 || echo 7)
    grep -qx "CUDA_VISIBLE_DEVICES=$device" "$work/environ" || fail "local rank $local_rank does not see GPU $device"
    grep -qx "NCCL_SOCKET_IFNAME=lo" "$work/environ" || fail "NCCL_SOCKET_IFNAME did not reach rank $rank"
done

# The result stands in rank 0's log and status; everybody is done, and stays.
says 30 trainer 2 'state now=done'
says 5 trainer 1 '^[^ ]+ INFO trainer/0 result test_auc=0\.[0-9]+ test_logloss=0\.[0-9]+ test_samples=5000 train_loss=0\.[0-9]+ epochs=2 '
for name in embserver middleware datacompose; do
    says 10 "$name" 1 'state now=done'
done
get $((base + 10)) /status >"$work/status"
"$python" -c 'import json, sys
s = json.load(open(sys.argv[1]))
sys.exit(not (s["state"] == "done" and s["done"] and s["test_auc"] > 0.6 and s["train_loss"] < 0.7))' "$work/status" ||
    fail "the trainer's status at the end: $(cat "$work/status")"

# Whoever is started anew hears of the end: one rank's death ends both, and its status is theirs.
kill -9 "${trainers[1]}"
gone trainer 137
grep -qE '^saffron ranks: the process with SAFFRON_LOCAL_RANK 1 was killed by signal 9; ending the other 1$' "$work/trainer" ||
    fail "nobody says which rank was killed: $(tail "$work/trainer")"
[ "$(grep -c 'stopping by=SIGTERM' "$work/trainer")" -eq 1 ] || fail "the other rank did not end in order"
role trainer
says 10 trainer 2 'state now=done'
says 5 trainer 1 'job_is_done told_by=data_compose/0'
children
for name in embserver middleware datacompose; do
    for signal in TERM KILL; do
        kill "-$signal" "${pid_of[$name]}"
        gone "$name" "$([ "$signal" = TERM ] && echo 0 || echo 137)"
        role "$name"
        says 10 "$name" 1 'state now=done'
    done
done
for signal in TERM INT HUP; do
    kill "-$signal" "${pid_of[trainer]}"
    gone trainer 0
    [ "$(grep -c 'stopping by=SIGTERM' "$work/trainer")" -eq 2 ] || fail "SIG$signal did not reach both ranks"
    role trainer
    says 10 trainer 2 'state now=done'
done
kill -9 "${pid_of[trainer]}" # its ranks do not outlive it
gone trainer 137
for ((i = 0; i < 250 * slow; i++)); do
    grep -c 'stopping by=SIGTERM' "$work/trainer" | grep -qx 2 && break
    sleep 0.02
done
[ "$i" -lt $((250 * slow)) ] || fail "ranks outlive the process that started them: $(tail "$work/trainer")"

# LOG_LEVEL, SAFFRON_BIND and SAFFRON_RUN_DIR at work.
kill "${pid_of[middleware]}"
gone middleware 0
LOG_LEVEL=warn SAFFRON_BIND=127.0.0.7 role middleware --port $((base + 5))
wait_listen() { "$python" -c 'import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 1)' "$@" 2>/dev/null; }
for ((i = 0; i < 100 * slow; i++)); do
    wait_listen 127.0.0.7 $((base + 5)) && break
    sleep 0.05
done
[ "$i" -lt $((100 * slow)) ] || fail "SAFFRON_BIND: nobody listens on 127.0.0.7:$((base + 5))"
! grep -q ' INFO ' "$work/middleware" || fail "LOG_LEVEL=warn: $(cat "$work/middleware")"
[ -s "$work/run dir/incarnations/data_compose-0" ] || fail "SAFFRON_RUN_DIR: nothing was written to it"
for name in embserver middleware datacompose; do
    kill "${pid_of[$name]}"
    gone "$name" 0
done

# ---- PID 1 ----

unshare --pid --fork --mount-proc true 2>/dev/null || skip "all but PID 1: no PID namespace can be made here"

# as_init ROLE -- in a PID namespace of its own; $init is its PID outside.
as_init() {
    : >"$work/$1"
    NPROC_PER_NODE=${2:-1} REPLICA_INDEX=0 unshare --pid --fork --mount-proc \
        ./launch.sh "$1" "${sets[@]}" >"$work/$1" 2>&1 &
    pid_of[$1]=$!
    says 10 "$1" "${2:-1}" 'state now=(waiting|ready)'
    init=$(pgrep -P "${pid_of[$1]}")
}

for case in "trainer 2" "trainer 1" "middleware 1"; do
    read -r name n <<<"$case"
    as_init "$name" "$n"
    [ "$(sed -n 's/^NSpid:.*[[:space:]]//p' "/proc/$init/status")" -eq 1 ] || fail "$name is not PID 1"
    # An orphan ends: its zombie is reaped.
    orphan=$(nsenter -t "$init" -p -m -r sh -c 'sleep 0.1 >/dev/null & readlink /proc/self >/dev/null; echo $!')
    [ -n "$orphan" ] || fail "no orphan could be made"
    for ((i = 0; i < 200; i++)); do
        nsenter -t "$init" -p -m -r test -e "/proc/$orphan" || break
        sleep 0.05
    done
    [ "$i" -lt 200 ] || fail "$name as PID 1 leaves a zombie"
    kill -TERM "$init"
    gone "$name" 0
    [ "$(grep -c 'stopping by=SIGTERM' "$work/$name")" -eq "$n" ] || fail "$name as PID 1: $(cat "$work/$name")"
done

# A container may be told to stop before it has come far: while launch.sh still looks at the files, then soon after.
mkdir "$work/slow"
printf '#!/bin/sh\necho >"%s"; exec sleep 1\n' "$work/looks" >"$work/slow/saffron-trainer"
chmod +x "$work/slow/saffron-trainer"
SAFFRON_BIN_DIR=$work/slow NPROC_PER_NODE=2 REPLICA_INDEX=0 unshare --pid --fork --mount-proc ./launch.sh trainer \
    >"$work/trainer" 2>&1 &
pid_of[trainer]=$!
until [ -e "$work/looks" ]; do sleep 0.02; done
kill -TERM "$(pgrep -P "${pid_of[trainer]}")"
gone trainer 0
REPLICA_INDEX=0 unshare --pid --fork --mount-proc ./launch.sh trainer "${sets[@]}" >"$work/trainer" 2>&1 &
pid_of[trainer]=$!
# takes_term PID -- the program runs, and holds SIGTERM back or handles it.
takes_term() {
    local mask
    [[ $(readlink "/proc/$1/exe") == *saffron-trainer ]] || return 1
    while read -r mask; do
        [ $((0x$mask & 1 << 14)) -eq 0 ] || return 0
    done < <(sed -n 's/^Sig\(Blk\|Cgt\):[[:space:]]*//p' "/proc/$1/status")
    return 1
}
for ((SECONDS = 0; SECONDS < 20 * slow; )); do
    init=$(pgrep -P "${pid_of[trainer]}")
    [ -z "$init" ] || ! takes_term "$init" || break
done
kill -TERM "$init"
gone trainer 0
exit 0
