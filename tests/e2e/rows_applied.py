"""Of a job of tests/lib/oracle.h, by the model that it saved: how often each row of the data was applied to its row of the table."""
import glob
import json
import struct

ROWS, BATCH, CLIP = 8192, 64, 0.001  # as faults.c makes them: one application moves a row by CLIP


def tensors(path):
    with open(path, "rb") as file:
        data = file.read()
    size = struct.unpack("<Q", data[:8])[0]
    head = json.loads(data[8:8 + size])
    head.pop("__metadata__")
    return {name: data[8 + size + t["data_offsets"][0]:8 + size + t["data_offsets"][1]] for name, t in head.items()}


def applied(folder):
    """(times, path of the file) by row; ValueError: the files are not right."""
    found = {}
    for path in glob.glob(f"{folder}/table.row.*.safetensors"):
        tensor = tensors(path)
        ids = struct.unpack(f"<{len(tensor['ids']) // 8}Q", tensor["ids"])
        value = struct.unpack(f"<{len(tensor['rows']) // 4}f", tensor["rows"])
        width = len(value) // max(len(ids), 1)
        for k, row in enumerate(ids):
            times = sum(x * x for x in value[k * width:(k + 1) * width]) ** 0.5 / CLIP
            if row in found or row >= ROWS or abs(times - round(times)) > 0.2:
                raise ValueError(f"{path}: row {row}, applied {times:.2f} times")
            found[row] = round(times), path
    return found


def differences(folder, expected):
    """(lost, doubled): applications missing and too many, where row r should have expected(r, path) of them."""
    found, lost, doubled = applied(folder), 0, 0
    for row in range(ROWS):
        times, path = found.get(row, (0, None))
        more = times - expected(row, path)
        lost += max(-more, 0)
        doubled += max(more, 0)
    return lost, doubled
