"""What the pages say is there: links and their anchors, flags, variables, keys, metrics, layer types, targets.

Called by tests/e2e/guide.sh from the top of the tree with the folder of the programs. Prints each finding; exit
status 1 when there is one. Only the standard library.
"""
import glob
import os
import re
import subprocess
import sys

BIN = sys.argv[1]
PAGES = ["README.md", *sorted(glob.glob("docs/*.md")), *sorted(glob.glob("k8s/**/*.md", recursive=True))]
SOURCES = [p for d in "runtime ctl data_compose middleware embedding_server trainer".split()
           for p in glob.glob(d + "/**/*.[ch]", recursive=True)]
found = []


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def finding(page, text):
    found.append(f"{page}: {text}")


def slug(heading):
    """The anchor of a heading, as GitHub makes it."""
    heading = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading.strip().lower())
    return re.sub(r"[^\w\- ]", "", heading).replace(" ", "-")


def anchors(path):
    text = re.sub(r"^```.*?^```", "", read(path), flags=re.M | re.S)
    names = {slug(h) for h in re.findall(r"^#+ +(.*)$", text, flags=re.M)}
    return names | set(re.findall(r'<a (?:id|name)="([^"]+)"', text))


def links():
    listed = subprocess.run(["git", "-c", "safe.directory=*", "ls-files", "--cached", "--others",
                             "--exclude-standard", "*.md"], capture_output=True, text=True, check=False).stdout.split()
    for page in sorted(set(listed) | set(PAGES)):
        if not os.path.exists(page):
            continue
        text = re.sub(r"^```.*?^```", "", read(page), flags=re.M | re.S)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if re.match(r"[a-z]+:", target):
                continue
            path, _, anchor = target.partition("#")
            path = os.path.normpath(os.path.join(os.path.dirname(page), path)) if path else page
            if not os.path.exists(path):
                finding(page, f"link to {target}: there is no {path}")
            elif anchor and anchor not in anchors(path):
                finding(page, f"link to {target}: {path} has no such heading")


def help_of(*words):
    run = subprocess.run(words, capture_output=True, text=True, check=False)
    return run.stdout + run.stderr


# Programs that are not ours: what follows them on their line is not looked at.
FOREIGN = re.compile(r"\b(kubectl|docker|gdb|buildah|podman|git|curl|apt-get|nats-server|promtool|prometheus|helm|awk|tensorboard)\b.*")


def code(page):
    """All that stands in code: lines of blocks, with continued ones joined, and spans."""
    text = read(page)
    for block in re.findall(r"^```\w*\n(.*?)^```", text, flags=re.M | re.S):
        yield from block.replace("\\\n", " ").split("\n")
    text = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    yield from re.findall(r"`([^`\n]+)`", text)


def programs_help():
    texts = [help_of("./launch.sh", "--help")]
    for command in ("local", "plan", "status", "stop", "trace", "export", "import", "checkpoint", "checkpoints", "verify",
                    "inspect", "diff", "rollback"):
        texts.append(help_of(f"{BIN}/saffron", command, "--help"))
    for role in ("trainer", "data-compose", "middleware", "embedding-server"):
        texts.append(help_of(f"{BIN}/saffron-{role}", "--help"))
    texts.append(help_of(f"{BIN}/saffron-data-compose", "generate", "--help"))
    return "\n".join(texts)


