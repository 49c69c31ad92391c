#!/usr/bin/env bash
# scripts/check.sh -- the rules of the house as programs (`make check`): format, header self-containment,
# layering, sizes of functions and files, banned calls and words, clang-tidy, shellcheck.
#
# Every rule prints what breaks it as file:line; the last line says how many rules were broken. Takes B and
# CPPFLAGS from the Makefile.
set -u
shopt -s lastpipe # `rule` counts in this shell, though it stands at a pipe's end
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2
B=${B:-build/release}
CPPFLAGS=${CPPFLAGS:--I. -I$B/gen -D_GNU_SOURCE}
function_lines_max=70
file_lines_max=1000
broken=0

command -v clang-format-14 >/dev/null || {
    echo "check: clang-format-14 is missing; run: make deps-test" >&2
    exit 2
}

# ours PATTERN... -- files of ours, in git or about to be; also where the tree belongs to another user.
ours() {
    git -c safe.directory='*' ls-files --cached --others --exclude-standard -- "$@" | while read -r file; do
        [ -f "$file" ] && echo "$file"
    done
}

# rule NAME -- its findings come on standard input; none is good.
rule() {
    local findings
    findings=$(cat)
    if [ -z "$findings" ]; then
        echo "  ok      $1"
    else
        echo "  BROKEN  $1"
        printf '%s\n' "$findings" | head -n 40 | sed 's/^/    /'
        broken=$((broken + 1))
    fi
}

mapfile -t c_files < <(ours '*.c')
mapfile -t cuda_files < <(ours '*.cu' '*.cpp')
mapfile -t h_files < <(ours '*.h')
[ "${#c_files[@]}" -gt 0 ] || {
    echo "check: git lists no C file here; the checks need git and a clone" >&2
    exit 2
}
# Fortification needs an optimizer, which a syntax check has not.
read -r -a flags <<<"$(printf '%s' "$CPPFLAGS" | sed 's/-[UD]_FORTIFY_SOURCE[=0-9]*//g')"
flags+=(-Itests/gpu/emulated/include -std=c11 -Wall -Wextra -Wno-unused-function)

format() {
    printf '%s\0' "${c_files[@]}" "${h_files[@]}" "${cuda_files[@]}" |
        xargs -0 -P2 -n 20 clang-format-14 --dry-run -Werror 2>&1 | grep -E '(error|warning):'
}

# Each header compiles when it is the only one, those of kernels as C++; those written to be included twice end in .inc.h.
self_containment() {
    local header
    for header in "${h_files[@]}"; do
        case $header in *.inc.h) continue ;; esac
        if grep -q '__device__' "$header"; then
            echo g++ "${flags[@]/#-std=c11/-std=c++17}" -Werror -fsyntax-only -include "$header" -x c++ /dev/null
        else
            echo gcc "${flags[@]}" -Werror -fsyntax-only -include "$header" -x c /dev/null
        fi
    done | xargs -P2 -I{} sh -c {} 2>&1 | grep -E '(error|warning):'
}

