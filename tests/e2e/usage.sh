#!/usr/bin/env bash
# What is wrong with a command line or a job is said in one line, with exit 2, before anything starts; what is
# wrong with the data, when it is read.
. "$(dirname "$0")/lib.sh"
cp -r configs/synthetic "$work/job"

# refused WHAT PATTERN ARG...
refused() {
    local what=$1 pattern=$2
    shift 2
    rm -rf "$work/run"
    timeout 20 "$B/saffron" "$@" >"$work/out" 2>"$work/err"
    local status=$?
    [ "$status" -eq 2 ] || fail "$what: exit status $status, expected 2: $(cat "$work/err")"
    grep -qE -e "$pattern" "$work/err" || fail "$what: expected '$pattern', got: $(cat "$work/err")"
    [ ! -e "$work/run" ] || [ -z "$(ls "$work/run/pids" 2>/dev/null)" ] || fail "$what: something was started"
}

run=(local --run-dir "$work/run" --config "$work/job")
refused "no command" "Usage: saffron"
refused "unknown command" "unknown command 'tran'" tran
refused "--restart" "--restart: expected on-failure or never, got 'always'" "${run[@]}" --restart always
refused "--restore of no run" "--restore latest: of which run\\? give --run-dir" local --config "$work/job" --restore latest
refused "--restore of nothing" "--restore latest: there is no checkpoint in .*/run/checkpoints" "${run[@]}" --restore latest
refused "unknown option" "unrecognized option '--epoch-count'" local --epoch-count 3
refused "no number" "epochs: expected an integer in 0\.\..*, got 'many'" "${run[@]}" --epochs many
refused "trainers" "--trainers: expected an integer in 1\.\.64, got '0'" "${run[@]}" --trainers 0
refused "max steps" "--max-steps: expected an integer in 1\.\..*, got '-5'" "${run[@]}" --max-steps=-5
for url in http://127.0.0.1:4222 nats://127.0.0.1:99999 nats:// '' 'nats://a:1,'; do
    refused "NATS at '$url'" "--nats: expected nats://HOST:PORT, got '" "${run[@]}" --nats "$url"
done
refused "no such job" "no-such-folder" local --run-dir "$work/run" --config "$work/no-such-folder"
refused "unknown key by --set" "stalenes.*did you mean 'staleness'" "${run[@]}" --set global.stalenes=3
refused "out of range" "staleness: expected an integer in 1\.\." "${run[@]}" --set global.staleness=0
refused "wrong type" "batch_size.*got 'big'" "${run[@]}" --set data.batch_size=big
refused "unknown file in --set" "sparse" "${run[@]}" --set sparse.dim=3
refused "no such model" "no_such_model" "${run[@]}" --model no_such_model
echo 'stalenes: 3' >>"$work/job/global.yml"
refused "unknown key in a file" "global\.yml:[0-9]+: .*'stalenes'.*did you mean 'staleness'" "${run[@]}"
cp configs/synthetic/global.yml "$work/job/global.yml"

# bad WHAT FILE SED PATTERN -- a job with one thing wrong: the whole complaint is one line, and matches.
bad() {
    rm -rf "$work/bad"
    cp -r "$work/job" "$work/bad"
    sed -i "$3" "$work/bad/$2"
    ! cmp -s "$work/job/$2" "$work/bad/$2" || fail "$1: nothing is wrong in $2"
    refused "$1" "^saffron local: ([^ ]*/)?$4\$" local --run-dir "$work/run" --config "$work/bad"
    [ "$(wc -l <"$work/err")" -eq 1 ] || fail "$1: expected one line, got: $(cat "$work/err")"
}

