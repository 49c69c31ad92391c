"""docs/trouble.md has an entry for every message that a user can meet, and for no other.

Called by tests/e2e/guide.sh from the top of the tree. The messages are read from the sources: the format of a call,
with each conversion, and each run of them, as one `…`. That is how the page writes them, in the first column of
its tables; several may share a row. Which are asked for:
  - what ends a program or refuses a job: RT_FAIL and its kin with any code but INTERNAL; what names a key; all of ctl/
  - what argp, launch.sh, deps.sh and cuda.sh complain of
  - events that are logged as a warning or an error, by their name
  - every error name of runtime/base/err.h: INTERNAL ones are about a single message between two programs and the page
    tells them by name only
  - every alert of k8s/monitoring, as a heading's or an <a id>'s anchor
`python3 tests/docs/messages.py list` prints the messages with their places, `... match FILE` the entry for what a program said.
"""
import glob
import re
import sys

INTERNAL = {"RT_EPROTO", "RT_ENOMEM", "RT_ESTALE", "RT_EUNKNOWN", "RT_EDIGEST", "RT_EFULL", "RT_ENOTREADY",
            "RT_ECANCELED", "RT_EOWNER", "RT_EPEER"}
PAGE = "docs/trouble.md"
CALLS = {  # name: index of the format among the arguments
    "RT_FAIL": 1, "rt_fail": 1, "rt_node_fail": 1, "tr_build_fail": 1, "argp_error": 1, "fprintf": 1, "rt_log": 1,
    "complain": 3, "fail": 1, "say_of": 1, "rt_xasprintf": 0,
}
STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')


def arguments(text, at):
    """The arguments of a call whose parenthesis opens just before `at`."""
    depth, start, out = 0, at, []
    while at < len(text):
        c = text[at]
        if c == '"':
            at = STRING.match(text, at).end()
            continue
        if c == "'":
            at += 3 if text[at + 1] != "\\" else 4
            continue
        if c in "([{":
            depth += 1
        elif c in ")]}":
            if depth == 0:
                out.append(text[start:at])
                return out
            depth -= 1
        elif c == "," and depth == 0:
            out.append(text[start:at])
            start = at + 1
        at += 1
    return out


def plain(words):
    """A format as the page writes it."""
    words = words.replace("%%", "\0")
    words = re.sub(r"%[-+ #0]*[\d*]*(?:\.[\d*]+)?(?:hh|h|ll|l|z|j|t)?[a-zA-Z]", "…", words)
    words = words.replace("\\n", "").replace('\\"', '"').replace("\\t", " ").replace("\0", "%")
    return re.sub(r"…(?:\s*…)*", "…", words).strip()


def branches(argument):
    """The two sides of `x ? a : b` where an argument is that; else the argument."""
    masked = STRING.sub(lambda m: "\0" * len(m.group(0)), argument)
    at = masked.find("?")
    if at < 0:
        return [argument]
    colon = masked.index(":", at)
    return [argument[at + 1:colon], argument[colon + 1:]]


def formats(argument):
    """The words of an argument; a macro between two strings (PRIu64) is the end of a conversion."""
    for side in branches(argument):
        joined = "".join(m.group(1) or m.group(2) or "" for m in re.finditer(r'"((?:[^"\\]|\\.)*)"|PRI(\w)\w*', side))
        if joined:
            yield plain(joined)


def of_c(path, text):
    for m in re.finditer(r"\b(" + "|".join(CALLS) + r")\(", text):
        name, args = m.group(1), arguments(text, m.end())
        index = CALLS[name]
        if len(args) <= index or '"' not in args[index]:
            continue
        first = args[0].strip()
        internal = name in ("RT_FAIL", "rt_fail") and first in INTERNAL and not path.startswith("ctl/")
        if internal and not re.search(r"\b(global|data|embedding|model)\.[a-z]", args[index]):
            continue
        if name == "fprintf" and first != "stderr" or name == "complain" and not path.endswith("conf/yaml.c"):
            continue
        if name == "fail" and not path.endswith("partial.c") and not path.endswith("conf/yaml.c"):
            continue
        if name == "rt_xasprintf" and not path.endswith(("ctl/local.c", "ctl/finish.c", "ctl/nats.c", "ctl/roles.c")):
            continue
        if name == "rt_log" and first not in ("RT_LOG_WARN", "RT_LOG_ERROR") and "?" not in first:
            continue
        for words in formats(args[index]):
            if name == "rt_log":  # its event: what stands before the first key=value
                words = re.split(r"\s*\S+=", words)[0].strip()
                if words == "…":  # a word out of several, or the caller's
                    for event in re.findall(r'"([a-z]+_[a-z]+)"', " ".join(args[2:])):
                        yield event, f"{path}:{text.count(chr(10), 0, m.start()) + 1}"
            if name == "rt_xasprintf" and words.count(" ") < 2:
                continue
            if re.search(r"[A-Za-z]{3}", re.sub(r"^saffron( \w+)?:", "", words)):
                yield words, f"{path}:{text.count(chr(10), 0, m.start()) + 1}"


