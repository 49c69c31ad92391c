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
for option in --max-steps=5 --restart=on-failure --restore=latest; do
    refused "$option" "${option%=*}: not in this version" local "$option"
done
refused "unknown option" "unrecognized option '--epoch-count'" local --epoch-count 3
refused "no number" "epochs: expected an integer in 1\.\..*, got 'many'" "${run[@]}" --epochs many
refused "trainers" "--trainers: expected 1, .*got '2'" "${run[@]}" --trainers 2
refused "no such job" "no-such-folder" local --run-dir "$work/run" --config "$work/no-such-folder"
refused "unknown key by --set" "stalenes.*did you mean 'staleness'" "${run[@]}" --set global.stalenes=3
refused "out of range" "staleness: expected an integer in 1\.\." "${run[@]}" --set global.staleness=0
refused "wrong type" "batch_size.*got 'big'" "${run[@]}" --set data.batch_size=big
refused "unknown file in --set" "sparse" "${run[@]}" --set sparse.dim=3
refused "no such model" "no_such_model" "${run[@]}" --model no_such_model
echo 'stalenes: 3' >>"$work/job/global.yml"
refused "unknown key in a file" "global\.yml:[0-9]+: .*'stalenes'.*did you mean 'staleness'" "${run[@]}"
cp configs/synthetic/global.yml "$work/job/global.yml"
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

fails "no NATS there" 1 "--nats: no connection to NATS at nats://127\.0\.0\.1:1" \
    "${short[@]}" --nats nats://127.0.0.1:1
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
    fails "short rows" 1 "rows are bad, .*train\.tsv\.gz:[0-9]+: expected 15 fields, got 1" "${adult[@]}"
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
