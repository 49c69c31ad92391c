/* ctl/finished.c -- see finished.h. A split's batches: all below the low mark, and bit i of the bitmap is low + i (seqset.h). */
#include "ctl/finished.h"

#include <stdbool.h>
#include <stddef.h>

static bool has_bit(const struct wire_split_ledger *split, uint64_t i)
{
    return i / 8 < split->finished_bytes && (split->finished[i / 8] >> i % 8 & 1) != 0;
}

struct ctl_finished ctl_finished_count(const struct wire_split_ledger *ledger, uint32_t n)
{
    struct ctl_finished out = {0};

    for (uint32_t s = 0; s < n; s++) {
        uint64_t above = 0, end = 0; /* of the last one */

        for (uint64_t i = 0; i < (uint64_t)ledger[s].finished_bytes * 8; i++) {
            if (has_bit(&ledger[s], i)) {
                above++;
                end = i + 1;
            }
        }
        out.batches += ledger[s].finished_low + above;
        out.holes += end - above;
    }
    return out;
}

static uint64_t both_of(const struct wire_split_ledger *a, const struct wire_split_ledger *b)
{
    uint64_t both;

    if (a->finished_low > b->finished_low)
        return both_of(b, a);
    both = a->finished_low;
    for (uint64_t i = 0; i < (uint64_t)a->finished_bytes * 8; i++) {
        uint64_t sequence = a->finished_low + i;

        both +=
            has_bit(a, i) && (sequence < b->finished_low || has_bit(b, sequence - b->finished_low));
    }
    return both;
}

uint64_t ctl_finished_both(const struct wire_split_ledger *a, uint32_t n_a,
                           const struct wire_split_ledger *b, uint32_t n_b)
{
    uint64_t both = 0;

    for (uint32_t i = 0; i < n_a; i++) {
        uint32_t k = i < n_b && b[i].split == a[i].split ? i : 0; /* mostly the same place */

        while (k < n_b && b[k].split != a[i].split)
            k++;
        if (k < n_b)
            both += both_of(&a[i], &b[k]);
    }
    return both;
}
