#!/usr/bin/env bash
# Every command of README.md, docs/ and k8s/ works as it stands there: each line of each ```sh block is run, or the
# test fails. Blocks marked ```bash, and the pages that have them, are worked through by guide.sh. Shortened are only the
# default job, whose full size is a person's matter, and `make test`, which runs this. What needs a cluster is done as
# far as it goes without one: folders are rendered, and the objects that a command names must be in them.
. "$(dirname "$0")/lib.sh"
export SAFFRON_BIN_DIR=$PWD/$B
declare -A left=() # what cannot be run here
[[ $B != /* ]] || SAFFRON_BIN_DIR=$B

# run_job COMMAND LINE -- a whole `./launch.sh local ...`; its data may lie elsewhere, and be absent.
run_job() {
    local command=$1 words
    case $command in
    *--data\ ../shared/data/*)
        local set=${command#*--data ../shared/data/}
        if [ ! -d "$data/${set%% *}" ]; then
            left[data]="commands with data sets that are not there;"
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
    wait_end 40
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
    wait_end 5
    [ "$status" -eq 143 ] || fail "$1: the run ended with $status, expected 143"
    nothing_left
}

# ask_checkpoints COMMAND LINE -- of a folder of checkpoints; those here have other names.
ask_checkpoints() {
    local command=$1 words want=0
    if [ ! -d "$work/made" ]; then
        mkdir "$work/made"
        "$B/tests/e2e/make_checkpoints" "$work/made" || fail "no checkpoints were made"
    fi
    command=${command//runs\/NAME\/checkpoints/$work/made}
    command=${command//runs\/NAME/$work}
    command=${command//step-000000120/step-10}
    command=${command//step-000000240/step-20}
    read -r -a words <<<"$command"
    words[0]=${words[0]/#build\/release/$B}
    [ "${words[1]}" != diff ] || want=1 # they are two steps of a job
    "${words[@]}" >"$work/answer" 2>&1
    [ $? -eq "$want" ] || fail "$1: not $want: $(cat "$work/answer")"
    [ -s "$work/answer" ] || fail "$1: prints nothing"
}

# rendered FOLDER -- $work/objects is what it comes to.
rendered() {
    [ -d "$1" ] || fail "there is no $1"
    kubectl kustomize "$1" >"$work/objects" 2>"$work/answer" || fail "kubectl kustomize $1: $(cat "$work/answer")"
    grep -q '^kind: ' "$work/objects" || fail "kubectl kustomize $1: no objects"
}

# container COMMAND LINE -- its words are right: the stage and the arguments are the Dockerfile's, what comes after the
# image is a command of launch.sh with its flags. The image itself is image.sh's matter.
container() {
    local words word n
    read -r -a words <<<"$1"
    [ -f Dockerfile ] || fail "$1: there is no Dockerfile"
    for ((n = 1; n < ${#words[@]}; n++)); do
        word=${words[n + 1]-}
        case ${words[n]} in
        --target) grep -q "^FROM .* AS $word\$" Dockerfile || fail "$1: the Dockerfile has no stage $word" ;;
        --build-arg) grep -q "^ARG ${word%%=*}=" Dockerfile || fail "$1: the Dockerfile has no ARG ${word%%=*}" ;;
        saffron:*)
            [ "${words[1]}" = run ] || continue
            ./launch.sh "$word" --help >"$work/answer" 2>&1 || fail "$1: launch.sh knows no $word"
            for word in "${words[@]:n + 2}"; do
                [[ $word != --* ]] || grep -qe "$word\b" "$work/answer" || fail "$1: no flag $word"
            done
            break
            ;;
        esac
    done
    echo "read only, no docker: $1"
}

# cluster COMMAND LINE -- what can be known of it without one. Objects are those of the small overlay.
cluster() {
    local words word namespace objects
    command -v kubectl >/dev/null || {
        left[kubectl]="commands of kubectl, which is not installed;"
        echo "not run, no kubectl: $1"
        return
    }
    read -r -a words <<<"${1%%|*}"
    case "${words[*]:1}" in
    "kustomize "* | "apply -k "* | "delete -k "* | "diff -k "*)
        [ "${words[1]}" = kustomize ] && words=(- "${words[@]}")
        rendered "${words[3]}"
        [ "${words[0]}" = - ] || echo "rendered only, no cluster: $1"
        return
        ;;
    "apply -f shop.yaml") # guide.sh renders it
        grep -q 'kubectl kustomize shop-cluster >shop\.yaml' docs/kubernetes.md || fail "$1: nothing makes it"
        return
        ;;
    "apply -f "*)
        "$python" -c 'import sys, yaml; assert list(yaml.safe_load_all(open(sys.argv[1])))' "${words[3]}" ||
            fail "$1: no YAML in it"
        echo "read only, no cluster: $1"
        return
        ;;
    esac
    rendered k8s/overlays/small
    namespace=$(sed -n 's/^  namespace: //p' "$work/objects" | sort -u)
    [ "${words[*]: -2}" != "saffron status" ] || "$B/saffron" status --help >/dev/null || fail "$1: no such command"
    objects=$(echo pod/saffron-loader && awk '/^kind: / { kind = tolower($2); sub(/^.*: /, "", kind) }
        /^metadata:/ { inside = 1 } /^[a-z]/ && !/^metadata:/ { inside = 0 }
        inside && /^  name: / { print kind "/" $2; if (kind == "statefulset") print "pod/" $2 "-0" }' "$work/objects")
    for ((n = 1; n < ${#words[@]}; n++)); do
        word=${words[n]%%:*}
        case $word in
        -n | --namespace)
            n=$((n + 1))
            [ "${words[n]}" = "$namespace" ] || fail "$1: the small overlay's namespace is '$namespace'"
            ;;
        statefulset/* | service/* | pod/* | configmap/*)
            grep -qx "$word" <<<"$objects" || fail "$1: the small overlay has no $word"
            ;;
        saffron-*)
            grep -q "/$word\$" <<<"$objects" || fail "$1: the small overlay has no $word"
            ;;
        esac
    done
    echo "read only, no cluster: $1"
}

shopt -s nullglob
pages=(README.md docs/*.md k8s/*.md k8s/*/*.md)
for page in "${pages[@]}"; do
    grep -q '^```bash$' "$page" && ! grep -q "^ *follow ${page#docs/} \|docs/${page#docs/}$" tests/e2e/guide.sh &&
        fail "$page has a bash block, and guide.sh does not work through it"
    ! grep -nE '^ *```(console|shell|zsh|Shell)' "$page" || fail "$page: commands stand in sh or bash blocks"
done
# shellcheck disable=SC2016 # the backquotes are markdown
mapfile -t commands < <(for page in "${pages[@]}"; do
    [ "$page" = docs/machines.md ] || sed -n '/^```sh$/,/^```$/p' "$page" | grep -v '^```' |
        sed -e ':more' -e '/\\$/{N; s/\\\n */ /; b more' -e '}' -e 's/  *# .*//'
    # The pages of k8s/ indent their commands.
    [[ $page != k8s/* ]] || sed -n 's/^    \(kubectl .*\)/\1/p' "$page" | sed 's/ && /\n/g'
done)
[ "${#commands[@]}" -ge 4 ] || fail "the pages have only ${#commands[@]} commands"
# shapes FILE -- of the lines of a closing table: figures are N.
shapes() {
    sed -n '/^  job  /,/^  files  /p' "$1" | sed -E 's/[0-9][0-9,.]*/N/g; s,^(  files +).*/,\1,'
}

for command in "${commands[@]}"; do
    echo "+ $command"
    case $command in
    "./launch.sh local")
        run_job "$command"
        [ -n "$(shapes "$work/out")" ] || fail "$command: no closing table"
        diff <(shapes README.md) <(shapes "$work/out") || fail "README.md shows other lines than come out"
        ;;
    "./launch.sh local"*) run_job "$command" ;;
    "build/release/saffron status --run-dir"*) ask_run "$command" ;;
    "build/release/saffron stop --run-dir"*) stop_run "$command" ;;
    "build/release/saffron "*" runs/NAME/checkpoints"*) ask_checkpoints "$command" ;;
    "make test") make -n test >"$work/out" 2>&1 || fail "make -n test: $(tail -n 3 "$work/out")" ;;
    "kubectl "*) cluster "$command" ;;
    "docker "*) container "$command" ;;
    "gdb "*) echo "read only, no core: $command" ;;
    "tensorboard "*) echo "read only, no viewer (tests/e2e/tensorboard.sh reads what it shows): $command" ;;
    "") ;;
    *) fail "a command that this test cannot run: $command" ;;
    esac
done
[ "${#left[@]}" -eq 0 ] || skip "all but: ${left[*]}"
exit 0
