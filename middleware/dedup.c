/* middleware/dedup.c -- turn the ids of one batch into a list of distinct ids.
 *
 * DESIGN: one open-addressing pass with linear probing over at least twice as many entries as ids. An
 * entry says in which round (begin) it was written, so nothing is cleared between tables and batches; a
 * small table uses only the front of the area, which then stays in the cache. Ids go through in blocks:
 * first all places of a block are worked out and prefetched, then they are probed, because the
 * entries of a large table are in no cache. Whether an id is new is a coin's toss, which no CPU foresees: so its
 * entry and its place behind the list are written in both cases, and nothing branches on it. Sorting gives the same list with more memory traffic, and
 * loses the order of arrival, on which the order of sums depends. */
#include "middleware/dedup.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/hash.h"
#include "runtime/base/mem.h"

#include <string.h>

#define ENTRIES_MIN 1024
#define BLOCK       32

struct entry {
    uint64_t id;
    uint32_t round; /* 0: never used */
    uint32_t index; /* into distinct */
};

struct mw_dedup {
    struct entry *entry; /* [capacity] */
    size_t capacity;
    size_t mask; /* of the part in use this round */
    size_t left; /* occurrences that may still be added */
    uint64_t seed;
    uint32_t round;
};

struct mw_dedup *mw_dedup_create(uint64_t seed)
{
    struct mw_dedup *dedup = rt_xcalloc(1, sizeof(*dedup));

    dedup->seed = seed;
    return dedup;
}

void mw_dedup_destroy(struct mw_dedup *dedup)
{
    if (!dedup)
        return;
    rt_free(dedup->entry);
    rt_free(dedup);
}

static int grow(struct mw_dedup *dedup, size_t entries)
{
    struct entry *entry = rt_try_aligned(entries * sizeof(*entry));

    if (!entry)
        return RT_FAIL(RT_ENOMEM, "deduplication: out of memory for %zu entries", entries);
    memset(entry, 0, entries * sizeof(*entry));
    rt_free(dedup->entry);
    dedup->entry = entry;
    dedup->capacity = entries;
    dedup->round = 0;
    return 0;
}

int mw_dedup_begin(struct mw_dedup *dedup, size_t ids)
{
    size_t entries = ENTRIES_MIN;
    int err = 0;

    rt_assert(ids <= MW_DEDUP_IDS_MAX);
    while (entries < 2 * ids)
        entries *= 2;
    dedup->left = 0;
    if (entries > dedup->capacity)
        err = grow(dedup, entries);
    if (err)
        return err;
    if (dedup->round == UINT32_MAX) {
        memset(dedup->entry, 0, dedup->capacity * sizeof(*dedup->entry));
        dedup->round = 0;
    }
    dedup->round++;
    dedup->mask = entries - 1;
    dedup->left = ids;
    return 0;
}

/* The entry holds another id. Kept whole as a number: gcc makes two branches of it. */
static inline uint32_t is_taken(const struct mw_dedup *in, const struct entry *entry, uint64_t id)
{
    uint32_t taken = (uint32_t)(entry->round == in->round) & (uint32_t)(entry->id != id);

    __asm__("" : "+r"(taken));
    return taken;
}

/* The entry of one id: its own, or an empty one. */
static inline struct entry *find(const struct mw_dedup *in, uint64_t id, size_t at)
{
    while (__builtin_expect(is_taken(in, &in->entry[at], id), 0))
        at = (at + 1) & in->mask;
    return &in->entry[at];
}

uint32_t mw_dedup_add(struct mw_dedup *dedup, const uint64_t *id, size_t n, uint32_t *slot,
                      uint64_t *distinct, uint32_t n_distinct)
{
    const struct mw_dedup in = *dedup; /* in registers: what is written below is none of it */
    size_t at[BLOCK];

    rt_assert(n <= dedup->left);
    dedup->left -= n;
    for (size_t first = 0; first < n; first += BLOCK) {
        size_t count = n - first < BLOCK ? n - first : BLOCK;

        for (size_t i = 0; i < count; i++) {
            at[i] = rt_hash_id(id[first + i] ^ in.seed) & in.mask;
            __builtin_prefetch(&in.entry[at[i]], 1);
        }
        for (size_t i = 0; i < count; i++) {
            struct entry *entry = find(&in, id[first + i], at[i]);
            uint32_t is_new = entry->round != in.round;
            uint32_t index = entry->index ^ ((entry->index ^ n_distinct) & (0 - is_new));

            entry->id = id[first + i];
            entry->round = in.round;
            entry->index = slot[first + i] = index;
            distinct[n_distinct] = id[first + i]; /* behind the end, unless it is new */
            n_distinct += is_new;
        }
    }
    return n_distinct;
}

size_t mw_dedup_bytes(const struct mw_dedup *dedup)
{
    return dedup->capacity * sizeof(struct entry);
}
