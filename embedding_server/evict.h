/* embedding_server/evict.h -- which rows go when a table is full: LRU or LFU, by samples.
 *
 *   LRU   goes first: the row with the oldest `touched` (clock.h)
 *   LFU   the row with the lowest score; frequency = score just after the last touch, where a touch is + 1 and
 *         the score halves in each `half_life` ticks:  score(now) = frequency * 2^-((now - touched) / half_life)
 *
 * To make room for m rows, max(8 m, 64) rows spread evenly over the table by chance are looked at and the worst m
 * are named; up to as many again if too few of them may go. A table of at most 256 rows is looked at as a whole, so
 * small tables are exact. On a Zipf(1.05) trace the hit rate is within 0.5 % of exact LRU
 * (tests/unit/test_evict.c).
 * Chooses only, frees nothing. Touch: owner thread only. */
#ifndef EBS_EVICT_H
#define EBS_EVICT_H

#include "embedding_server/slab.h"
#include "runtime/job/job.h"

#include <math.h>

struct ebs_evict {
    uint32_t touched, frequency; /* where in a row; 0: rows have none */
    float per_tick;              /* 1 / half_life */
    uint64_t key, draws;
};

void ebs_evict_init(struct ebs_evict *evict, const struct rt_table_conf *table, uint64_t seed);

/* ebs_evict_choose() - name rows that may go.
 * @now, @keep_from: ticks; a row touched at keep_from or later, up to now, stays.
 * @victim: [want] row numbers, distinct, all live.
 * Cheapest per row for 16 and more at a time. At most 16 rows are looked at per row wanted (128 for one), whatever the table's
 * size: when nearly all rows must stay, fewer than wanted are found, or none though there may be one.
 * Return: how many were written. */
size_t ebs_evict_choose(struct ebs_evict *evict, const struct ebs_slab *slab, uint32_t now,
                        uint32_t keep_from, size_t want, uint32_t *victim);

/* A row was created, and is touched for the first time. Nothing for tables whose rows are not stamped. */
static inline void ebs_evict_born(const struct ebs_evict *evict, uint8_t *row, uint32_t now)
{
    float one = 1.0f;

    if (evict->touched)
        memcpy(row + evict->touched, &now, sizeof(now));
    if (evict->frequency)
        memcpy(row + evict->frequency, &one, sizeof(one));
}

/* A row has a gradient once more. */
static inline void ebs_evict_touch(const struct ebs_evict *evict, uint8_t *row, uint32_t now)
{
    if (evict->frequency) {
        uint32_t touched;
        float frequency;

        memcpy(&touched, row + evict->touched, sizeof(touched));
        memcpy(&frequency, row + evict->frequency, sizeof(frequency));
        frequency = frequency * exp2f(-(float)(now - touched) * evict->per_tick) + 1.0f;
        memcpy(row + evict->frequency, &frequency, sizeof(frequency));
    }
    if (evict->touched)
        memcpy(row + evict->touched, &now, sizeof(now));
}

#endif