mkdir "$work/job/models"
cp configs/models/dlrm.yml "$work/job/models"
# shellcheck disable=SC2016 # the $ are sed's
{
    bad "wrong type" data.yml 's/^batch_size: .*/batch_size: big/' \
        "data\.yml:8: batch_size: expected an integer in 1\.\.65535, got 'big'"
    bad "a list, not a map" embedding.yml 's/^tables:/tables: [1]\nmore:/' "embedding\.yml:7: unknown key 'more'"
    bad "no YAML" global.yml '$a a: [1' "global\.yml:[0-9]+: did not find expected .* while parsing a flow sequence"
    bad "key twice" global.yml '$a seed: 2' "global\.yml:[0-9]+: .*seed.*"
    bad "missing section" embedding.yml '/^features:/,$d' "embedding\.yml:[0-9]+: missing key 'features'"
    bad "feature without a table" embedding.yml '/^features:/,$s/c1: {}/c1: {table: c11}/' \
        "embedding\.yml:16: features\.c1\.table: there is no table 'c11' \(did you mean 'c1'\?\)"
    bad "column without a feature" data.yml 's/c1: feature/c1: {kind: feature, feature: c11}/' \
        "data\.yml:16: columns\.c1: embedding\.yml has no feature 'c11' \(did you mean 'c1'\?\)"
    bad "feature without a column" data.yml '/c1: feature/d' \
        "data\.yml:2: columns: expected every feature of embedding\.yml to have a column, 'c1' has none"
    bad "glob without files" data.yml 's/^format: .*/format: tsv/; s/^synthetic:/train: [none-*.tsv]\nsynthetic:/' \
        "data\.yml:4: train\[0\]: no file matches 'none-\*\.tsv' in .*/bad \(--data or SAFFRON_DATA_DIR names the folder\)"
    bad "no such model" model.yml 's/dlrm/dlmr/' "model\.yml:1: use: there is no model file '.*/dlmr\.yml'"
    bad "no such layer input" models/dlrm.yml 's/inputs: \[bottom, dots\]/inputs: [botom, dots]/' \
        "models/dlrm\.yml:[0-9]+: layer 'both': input 'botom': no earlier layer, .* \(did you mean 'bottom'\?\)"
    bad "no such layer type" models/dlrm.yml 's/type: concat/type: concatt/' \
        "models/dlrm\.yml:[0-9]+: layer 'both': type: no layer type is called 'concatt' \(did you mean 'concat'\?\)"
    bad "shapes of a layer" embedding.yml 's/^  dim: 16/  dim: 8/' \
        "models/dlrm\.yml:[0-9]+: layer 'dots': input 'c1': expected \[samples\]\[16\] as 'bottom' has, got \[samples\]\[8\]"
    bad "shape of the loss" model.yml 's/^# params.*/params: {top: [8]}/' \
        "models/dlrm\.yml:[0-9]+: layer 'loss': input 'logit': expected \[samples\]\[1\], got \[samples\]\[8\]"
    bad "no such parameter" model.yml 's/^# params.*/params: {topp: [1]}/' \
        "model\.yml:2: unknown key 'params\.topp' \(did you mean 'params\.top'\?\)"
    bad "no such optimizer" model.yml 's/type: adam/type: adamm/' "model\.yml:[0-9]+: .*adamm.*"
}
for file in global embedding data model; do
    mv "$work/job/$file.yml" "$work/away"
    refused "no $file.yml" "^saffron local: .*/$file\.yml: cannot open: No such file or directory$" "${run[@]}"
    mv "$work/away" "$work/job/$file.yml"
done
if [ -d "$data/adult" ]; then
    refused "glob without files" "train\.tsv\.gz.*--data" local --run-dir "$work/run" --config configs/adult \
        --data "$work/job"
fi
mkdir -p "$work/used/pids"
refused "a folder in use" "used: holds another run" "${run[@]}" --run-dir "$work/used"

# fails WHAT STATUS PATTERN ARG... -- a run that begins and cannot go on: one line, its error in the summary.
fails() {
    local what=$1 want=$2 pattern=$3
    shift 3
    local_run "$@"
    [ "$status" -eq "$want" ] || fail "$what: exit status $status, expected $want"
    grep -qE "^saffron local: .*$pattern" "$work/err" || fail "$what: expected '$pattern', got: $(cat "$work/err")"
    [ "$(wc -l <"$work/err")" -eq 2 ] || fail "$what: expected one line and where logs are: $(cat "$work/err")"
    expect "error"
    nothing_left
}

# A NATS that is not there may come: roles and supervisor keep trying, and say so, until --timeout.
fails "no NATS there" 1 "not done after 1 s \(--timeout\); no connection to NATS at nats://127\.0\.0\.1:1: " \
    "${short[@]}" --nats nats://127.0.0.1:1 --timeout 1
grep -q '^no connection to NATS at nats://127\.0\.0\.1:1: .*; trying again' "$work/out" ||
    fail "no NATS there: nobody says that it is tried again: $(cat "$work/out")"
grep -q 'nats_unreachable url=nats://127\.0\.0\.1:1 seconds=1' "$work"/run/logs/trainer-0.log ||
    grep -q 'waiting for=' "$work"/run/logs/trainer-0.log || fail "no NATS there: the trainer's log does not say so"
expect "steps == samples_read == samples_trained == samples_dropped == 0" "cpu_seconds['trainer'] > 0"
if [ -d "$data/adult" ]; then
    adult=(--config configs/adult --data "$work/data" --epochs 1)
    mkdir "$work/data"
    cp "$data"/adult/*.gz "$work/data"
    chmod u+w "$work/data"/*
    head -c 100000 "$data/adult/train.tsv.gz" >"$work/data/train.tsv.gz"
    fails "truncated gzip" 1 "train\.tsv\.gz: gzip data ends early" "${adult[@]}"
    : >"$work/data/train.tsv.gz"
    fails "empty file" 1 "train\.tsv\.gz: no row in it" "${adult[@]}"
    zcat "$data/adult/train.tsv.gz" | cut -f1-5 | gzip >"$work/data/train.tsv.gz"
    fails "missing columns" 2 "train\.tsv\.gz:1: column 'education_num' of data\.yml is not" "${adult[@]}"
    zcat "$data/adult/train.tsv.gz" | sed '2,$s/\t.*//' | gzip >"$work/data/train.tsv.gz"
    fails "short rows" 1 "rows are bad.* the first: .*train\.tsv\.gz:[0-9]+: expected 15 fields, got 1" "${adult[@]}"
fi
refused "status without a job" "which job" status
refused "status of no run" "no run of" status --run-dir "$work/job"
"$B/saffron" --version | grep -q '^saffron [0-9]' || fail "--version"
for command in local status stop; do
    "$B/saffron" "$command" --help | grep -q -- '--run-dir' || fail "$command --help"
done
./launch.sh --help | grep -q 'SAFFRON_NATS_URL' || fail "launch.sh --help"
./launch.sh trainr 2>"$work/err"
[ $? -eq 2 ] || fail "launch.sh: unknown command"