def flags_and_names():
    known = programs_help()
    flags = set(re.findall(r"--[a-z][a-z-]+", known)) | {"--no-run", "--help", "--version"}
    sources = "\n".join(read(p) for p in SOURCES) + read("launch.sh") + "\n".join(
        read(p) for p in glob.glob("tests/*.sh") + [
            "tests/e2e/lib.sh"] + glob.glob("Dockerfile*"))
    keys = set(re.findall(r"^\| `([a-z_]+\.[\w.]+)`", read("docs/config.md"), flags=re.M))
    tops = {k[:i] for k in keys for i, c in enumerate(k) if c == "."} | keys
    targets = set(re.findall(r"^([a-z-]+):.*##", read("Makefile"), flags=re.M)) | {"programs", "unit", "all", "help"}
    for page in PAGES:
        if page == "docs/trouble.md":
            continue  # its messages are the programs' own words: tests/docs/messages.py
        for line in code(page):
            ours = FOREIGN.sub("", line)
            for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]+", ours):
                if flag not in flags:
                    finding(page, f"flag {flag}: no --help has it")
            for name in re.findall(r"\b(?:SAFFRON_[A-Z_]*[A-Z]|REPLICA_[A-Z]+|NPROC_PER_NODE|LOG_LEVEL)\b", line):
                if not re.search(rf"\b{name}\b", sources + known):
                    finding(page, f"variable {name}: nothing reads it")
            for target in re.findall(r"^make ([a-z-]+)", line):
                if target not in targets:
                    finding(page, f"make {target}: no such target")
            if page != "docs/config.md":
                for key in re.findall(r"\b(?:global|data|embedding|model)\.[a-z_]+(?:\.[a-z_]+)*", ours):
                    if re.search(r"\.(yml|tsv|log|gz|c|h|md)$", key) or re.match(r"model\.params\b", key):
                        continue
                    general = re.sub(r"^(embedding\.(?:tables|features)|data\.columns)\.\w+", r"\1.NAME", key)
                    general = re.sub(r"^embedding\.defaults", "embedding.tables.NAME", general)
                    if general not in tops:
                        finding(page, f"key {key}: docs/config.md has no such key")


def metrics():
    sources = "\n".join(read(p) for p in SOURCES)
    for page in PAGES:
        for name in sorted(set(re.findall(r"\bsaffron_(?:trainer|data_compose|middleware|embedding_server)_\w+[a-z]", read(page)))):
            base = re.sub(r"_(bucket|sum|count)$", "", name)
            rest = re.sub(r"^saffron_(trainer|data_compose|middleware|embedding_server)_", "", base)
            if f'"{base}"' not in sources and f'"{rest}"' not in sources and not re.search(rf'saffron_%s_{rest}\b', sources):
                finding(page, f"metric {name}: no source registers it")


def layers():
    """docs/own-model.md has a row for each layer type, or one for each of its kinds, with each of its options."""
    page = "docs/own-model.md"
    table = read(page).split("## Layer types")[1].split("\n## ")[0]
    rows = {}
    for name, row in re.findall(r"^\| `(\w+)`[^|]*\|(.*)$", table, flags=re.M):
        rows.setdefault(name, []).append(row.split("|")[1])
    types = set()
    for path in glob.glob("trainer/model/layer_*.c"):
        options = re.findall(r'"(\w+)"', re.search(r"options\[\] = \{(.*?)\}", read(path), flags=re.S).group(1))
        for name in re.findall(r"\.name = \"(\w+)\"", read(path)):
            types.add(name)
            if name not in rows:
                finding(page, f"layer type {name} has no row")
                continue
            shown = re.findall(r"`(\w+)`:", " ".join(rows[name]))
            if sorted(shown) != sorted(options):
                finding(page, f"layer type {name}: options {shown}, the source has {options}")
    registered = set(re.findall(r"&tr_layer_(\w+),", read("trainer/model/layers.c")))
    if registered != types:
        finding(page, f"layers.c registers {sorted(registered)}, the files define {sorted(types)}")
    for name in set(rows) - types:
        finding(page, f"layer type {name} is not there")


def all_are_listed():
    index = read("docs/README.md")
    for page in glob.glob("docs/*.md"):
        if page != "docs/README.md" and f"`{os.path.basename(page)}`" not in index:
            finding("docs/README.md", f"does not name {os.path.basename(page)}")
    if len(read("README.md").split("\n")) > 150:
        finding("README.md", "longer than 150 lines")


for check in (links, flags_and_names, metrics, layers, all_are_listed):
    check()
print("\n".join(found))
sys.exit(1 if found else 0)
