#!/usr/bin/env bash
# The guide's pages that are worked through: own-data.md, saved-model.md, own-model.md, tables.md and machines.md, each command exactly as it
# stands there, one page after another in one folder where launch.sh is; what they promise is checked.
# The three machines of machines.md are three addresses in a network of their own (or, where none can be made, of
# the loopback). Then what all pages say is compared with what is there: tests/docs/*.py.
. "$(dirname "$0")/lib.sh"
export SAFFRON_BIN_DIR=$PWD/$B
[[ $B != /* ]] || SAFFRON_BIN_DIR=$B
top=$PWD
left=() # what cannot be tried here
mkdir "$work/tree"
for part in *; do
    [ "$part" = runs ] || ln -s "$top/$part" "$work/tree/$part"
done
# The pages call programs of the default folder.
rm -f "$work/tree/build"
mkdir "$work/tree/build"
ln -s "$SAFFRON_BIN_DIR" "$work/tree/build/release"

# commands PAGE -- the lines of its ```bash blocks.
# shellcheck disable=SC2016 # the backquotes are markdown
commands() {
    sed -n '/^```bash$/,/^```$/p' "docs/$1" | grep -v '^```'
}

follow() { # PAGE LINES -- which has so many lines of commands at least
    commands "$1" >"$work/commands"
    [ "$(wc -l <"$work/commands")" -ge "$2" ] || fail "docs/$1 has hardly any commands"
    (cd "$work/tree" && bash -eu -o pipefail "$work/commands") >"$work/out" 2>"$work/err" ||
        fail "a command of docs/$1: exit status $?"
}

check() { # RUN PYTHON...
    rm -rf "$work/run"
    cp -r "$work/tree/runs/$1" "$work/run"
    shift
    expect "'error' not in f" "samples_trained == samples_read - samples_quarantined" "$@"
    nothing_left
}

follow own-data.md 40
shop=("samples_read == epochs * 45000" "samples_quarantined == epochs * 2" "test_samples == 5000")
check shop "${shop[@]}" "0.8 < test_auc < 0.85" "model == 'dlrm'" "epochs == 2"
check shop-2 "${shop[@]}" "0.8 < test_auc < 0.85" "epochs == 2"
check shop-mlp "${shop[@]}" "0.6 < test_auc < 0.85" "model == 'mlp'" "epochs == 3"
check shop-binary "samples_read == epochs * 44998" "samples_quarantined == 0" "0.8 < test_auc < 0.85" "epochs == 2"
check clicks "samples_read == 20000" "test_auc > 0.55"
grep -q 'AUC 0\.8' "$work/out" || fail "prints no AUC"
# What the page shows of the quarantine is what is there; the rows themselves are one awk's random numbers.
sed -n '/^shop\/train.tsv\t/p' docs/own-data.md | cut -f1-3 >"$work/shown"
[ "$(wc -l <"$work/shown")" -eq 2 ] || fail "the page shows no bad rows"
cut -f1-3 "$work/tree/runs/shop/quarantine/data_compose-0.tsv" >"$work/listed"
diff "$work/shown" "$work/listed" || fail "the page shows other bad rows"

# The scores of PyTorch, and of a job that only evaluates, are those of the job that saved the model.
venv=$top/build/venv/bin
if "$venv/python3" -c 'import safetensors, torch, xxhash' 2>/dev/null; then
    path=$PATH PATH=$venv:$PATH
    follow saved-model.md 50
    PATH=$path
    "$python" - "$work" <<'PY' || fail "docs/saved-model.md: not the scores of the job: $(cat "$work/out")"
import json, re, sys
work = sys.argv[1]
want, again = (json.load(open(f"{work}/tree/runs/{run}/summary.json")) for run in ("shop", "shop-test"))
auc, loss = map(float, re.search(r"^AUC ([\d.]+)  log loss ([\d.]+)$", open(f"{work}/out").read(), flags=re.M).groups())
assert abs(auc - want["test_auc"]) < 1e-5 and abs(loss - want["test_logloss"]) < 1e-5, (auc, loss, want)
assert abs(again["test_auc"] - want["test_auc"]) < 1e-6 and abs(again["test_logloss"] - want["test_logloss"]) < 1e-6, again
PY
    sed -n '2,$p' "$work/tree/shop/scores.tsv" | cut -f1 | sort -n | diff -q - <(seq 5000) >/dev/null ||
        fail "docs/saved-model.md: shop/scores.tsv has not each of the 5000 rows once"
    [ "$(head -n 1 "$work/tree/shop/scores.tsv")" = "$(printf 'key\tloss')" ] || fail "docs/saved-model.md: other names in shop/scores.tsv"
    check shop-on "${shop[@]}" "test_auc > 0.8" "epochs == 1"
    check shop-dense "${shop[@]}" "epochs == 1"
    [ "$(ls "$work/run/model")" = "$(printf 'dense.safetensors\nmodel.yml')" ] || fail "docs/saved-model.md: save: dense left more"
else
    left+=("docs/saved-model.md, no torch, safetensors and xxhash for Python;")
fi

follow own-model.md 15
check shop-pairs "${shop[@]}" "0.7 < test_auc < 0.85" "model == 'pairs'" "epochs == 3"
check shop-small "${shop[@]}" "test_auc > 0.5" "model == 'pairs'" "epochs == 2"
# The layers that the page shows are those that the program prints.
sed -n '/^model pairs, from/,/dense parameters/p' docs/own-model.md >"$work/shown"
sed -n '/^model pairs, from/,/dense parameters/p' "$work/out" >"$work/listed"
[ -s "$work/shown" ] || fail "docs/own-model.md shows no layers"
diff "$work/shown" "$work/listed" || fail "docs/own-model.md shows other layers"

follow tables.md 20
check shop-tables "${shop[@]}" "0.73 < test_auc < 0.85" "bytes_per_row < 250" "rows_total == 400 + 300 + 24 + 24"
check shop-lfu "${shop[@]}" "0.73 < test_auc < 0.85" "rows_total == 400 + 300 + 24 + 24"
check shop-cap "${shop[@]}" "0.73 < test_auc < 0.85"

follow plan.md 18
sed -n '/^TABLE /,/^```$/p' docs/plan.md | grep -v '^```' >"$work/shown"
head -n "$(wc -l <"$work/shown")" "$work/out" >"$work/listed"
diff "$work/shown" "$work/listed" || fail "docs/plan.md shows another plan"
grep -qE '^all .* 23\.[01] TB$' "$work/out" || fail "docs/plan.md: not 23 TB"
grep -qx 'EMBEDDING SERVERS of 8 workers: 12, needed for' "$work/out" || fail "docs/plan.md: not 12 servers"
"$python" -c 'import json, sys
plan = json.load(open(sys.argv[1]))
sys.exit(plan["embedding_servers"] != 1)' "$work/tree/shop-plan.json" || fail "docs/plan.md: not one server of 16-bit rows"

# ---- Kubernetes: what the page writes comes to two pods of each role with the shop's files ----
if kubectl kustomize k8s/base >/dev/null 2>&1; then
    follow kubernetes.md 30
    "$python" - "$work/tree/shop.yaml" <<'PY' || fail "docs/kubernetes.md: not what it says"
import re, sys
objects = open(sys.argv[1]).read().split("\n---\n")
roles = [o for o in objects if "\nkind: StatefulSet\n" in o and "saffron-nats\n" not in o.split("\nspec:")[0]]
assert len(roles) == 4, len(roles)
for role in roles:
    assert re.search(r"^  replicas: 2$", role, flags=re.M), role
    assert "image: registry.example.com/saffron:" in role, role
    size = re.search(r"name: REPLICA_SIZE\n +value: \"?(\d+)", role)
    assert size and size.group(1) == "2", role
job = [o for o in objects if "\nkind: ConfigMap\n" in o and "name: saffron-job-" in o]
assert len(job) == 1 and "train.tsv" in job[0] and "use: dlrm" in job[0], job
PY
    if "$python" -c 'import yaml' 2>/dev/null; then
        "$python" tests/k8s/check.py --rendered "$work/tree/shop.yaml" ||
            fail "docs/kubernetes.md: its overlay is not as ours have to be"
    fi
else
    left+=("docs/kubernetes.md, no kubectl that renders;")
fi

# ---- several machines ----
# Blocks of machines.md: the first is one machine's job, the others are one machine each.
awk -v to="$work/block-" '/^```bash$/ { n++; on = 1; next } /^```$/ { on = 0 } on { print >(to n) }' docs/machines.md
[ "$(echo "$work"/block-*)" = "$(echo "$work"/block-{1,2,3,4})" ] || fail "docs/machines.md: expected 4 blocks"
(cd "$work/tree" && bash -eu "$work/block-1") >"$work/out" 2>"$work/err" || fail "a command of docs/machines.md: $?"
grep -q 'AUC 0\.' "$work/out" || fail "docs/machines.md: the first command prints no AUC"
# shellcheck disable=SC2016 # the backquotes are markdown
mapfile -t asks < <(sed -n '/^```sh$/,/^```$/p' docs/machines.md | grep -v '^```')
[ "${#asks[@]}" -eq 2 ] || fail "docs/machines.md: expected status and stop"

# Each machine is a shell that stays until the job is stopped, and then takes its background commands with it.
cat >"$work/driver" <<'END'
work=$1 status=$2 stop=$3 slow=$4
cd "$work/tree" || exit 1
trap 'touch "$work/stopped"; kill $(jobs -pr) 2>/dev/null' EXIT
machines=()
for n in 4 3 2; do # the order does not matter, says the page
    {
        echo "trap 'until [ -e $work/stopped ]; do sleep 0.1; done; kill \$(jobs -pr) 2>/dev/null || true' EXIT"
        cat "$work/block-$n"
    } >"$work/machine-$n"
    cp -a "$work/tree" "$work/tree-$n" # nothing is shared but the network
    (cd "$work/tree-$n" && exec bash -eu "$work/machine-$n") >"$work/machine-$n.log" 2>&1 &
    machines+=("$!")
done
for ((tries = 150 * slow; tries > 0; tries--)); do
    $status >"$work/status" 2>&1
    [ "$(grep -cE '^[a-z_]+/[0-9] +done ' "$work/status")" -lt 7 ] || break
    sleep 0.2
done
[ "$tries" -gt 0 ] || { echo "the machines are not done:"; cat "$work/status" "$work"/machine-*.log "$work"/tree-*/*.log; exit 1; }
cat "$work/status"
$stop || exit 1
touch "$work/stopped"
for pid in "${machines[@]}"; do
    wait "$pid" || { echo "a machine ended with $?"; cat "$work"/machine-*.log "$work"/tree-*/*.log; exit 1; }
done
END
# A network where all three addresses are this machine's, and a process tree that ends with its first.
own=()
for try in "unshare -npf --kill-child" "unshare -rnpf --kill-child"; do
    # shellcheck disable=SC2086 # words
    if $try ip link set lo up 2>/dev/null; then
        read -r -a own <<<"$try"
        break
    fi
done
if [ "${#own[@]}" -gt 0 ]; then
    # shellcheck disable=SC2016 # the driver's own
    {
        echo 'ip link set lo up; for n in 1 2 3; do ip addr add "10.0.0.$n/32" dev lo; done'
        cat "$work/driver"
    } >"$work/driver-own"
    mv "$work/driver-own" "$work/driver"
else
    echo "no network of its own can be made here: the machines are 127.0.0.1, .2 and .3"
    for port in 4222 9100; do
        ! (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null || fail "somebody listens on port $port, which docs/machines.md takes"
    done
    sed -i 's/10\.0\.0\./127.0.0./g' "$work"/block-*
    asks=("${asks[@]//10.0.0./127.0.0.}")
fi
timeout $((60 * slow)) ${own[@]+"${own[@]}"} bash "$work/driver" "$work" "${asks[0]}" "${asks[1]}" "$slow" >"$work/out" 2>&1 ||
    fail "docs/machines.md: $(cat "$work/out")"
for role in trainer embedding_server middleware; do
    grep -q "^$role/1 " "$work/out" || fail "docs/machines.md: status names no $role/1"
done
grep -q "7 processes of job 'shop' are stopping" "$work/out" || fail "docs/machines.md: stop: $(tail -n 2 "$work/out")"
grep -qE 'INFO trainer/0 result test_auc=0\.[78]' "$work/tree-3/trainer-0.log" || fail "docs/machines.md: no AUC in the log"

# What the page shows of a status is what is there, but for incarnations and rows.
for file in docs/machines.md "$work/out"; do
    awk '$1 == "ROLE" { on = 1 } on && $1 ~ /\/[0-9]/ { print $1, $2, $5, $6 } /stopping|^```/ { on = 0 }' "$file"
done | sort | uniq -c | grep -v '^ *2 ' && fail "docs/machines.md shows another status"

# ---- what the pages say is there ----
# Questions to Prometheus are at least its language.
if command -v promtool >/dev/null; then
    {
        printf 'groups:\n  - name: pages\n    rules:\n'
        # shellcheck disable=SC2016 # the backquotes are markdown
        sed -n '/ask Prometheus/,/^$/s/^| .* | `\([^`]*\)` |$/\1/p' docs/slow.md docs/metrics.md | awk -v q="'" '{
            print "      - record: saffron:page" NR; print "        expr: " q $0 q }'
    } >"$work/rules.yml"
    promtool check rules "$work/rules.yml" >"$work/out" 2>&1 || fail "a question to Prometheus: $(cat "$work/out")"
    [ "$(grep -c expr "$work/rules.yml")" -ge 8 ] || fail "the pages ask Prometheus hardly anything"
else
    left+=("questions to Prometheus, no promtool;")
fi
for script in tests/docs/*.py; do
    "$python" "$script" "$SAFFRON_BIN_DIR" >"$work/out" 2>&1 || fail "$script:
$(cat "$work/out")"
done
# What programs say of a beginner's mistakes is explained.
while read -r command; do
    (cd "$work/tree" && timeout 60 bash -c "$command") >"$work/out" 2>"$work/err" </dev/null && fail "no mistake: $command"
    "$python" tests/docs/messages.py match "$work/err" >"$work/answer" 2>&1 ||
        fail "docs/trouble.md does not explain '$command': $(cat "$work/answer")"
done <<'END'
./launch.sh trainr
./launch.sh local --config nowhere
./launch.sh local --config shop --set data.batch_size=big
./launch.sh local --config shop --set global.stalenes=3
./launch.sh local --config shop --set batch_size=3
./launch.sh local --config shop --model nothing
./launch.sh local --config shop --run-dir runs/shop
./launch.sh local --config shop --epochs many
./launch.sh local --config shop --data /nowhere
./launch.sh local --config shop --set 'model.params.top=[8]'
./launch.sh local --config shop --set data.columns.clicked=feature
./launch.sh local --config shop --set embedding.tables.user.eviction.type=lru
./launch.sh local --config shop --set global.mode=full --set global.exact=true --set embedding.defaults.ttl_seconds=60
./launch.sh local --config shop --set global.embedding_server.memory=1000
./launch.sh local --config shop --set data.max_bad_ratio=0 --run-dir runs/bad
./launch.sh local --config shop --nats http://127.0.0.1
./launch.sh trainer
./launch.sh middleware --config shop --bind nowhere
REPLICA_INDEX=5 ./launch.sh embserver --config shop
SAFFRON_BIN_DIR=/nowhere ./launch.sh trainer
build/release/saffron plan --config shop
build/release/saffron plan --config shop --rows usr=3
build/release/saffron plan --config shop --rows many
build/release/saffron plan --config shop --rows 1e30
build/release/saffron plan --config shop --rows 1G --distinct 2
build/release/saffron plan --config shop --rows 1G --trainers 0
build/release/saffron plan --config shop --rows 1G --samples-per-second 1k
build/release/saffron plan --config shop --rows 1T --embedding-servers 1
build/release/saffron plan --config shop --rows 1G --embedding-servers 1 --server-memory 10GB
build/release/saffron plan --config shop --rows 1G --server-memory 1M
build/release/saffron status
build/release/saffron status --run-dir shop
build/release/saffron stop --job none --nats nats://127.0.0.1:1
END
# They find what is wrong: pages with one mistake of each kind.
rm "$work/tree/docs"
cp -r docs "$work/tree/docs"
# shellcheck disable=SC2016 # the backquotes are markdown
(
    cd "$work/tree/docs" || exit 1
    sed -i 's/`given twice`/`given thrice`/; /^| `RT_EFULL`/d; s/^### SaffronNoProgress/### Saffron/' trouble.md
    sed -i '/^| `concat`/d; s/^| `bce` |/| `no_such` |/' own-model.md
    sed -i 's/--admin-port 9101/--admin-prot 9101/; s/SAFFRON_ADVERTISE/SAFFRON_ADVERTISED/' machines.md
    sed -i 's/saffron_trainer_permits)/saffron_trainer_permit)/; s/trouble\.md#saffronbatchesretried/trouble.md#none/' slow.md
    sed -i 's/own-model\.md/my-model.md/' own-data.md
    sed -i '/^| .*adam.* 168 |$/s/168/169/' tables.md
)
for script in tests/docs/*.py; do
    (cd "$work/tree" && "$python" "$script" "$SAFFRON_BIN_DIR") && fail "$script: finds nothing in pages with mistakes"
done >"$work/out" 2>&1
while read -r finding; do
    grep -qF -- "$finding" "$work/out" || fail "not found by tests/docs: $finding; but: $(cat "$work/out")"
done <<'END'
no entry in docs/trouble.md for: given twice
no source says: given thrice
no entry for the error name RT_EFULL
no anchor for the alert SaffronNoProgress
layer type concat has no row
layer type bce has no row
layer type no_such is not there
flag --admin-prot: no --help has it
variable SAFFRON_ADVERTISED: nothing reads it
metric saffron_trainer_permit: no source registers it
link to trouble.md#none: docs/trouble.md has no such heading
link to my-model.md: there is no docs/my-model.md
shown [8, 0, 0, 32, 128, 169], expected [8, 0, 0, 32, 128, 168]
END
[ "${#left[@]}" -eq 0 ] || skip "all but: ${left[*]}"
exit 0
