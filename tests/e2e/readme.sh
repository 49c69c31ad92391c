#!/usr/bin/env bash
# The README's `./launch.sh local` commands work as they stand there (the default job shortened: its full size
# is `make bench`'s and a person's matter), and so does its `saffron status`.
. "$(dirname "$0")/lib.sh"
export SAFFRON_BIN_DIR=$PWD/$B
# shellcheck disable=SC2016 # the backquotes are markdown
mapfile -t commands < <(sed -n '/^```sh$/,/^```$/p' README.md | grep '^\./launch\.sh local')
[ "${#commands[@]}" -ge 2 ] || fail "README.md has ${#commands[@]} commands that begin with ./launch.sh local"
ran=0
for command in "${commands[@]}"; do
    case $command in
    *--data*) [ -d "$data/adult" ] || continue ;;
    *) command="$command --set data.synthetic.rows=40000 --set data.synthetic.test_rows=10000" ;;
    esac
    read -r -a words <<<"${command//..\/shared\/data/$data}"
    rm -rf "$work/run"
    "${words[@]}" --run-dir "$work/run" --timeout 240 >"$work/out" 2>"$work/err"
    status=$?
    [ "$status" -eq 0 ] || fail "$command: exit status $status"
    expect_success
    grep -q 'AUC 0\.' "$work/out" || fail "$command: prints no AUC"
    ran=$((ran + 1))
done
[ "$ran" -gt 0 ] || fail "no command was run"
"$B/saffron" status --run-dir "$work/run" >"$work/out" 2>"$work/err"
[ $? -eq 1 ] || fail "status of a run that has ended is not a failure"
