#!/usr/bin/env bash
# Every command of the README works as it stands there: each line of each ```sh block is run, or the test fails.
# Shortened are only the default job, whose full size is a person's matter, and `make test`, which runs this.
. "$(dirname "$0")/lib.sh"
export SAFFRON_BIN_DIR=$PWD/$B

# run_job COMMAND LINE -- a whole `./launch.sh local ...`; its data may lie elsewhere, and be absent.
run_job() {
    local command=$1 words
    case $command in
    *--data\ ../shared/data/*)
        local set=${command#*--data ../shared/data/}
        if [ ! -d "$data/${set%% *}" ]; then
            echo "not run, no data: $command"
            return
        fi
        ;;
    *) command+=" --set data.synthetic.rows=40000 --set data.synthetic.test_rows=10000" ;;
    esac
    read -r -a words <<<"${command//..\/shared\/data/$data}"
    rm -rf "$work/run"
    "${words[@]}" --run-dir "$work/run" --timeout 240 >"$work/out" 2>"$work/err"
    status=$?
    [ "$status" -eq 0 ] || fail "$command: exit status $status"
    expect_success
    grep -q 'AUC 0\.' "$work/out" || fail "$command: prints no AUC"
}

# ask_run COMMAND LINE -- a question to a run: an answer while it runs, a failure afterwards.
ask_run() {
    local words
    read -r -a words <<<"${1//runs\/NAME/$work/run}"
    words[0]=${words[0]/#build\/release/$B}
    local_start "${long[@]}"
    wait_for 60 "training" is_training
    "${words[@]}" >"$work/answer" 2>&1 || fail "$1: $(cat "$work/answer")"
    grep -q '^trainer/0 ' "$work/answer" || fail "$1: names no trainer: $(cat "$work/answer")"
    kill -INT "$supervisor"
    wait_end 5
    "${words[@]}" >"$work/answer" 2>&1
    [ $? -eq 1 ] || fail "$1: no failure, though the run has ended"
}

# stop_run COMMAND LINE -- it has ended when the command has.
stop_run() {
    local words
    read -r -a words <<<"${1//runs\/NAME/$work/run}"
    words[0]=${words[0]/#build\/release/$B}
    local_start "${long[@]}"
    wait_for 60 "training" is_training
    "${words[@]}" >"$work/answer" 2>&1 || fail "$1: $(cat "$work/answer")"
    wait_end 1
    [ "$status" -eq 143 ] || fail "$1: the run ended with $status, expected 143"
    nothing_left
}

# describe COMMAND LINE -- the layers of the model, in the end their parameters.
describe() {
    local words
    [ -d "$data/adult" ] || { echo "not run, no data: $1" && return; }
    read -r -a words <<<"${1//..\/shared\/data/$data}"
    "${words[@]}" >"$work/answer" 2>&1 || fail "$1: $(cat "$work/answer")"
    grep -q '^[0-9]* dense parameters' "$work/answer" || fail "$1: $(cat "$work/answer")"
}

# shellcheck disable=SC2016 # the backquotes are markdown
mapfile -t commands < <(sed -n '/^```sh$/,/^```$/p' README.md | grep -v '^```')
[ "${#commands[@]}" -ge 4 ] || fail "README.md has only ${#commands[@]} commands"
for command in "${commands[@]}"; do
    echo "+ $command"
    case $command in
    "./launch.sh local"*) run_job "$command" ;;
    "./launch.sh trainer --describe"*) describe "$command" ;;
    "build/release/saffron status"*) ask_run "$command" ;;
    "build/release/saffron stop"*) stop_run "$command" ;;
    "make test") make -n test >"$work/out" 2>&1 || fail "make -n test: $(tail -n 3 "$work/out")" ;;
    *) fail "README.md has a command that this test cannot run: $command" ;;
    esac
done
