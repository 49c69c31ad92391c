#!/usr/bin/env bash
# tests/run.sh B -- run every test that is built under B (unit, fault, sim), then every tests/e2e/*.sh.
#
# Unit programs run two at a time, end-to-end scripts one after the other; each has a time limit and a
# log under B/test-logs. A script that exits 77 is skipped and its last line is the reason. The closing
# line is `N passed, N failed, N skipped`; exit 1 when a test failed or none ran. Tests find a TMPDIR that is
# theirs and gone after the run; Ctrl-C ends the tests that run.
#   ONLY=WORD   run only the tests whose name contains WORD
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2
B=${1:-build/release}
only=${ONLY:-}
unit_limit_s=240 # sim/test_sim: 80 s on two cores that do other things too
e2e_limit_s=300
logs=$B/test-logs
rm -rf "$logs"
mkdir -p "$logs"
passed=0 failed=0 skipped=0

# Sanitizers make everything a few times slower.
if ldd "$B/saffron" 2>/dev/null | grep -qE 'lib[at]san'; then
    unit_limit_s=$((4 * unit_limit_s)) e2e_limit_s=$((4 * e2e_limit_s))
fi
temporary=$(mktemp -d "${TMPDIR:-/tmp}/saffron-run.XXXXXX") || exit 1
export TMPDIR=$temporary
SAFFRON_COMMIT=$(git describe --always --dirty 2>/dev/null) # what a failure is told with
export SAFFRON_COMMIT

