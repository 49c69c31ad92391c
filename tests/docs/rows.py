"""The bytes of rows that docs/tables.md shows are those of their columns.

Called by tests/e2e/guide.sh from the top of the tree. Prints each finding; exit status 1 when there is one. A row's bytes
are computed here from its description alone; tests/e2e/policies.sh compares them with what a server says.
"""
import re
import sys

STATE = {"sgd": lambda dim: 0, "rowwise_adagrad": lambda dim: 1, "adagrad": lambda dim: dim,
         "adam": lambda dim: 2 * dim, "ftrl": lambda dim: 2 * dim}
found = []


def row_of(words, dim, last):
    """[id, touched, frequency, weights, state, sum] of a description; `the same with` adds to the one before."""
    if not words.startswith("the same"):
        dtype, kind = re.search(r"\b(float32|bfloat16|float16)\b", words), re.search(r"\b(%s)\b" % "|".join(STATE), words)
        weights = dim * (4 if dtype.group(1) == "float32" else 2)
        last = [8, 0, 0, weights + -weights % 4, 4 * STATE[kind.group(1)](dim)]
    row = list(last)
    if re.search(r"lru|lfu|ttl", words):
        row[1] = 4
    if "lfu" in words:
        row[2] = 4
    return row + [sum(row)], last


def check(page):
    lines = 0
    dim = last = None
    with open(page, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
            head = re.match(r"\| rows of `?dim`? (\d+) \|", line)
            if head:
                dim = int(head.group(1))
            elif not line.startswith("|"):
                dim = None
            elif dim and not line.startswith("|---"):
                row, last = row_of(cells[0], dim, last)
                shown = [int(cell or 0) for cell in cells[1:]]
                lines += 1
                if shown != row:
                    found.append(f"{page}:{number}: {cells[0]}: shown {shown}, expected {row}")
    if lines < 5:
        found.append(f"{page}: {lines} rows are shown with their bytes, expected some")


check("docs/tables.md")
print("\n".join(found))
sys.exit(1 if found else 0)
