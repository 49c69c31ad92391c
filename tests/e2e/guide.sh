#!/usr/bin/env bash
# README.md's guide "Your own TSV in ten minutes", exactly as it stands there: its blocks are run one after
# another in one shell, in a folder where launch.sh is, and what it promises is checked.
. "$(dirname "$0")/lib.sh"
export SAFFRON_BIN_DIR=$PWD/$B
[[ $B != /* ]] || SAFFRON_BIN_DIR=$B
top=$PWD
mkdir "$work/tree"
for part in *; do
    [ "$part" = runs ] || ln -s "$top/$part" "$work/tree/$part"
done
guide=$(sed -n '/^### Your own TSV in ten minutes$/,/^### What a run leaves behind$/p' README.md)
[ -n "$guide" ] || fail "README.md has no such guide"
# shellcheck disable=SC2016 # the backquotes are markdown
sed -n '/^```bash$/,/^```$/p' <<<"$guide" | grep -v '^```' >"$work/commands"
[ "$(wc -l <"$work/commands")" -gt 40 ] || fail "README.md's guide has hardly any commands"
(cd "$work/tree" && bash -eu -o pipefail "$work/commands") >"$work/out" 2>"$work/err" ||
    fail "a command of the guide: exit status $?"

check() { # RUN PYTHON...
    rm -rf "$work/run"
    cp -r "$work/tree/runs/$1" "$work/run"
    shift
    expect "'error' not in f" "samples_read == epochs * 45000" "samples_quarantined == epochs * 2" \
        "samples_trained == samples_read - samples_quarantined" "test_samples == 5000" "$@"
    nothing_left
}
check shop "0.8 < test_auc < 0.85" "model == 'dlrm'" "epochs == 2"
check shop-2 "0.8 < test_auc < 0.85" "epochs == 2"
check shop-mlp "0.6 < test_auc < 0.85" "model == 'mlp'" "epochs == 3"
grep -q 'AUC 0\.8' "$work/out" || fail "prints no AUC"
# What the guide shows of the quarantine is what is there; the rows themselves are one awk's random numbers.
sed -n '/^shop\/train.tsv\t/p' <<<"$guide" | cut -f1-3 >"$work/shown"
[ "$(wc -l <"$work/shown")" -eq 2 ] || fail "the guide shows no bad rows"
cut -f1-3 "$work/tree/runs/shop/quarantine/data_compose-0.tsv" >"$work/listed"
diff "$work/shown" "$work/listed" || fail "the guide shows other bad rows"