# Tests that run are told to end, and with each its process group, which `timeout` made.
at_exit() {
    local pid
    cat "$logs"/*.pid 2>/dev/null | while read -r pid; do
        kill -TERM "$pid" 2>/dev/null
    done
    wait
    rm -rf "$temporary"
}
trap at_exit EXIT
trap 'exit 130' INT TERM

# sanitizer_reports NAME -- where they go: files, since the programs that a script starts, and often kills, have
# logs and exit statuses that nobody else sees. One report fails the test.
sanitizer_reports() {
    local options="log_path=$PWD/$logs/$1.san"
    [[ $logs == /* ]] && options="log_path=$logs/$1.san"
    export ASAN_OPTIONS="$options ${ASAN_OPTIONS:-}"
    export UBSAN_OPTIONS="$options print_stacktrace=1 ${UBSAN_OPTIONS:-}"
    export TSAN_OPTIONS="$options suppressions=$PWD/tests/tsan.supp ${TSAN_OPTIONS:-}"
}

# start NAME LIMIT COMMAND... -- in the background; $logs/NAME.{log,rc} tell what came of it, and NAME.pid is
# there while it runs.
start() {
    local name=$1 limit=$2
    shift 2
    {
        trap - INT TERM EXIT
        sanitizer_reports "$name"
        CMOCKA_MESSAGE_OUTPUT=stdout timeout --kill-after=10 "$limit" "$@" >"$logs/$name.log" 2>&1 &
        echo $! >"$logs/$name.pid"
        wait $! 2>/dev/null
        status=$?
        rm -f "$logs/$name.pid"
        if compgen -G "$logs/$name.san.*" >/dev/null; then
            head -n 60 "$logs/$name.san".* >>"$logs/$name.log"
            status=66
        fi
        echo "$status" >"$logs/$name.rc"
    } &
}

show_failure() {
    local name=$1 why=$2
    echo "FAILED  $name: $why; the end of $logs/$name.log:"
    # A script that fails prints its reason first and the logs of its run after it: show both.
    grep -a -m 1 -B 7 '^FAILED: ' "$logs/$name.log" | sed 's/^/    /'
    tail -n 25 "$logs/$name.log" | sed 's/^/    /'
}

why_of() { # exit status in words
    case $1 in
    66) echo "a sanitizer reports ($logs/*.san.*)" ;;
    124 | 137) echo "stopped at its time limit" ;;
    13[0-9] | 14[0-9]) echo "killed by signal $(($1 - 128))" ;;
    *) echo "exit status $1" ;;
    esac
}

# sum_of WORD LOG -- cmocka's closing figures, over all groups of a program.
sum_of() {
    grep -ao "\[ *$1 *\] [0-9]* test" "$2" | awk '{ n += $(NF - 1) } END { print n + 0 }'
}

# A cmocka program counts for as many tests as it reports; one that dies counts as one failed.
count_unit() {
    local name=$1 rc p f s
    rc=$(cat "$logs/$name.rc")
    p=$(sum_of PASSED "$logs/$name.log")
    f=$(sum_of FAILED "$logs/$name.log")
    s=$(sum_of SKIPPED "$logs/$name.log")
    if [ "$rc" -eq 77 ] && [ "$s" -gt 0 ]; then
        skipped=$((skipped + s))
        sed -n "s/^SKIPPED /skipped $name: /p" "$logs/$name.log"
        return
    fi
    if [ "$rc" -ne 0 ] && [ "$f" -eq 0 ]; then
        f=1
    fi
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
    if [ "$rc" -ne 0 ] || [ "$f" -gt 0 ]; then
        show_failure "$name" "$(why_of "$rc")"
    elif [ $((p + s)) -eq 0 ]; then
        failed=$((failed + 1))
        show_failure "$name" "it ran no test"
    else
        echo "passed  $name ($p$([ "$s" -eq 0 ] || echo ", $s skipped"))"
    fi
}

count_script() {
    local name=$1 rc
    rc=$(cat "$logs/$name.rc")
    case $rc in
    0)
        passed=$((passed + 1))
        echo "passed  $name ($2 s)"
        ;;
    77)
        skipped=$((skipped + 1))
        echo "skipped $name: $(tail -n 1 "$logs/$name.log")"
        ;;
    *)
        failed=$((failed + 1))
        show_failure "$name" "$(why_of "$rc")"
        ;;
    esac
}

wanted() {
    [ -z "$only" ] || [[ $1 == *"$only"* ]]
}

# ---- unit, fault and simulation programs, two at a time ----
names=()
# Each test of a GPU's backend twice: on its emulation, and, where it was built, on the GPU, or skipped.
programs_of() {
    local source
    for source in tests/unit/test_*.c tests/fault/test_*.c tests/sim/test_*.c; do
        echo "${source#tests/}"
    done
    for source in tests/gpu/test_*.c tests/gpu/emulated/test_*.cpp; do
        echo "gpu/emulated/$(basename "$source")"
    done
    [ ! -x "$B/saffron-cuda.so" ] || printf '%s\n' tests/gpu/test_*.c | cut -d/ -f2-
}
for source in $(programs_of); do
    source=${source%.c*}
    program=$B/tests/$source
    name=${source//\//-}
    name=${name/#gpu-emulated-test_/emulated-}
    wanted "$name" || continue
    names+=("$name")
    if [ ! -x "$program" ]; then
        echo "no program $program: run make B=$B unit" >"$logs/$name.log"
        echo 1 >"$logs/$name.rc"
        continue
    fi
    while [ "$(jobs -rp | wc -l)" -ge 2 ]; do
        wait -n
    done
    start "$name" "$unit_limit_s" "$program"
done
wait
for name in ${names[@]+"${names[@]}"}; do
    count_unit "$name"
done
for source in tests/gpu/test_*.c; do # where nothing was built for a GPU
    name=gpu-$(basename "$source" .c)
    [ ! -x "$B/saffron-cuda.so" ] || continue
    wanted "$name" || continue
    echo "skipped $name: built without CUDA"
    skipped=$((skipped + 1))
done

# ---- real processes, one script at a time ----
for script in tests/e2e/*.sh; do
    name=e2e-$(basename "$script" .sh)
    [ -x "$script" ] || continue # a library that the scripts source
    wanted "$name" || continue
    SECONDS=0
    SAFFRON_BUILD=$B start "$name" "$e2e_limit_s" "$script"
    wait
    count_script "$name" "$SECONDS"
done

echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
