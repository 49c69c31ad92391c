/* trainer/parts.c -- see parts.h. */
#include "trainer/parts.h"

const char *tr_part_name(enum tr_part part)
{
    static const char *const name[TR_PARTS] = {
        [TR_PART_WAIT] = "wait",     [TR_PART_HEADER] = "header", [TR_PART_COMPUTE] = "compute",
        [TR_PART_REDUCE] = "reduce", [TR_PART_COMMIT] = "commit",
    };
    return name[part];
}

void tr_parts_enter(struct tr_parts *parts, enum tr_part part, uint64_t now_ns)
{
    if (!parts->runs)
        return;
    parts->spent_ns[parts->part] += now_ns - parts->since_ns;
    parts->since_ns = now_ns;
    parts->part = part;
}

void tr_parts_start(struct tr_parts *parts, uint64_t now_ns)
{
    if (parts->runs)
        return;
    parts->runs = true;
    parts->part = TR_PART_WAIT;
    parts->since_ns = now_ns;
    if (parts->began_ns == 0)
        parts->began_ns = now_ns;
}

void tr_parts_stop(struct tr_parts *parts, uint64_t now_ns)
{
    tr_parts_enter(parts, parts->part, now_ns);
    parts->runs = false;
}

void tr_parts_step(struct tr_parts *parts, uint64_t now_ns)
{
    tr_parts_enter(parts, parts->part, now_ns);
    for (int p = 0; p < TR_PARTS; p++) {
        rt_histogram_observe(&parts->seconds[p], RT_HISTOGRAM_SECONDS, parts->spent_ns[p]);
        parts->spent_ns[p] = 0;
    }
}