# A role includes runtime/ and itself; runtime no role; base nothing; conf and net only base; generated
# message code stays in runtime/wire.
layering() {
    grep -nE '^ *# *include +"' "${c_files[@]}" "${h_files[@]}" "${cuda_files[@]}" | awk -F'"' '
    {
        split($1, at, ":"); file = at[1]; inc = $2
        n = split(file, p, "/"); top = p[1]; part = n > 2 ? p[2] : ""
        split(inc, q, "/")
        if (inc ~ /\.pb-c\.h$/) { if (file !~ /^runtime\/wire\//) bad("generated code outside runtime/wire"); next }
        if (top == "tests" || top == "scripts") next
        if (inc !~ /\//) { bad("included without its folder"); next }
        if (top != q[1] && q[1] != "runtime") bad(top " may include runtime/ and " top "/ only")
        if (top == "runtime" && part == "base" && q[2] != "base") bad("base includes base only")
        if (top == "runtime" && (part == "conf" || part == "net") && q[2] != part && q[2] != "base")
            bad(part " includes " part " and base only")
    }
    function bad(why) { print file ":" at[2] ": \"" inc "\": " why }'
}

function_sizes() {
    ctags --langmap=C++:+.cu --c-kinds=f --c++-kinds=f --fields=+ne -f - "${c_files[@]}" "${h_files[@]}" "${cuda_files[@]}" 2>/dev/null |
        awk -F'\t' -v max="$function_lines_max" '{
            from = to = 0
            for (i = 4; i <= NF; i++) {
                if ($i ~ /^line:/) from = substr($i, 6)
                if ($i ~ /^end:/) to = substr($i, 5)
            }
            if (to - from + 1 > max) print $2 ":" from ": " $1 " has " to - from + 1 " lines, at most " max
        }'
}

file_sizes() {
    wc -l "${c_files[@]}" "${h_files[@]}" "${cuda_files[@]}" |
        awk -v max="$file_lines_max" '$2 != "total" && $1 > max { print $2 ": " $1 " lines, at most " max }'
}

banned_calls() {
    grep -nE '(^|[^A-Za-z0-9_"])(strcpy|strcat|sprintf|vsprintf|atoi|atol|atof|gets|strtok|system|popen) *\(' \
        "${c_files[@]}" "${h_files[@]}" "${cuda_files[@]}" | grep -vE ':[0-9]+: *(/?\*|//)'
}

banned_words() {
    local words='TO''DO|FIX''ME|X''XX|HA''CK'
    ours '*.c' '*.h' '*.sh' '*.proto' '*.yml' '*.md' Makefile |
        xargs grep -nwE "$words" | grep -v 'HACKING\.md'
}

# gcc 12 knows CPUs and vector builtins that clang 14 does not: those complaints are no findings.
tidy() {
    printf '%s\n' "${c_files[@]}" |
        xargs -P2 -I{} clang-tidy-14 --quiet {} -- "${flags[@]}" 2>/dev/null |
        grep -E '(error|warning):' |
        grep -vE 'invalid cpu feature string|__builtin_shuffle|kernels\.inc\.h:.*clang-diagnostic' |
        sed "s,^$PWD/,," | sort -u
}

# docs/config.md says what the option tables say.
documents() {
    "$B/scripts/config_doc" | diff -q - docs/config.md >/dev/null ||
        echo "docs/config.md: not what the option tables say; run make docs"
}

# What the tables of a folder's README name in their first column is there: a file, its stem, a folder, a job.
pages() {
    local page folder name
    for folder in $(ours '*/*' | cut -d/ -f1 | sort -u); do
        case $folder in .*) continue ;; esac
        page=$folder/README.md
        [ -f "$page" ] || {
            echo "$page: missing; every top folder has one"
            continue
        }
        [ "$(wc -l <"$page")" -le 60 ] || echo "$page: longer than one screen, 60 lines"
        # shellcheck disable=SC2016 # the backquotes are markdown
        grep '^| *`' "$page" | cut -d'|' -f2 | grep -o '`[^`]*`' | tr -d '`' | while read -r name; do
            compgen -G "$folder/$name" >/dev/null || compgen -G "$folder/$name.[ch]" >/dev/null ||
                echo "$page: names '$name', which is not there"
        done
    done
}

shells() {
    command -v shellcheck >/dev/null || return 0
    ours '*.sh' .ci/run | xargs -r shellcheck -x -f gcc
}

make --no-print-directory B="$B" proto >/dev/null || exit 1
format | rule "clang-format"
self_containment | rule "each header compiles alone"
layering | rule "layering: who may include whom"
function_sizes | rule "functions of at most $function_lines_max lines"
file_sizes | rule "files of at most $file_lines_max lines"
banned_calls | rule "no banned calls"
banned_words | rule "no unfinished business"
documents | rule "docs/config.md is current"
pages | rule "folder READMEs: there, short, name what exists"
shells | rule "shellcheck"
tidy | rule "clang-tidy"
if [ "$broken" -ne 0 ]; then
    echo "check: $broken rules broken"
    exit 1
fi
echo "check: all rules hold"
