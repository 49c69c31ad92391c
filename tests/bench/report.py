"""What the benchmarks' reports share: the machine, an entry, the file."""
import json
import os
import statistics


def machine():
    with open("/proc/cpuinfo") as f:
        model = [line.split(":", 1)[1].strip() for line in f if line.startswith("model name")]
    return {
        "cpu": model[0] if model else "unknown",
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": os.uname().release,
    }


def entry(name, value, unit, limit=None, limit_name=None, more_is_better=True, demanded=None):
    """ratio is at least 1 where the value is as good as the limit or better; demanded: what it shall be at least."""
    ratio = None
    if limit:
        ratio = value / limit if more_is_better else limit / value
    out = {"name": name, "value": value, "unit": unit, "limit": limit, "limit_name": limit_name, "ratio": ratio}
    if demanded is not None:
        out["demanded"] = demanded
    return out


def median(values):
    return statistics.median(values) if values else None


def write(path, entries):
    for e in entries:
        beside = f"  limit {e['limit']:.6g} ({e['limit_name']}), ratio {e['ratio']:.3f}" if e["limit"] else ""
        if "demanded" in e:
            beside += f" of {e['demanded']:.3g}" + ("" if e["ratio"] >= e["demanded"] else ": SHORT")
        print(f"  {e['name']:<42} {e['value']:>12.6g} {e['unit']}{beside}")
    with open(path + ".new", "w") as f:
        json.dump({"machine": machine(), "entries": entries}, f, indent=1)
        f.write("\n")
    os.replace(path + ".new", path)
    print(f"  {path}")