def of_shell(path, text):
    for m in re.finditer(r'^.*(?:\bdie "((?:[^"\\]|\\.)*)"|echo "((?:[^"\\]|\\.)*)".*>&2|echo "(deps: (?:[^"\\]|\\.)*)").*$',
                         text, flags=re.M):
        words = m.group(1) or m.group(2) or m.group(3)
        words = re.sub(r"\$\{[^}]*\}|\$\((?:[^()]|\([^()]*\))*\)|\$\w+|\$\*", "…", words)
        words = re.sub(r"^(launch\.sh|deps|saffron \w+): ", "", plain(words.replace("%", "%%")))
        if re.search(r"[a-z]{3}", words):
            yield words, f"{path}:{text.count(chr(10), 0, m.start()) + 1}"


def messages():
    found = {}
    for folder in "runtime ctl data_compose middleware embedding_server trainer".split():
        for path in sorted(glob.glob(folder + "/**/*.c", recursive=True)):
            with open(path, encoding="utf-8") as file:
                for words, place in of_c(path, file.read()):
                    found.setdefault(words, place)
    for path in ("launch.sh", "scripts/deps.sh", "scripts/cuda.sh"):
        with open(path, encoding="utf-8") as file:
            for words, place in of_shell(path, file.read()):
                found.setdefault(words, place)
    return found


def names():
    with open("runtime/base/err.h", encoding="utf-8") as file:
        return set(re.findall(r"X\((RT_E\w+),", file.read())) | {"RT_ENOMEM"}


def alerts():
    out = set()
    for path in glob.glob("k8s/monitoring/**/*.y*ml", recursive=True):
        with open(path, encoding="utf-8") as file:
            out |= set(re.findall(r"^\s*- alert: *(\w+)", file.read(), flags=re.M))
    return out


def entries():
    """First columns of the page's tables: what stands in backquotes, several divided by <br>."""
    out = []
    with open(PAGE, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.startswith("| `"):
                continue
            cell = re.split(r"(?<!\\)\|", line)[1]
            for words in re.findall(r"``? ?(.+?) ?``?(?= *(?:<br>|$))", cell.strip()):
                out.append((words.replace("\\|", "|"), number))
    return out


def main():
    wanted, page = messages(), entries()
    shown = {words for words, _ in page}
    bad = [f"{place}: no entry in {PAGE} for: {words}" for words, place in sorted(wanted.items()) if words not in shown]
    known = set(wanted) | names()
    bad += [f"{PAGE}:{line}: no source says: {words}" for words, line in page if words not in known]
    bad += [f"{PAGE}: no entry for the error name {name}" for name in sorted(names() - shown)]
    twice = {words for words in shown if sum(w == words for w, _ in page) > 1}
    bad += [f"{PAGE}: two entries for: {words}" for words in sorted(twice)]
    with open(PAGE, encoding="utf-8") as file:
        text = file.read()
    anchors = {a.lower() for a in re.findall(r'<a id="([^"]+)"', text)} | {
        re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ +(.*)$", text, flags=re.M)}
    bad += [f"{PAGE}: no anchor for the alert {a}" for a in sorted(alerts()) if a.lower() not in anchors]
    print("\n".join(bad))
    return 1 if bad else 0


def match(path):
    """Does the page explain what a program said, the text of a file? The entry with most words of its own."""
    with open(path, encoding="utf-8", errors="replace") as file:
        said = file.read()
    best = max([(0, "none")] + [(sum(map(str.isalpha, words)), words) for words, _ in entries()
                                if re.search(".*".join(map(re.escape, words.split("…"))), said)])
    print(f"{said.strip()}\n    has the entry: {best[1]}")
    return 0 if best[0] > 0 else 1


if sys.argv[1:2] == ["match"]:
    sys.exit(match(sys.argv[2]))
elif sys.argv[1:] == ["list"]:
    print("\n".join(f"{place}\t{words}" for words, place in messages().items()))
else:
    sys.exit(main())
