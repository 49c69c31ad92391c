/* embedding_server/evict.c -- look at some rows, name the worst.
 *
 * DESIGN: sampled, as Redis does it. An exact list of recency takes two links in each row (8 bytes and more; in
 * PERSIA's array-linked list 48) and three cache misses on every touch, which is the hot path; here a
 * touch writes the 4 bytes of `touched` into a line that the update has in its hands anyway, and the misses come
 * only when a row must go. A clock hand (one bit per row) was considered too: it needs no stamp, but knows one bit of
 * age, has no answer for LFU or time to live, and where most rows were used since its last round its hand sweeps
 * without bound under a request. With 8 samples per victim, and 64 at least, the work is bounded and waits for many
 * misses at once, where a list's come one after the other.
 *
 * The samples of a call are one from each of as many equal ranges of row numbers: none comes twice, without a
 * set to check that. They are taken in groups for 16 victims, each with every n-th of the ranges, so that a group sees the
 * whole table and not only neighbours, which were often created, and grow old, together. Half of the groups, from
 * one by chance on, are the first round; the others are for when it found too few rows that may go.
 *
 * Measured on Zipf(1.05), 16 at a time, 1 M rows: 8 samples per victim 110 to 200 ns, hit rate 0.1 % from exact at
 * most; 16: 300 ns and no better; 4: 80 ns, 0.2 %. */
#include "embedding_server/evict.h"
#include "runtime/base/assert.h"
#include "runtime/base/rand.h"
#include "runtime/job/layout.h"

#define PER_VICTIM  8u  /* samples */
#define SAMPLES_MIN 64u /* of a group */
#define SAMPLES_MAX 256u
#define GROUP       16u /* victims */
#define ROUNDS      2u
#define TRIES       4u /* draws in a range until one hits a live row */

void ebs_evict_init(struct ebs_evict *evict, const struct rt_table_conf *table, uint64_t seed)
{
    struct rt_row_layout layout = rt_row_layout(table);

    *evict = (struct ebs_evict){.touched = layout.touched,
                                .frequency = layout.frequency,
                                .per_tick =
                                    layout.frequency ? 1.0f / (float)table->eviction.half_life : 0,
                                .key = rt_draw_key(seed, "evict", table->name)};
}

/* A number that is higher the sooner a row should go, as the upper half of a key with the row below. */
static uint64_t worth(const struct ebs_evict *evict, uint32_t age, const uint8_t *at, uint32_t row)
{
    uint32_t bits = age;
    float frequency, score;

    if (evict->frequency) {
        memcpy(&frequency, at + evict->frequency, sizeof(frequency));
        /* The logarithm of the score, in an order that integers have too: negative is larger the smaller it is. */
        score = log2f(frequency) - (float)age * evict->per_tick;
        memcpy(&bits, &score, sizeof(bits));
        bits = bits >> 31 ? bits : ~(bits | 1u << 31);
    }
    return (uint64_t)bits << 32 | row;
}

/* The keys of the rows among `row` that may go, in place of them. */
static size_t weigh(const struct ebs_evict *evict, const struct ebs_slab *slab, uint32_t now,
                    uint32_t keep_from, const uint32_t *row, size_t n, uint64_t *key)
{
    size_t out = 0;

    for (size_t i = 0; i < n; i++) {
        const uint8_t *at = ebs_slab_at(slab, row[i]);
        uint32_t touched;

        memcpy(&touched, at + evict->touched, sizeof(touched));
        if (now - touched > now - keep_from)
            key[out++] = worth(evict, now - touched, at, row[i]);
    }
    return out;
}

/* Move the `want` largest of key[n] to the front, 0 < want <= n: Hoare's selection. */
static void select_largest(uint64_t *key, size_t n, size_t want)
{
    ptrdiff_t low = 0, high = (ptrdiff_t)n - 1, last = (ptrdiff_t)want - 1;

    while (low < high) {
        uint64_t pivot = key[last];
        ptrdiff_t i = low, j = high;

        while (i <= j) {
            uint64_t swap;

            while (key[i] > pivot)
                i++;
            while (key[j] < pivot)
                j--;
            if (i > j)
                break;
            swap = key[i];
            key[i++] = key[j];
            key[j--] = swap;
        }
        if (j < last)
            low = i;
        if (last < i)
            high = j;
    }
}

/* Equal ranges of row numbers, one sample each. */
struct ranges {
    uint32_t end, n; /* row numbers below end, n <= end ranges of them */
    uint64_t step;   /* rows per range, 32 bits of it behind the point */
};

static struct ranges divide(uint32_t end, uint64_t n)
{
    struct ranges out = {.end = end, .n = n < end ? (uint32_t)n : end};

    out.step = (((uint64_t)end << 32) + out.n - 1) / out.n;
    return out;
}

static uint32_t range_start(const struct ranges *ranges, uint32_t range)
{
    uint64_t start = ((uint64_t)range * ranges->step) >> 32;

    return start < ranges->end ? (uint32_t)start : ranges->end;
}

/* A live row of each `stride`-th range from `first` on, its stamp on the way into the cache. */
static size_t sample(struct ebs_evict *evict, const struct ebs_slab *slab,
                     const struct ranges *ranges, uint32_t first, uint32_t stride, uint32_t *row)
{
    size_t n = 0;

    for (uint64_t r = first; r < ranges->n && n < SAMPLES_MAX; r += stride) {
        uint32_t start = range_start(ranges, (uint32_t)r);
        uint32_t width = range_start(ranges, (uint32_t)r + 1) - start;

        for (uint32_t try = 0; try < TRIES && try < width; try++) {
            uint32_t at = start + (uint32_t)rt_below(rt_draw(evict->key, evict->draws++), width);

            if (!ebs_slab_is_live(slab, at))
                continue;
            __builtin_prefetch(ebs_slab_at(slab, at) + evict->touched);
            row[n++] = at;
            break;
        }
    }
    return n;
}

size_t ebs_evict_choose(struct ebs_evict *evict, const struct ebs_slab *slab, uint32_t now,
                        uint32_t keep_from, size_t want, uint32_t *victim)
{
    uint32_t a_round = (uint32_t)((want + GROUP - 1) / GROUP), groups = ROUNDS * a_round;
    size_t samples = want > SAMPLES_MIN / PER_VICTIM ? want * PER_VICTIM : SAMPLES_MIN, out = 0;
    uint32_t row[SAMPLES_MAX], turn;
    uint64_t key[SAMPLES_MAX];
    struct ranges ranges;

    rt_assert(evict->touched != 0 && want < UINT32_MAX / PER_VICTIM);
    if (slab->fresh == 0 || want == 0)
        return 0;
    if (slab->fresh <= SAMPLES_MAX)
        a_round = groups = 1;
    ranges = divide(slab->fresh, groups > 1 ? ROUNDS * samples : SAMPLES_MAX);
    turn = (uint32_t)rt_below(rt_draw(evict->key, evict->draws++), groups);
    for (uint32_t g = 0; g < groups && out < want; g++) {
        uint32_t left = g < a_round ? a_round - g : groups - g;
        size_t n = sample(evict, slab, &ranges, (g + turn) % groups, groups, row);
        size_t most = (want - out + left - 1) / left;

        n = weigh(evict, slab, now, keep_from, row, n, key);
        if (n > most) {
            select_largest(key, n, most);
            n = most;
        }
        for (size_t i = 0; i < n; i++)
            victim[out++] = (uint32_t)key[i];
    }
    return out;
}
