/* runtime/job/seqset.c -- per split: a low-water mark, and a ring of bits for the sequences above it.
 *
 * Bit (sequence mod window) of the ring belongs to `sequence` while low <= sequence < low + window, so
 * moving the mark up costs one cleared bit per step and nothing is ever shifted; `window` is a multiple
 * of 64, so the ring is whole words. The bitmap that others see begins at the mark: it is put together
 * in one scratch area when asked for (a checkpoint, a reply), not while training. A flat bitmap that is
 * shifted as the mark moves was rejected: window/8 bytes of copying for each batch in order.
 * Splits are a growing array of pointers: in use are mostly the first few dozen of 65,536. */
#include "runtime/job/seqset.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "runtime/job/batch_id.h"

#include <string.h>

#define WINDOW_MAX (1u << 20)
#define SPLITS_MAX 65536u

struct split {
    uint64_t low;   /* all below are in; its own bit is never set */
    uint64_t above; /* number of bits set */
    uint64_t bits[];
};

struct rt_seqset {
    uint32_t window;
    uint32_t splits, capacity; /* highest in use + 1; length of split[] */
    struct split **split;      /* NULL: nothing of it is in */
    uint8_t *scratch;          /* [window/8] of rt_seqset_bitmap */
};

int rt_seqset_create(uint32_t window, struct rt_seqset **out)
{
    struct rt_seqset *set;

    if (window == 0 || window % 64 != 0 || window > WINDOW_MAX)
        return RT_FAIL(RT_EUSAGE, "window of %u sequences, expected a multiple of 64 up to %u",
                       window, WINDOW_MAX);
    set = rt_try_calloc(1, sizeof(*set));
    if (!set)
        return RT_FAIL(RT_ENOMEM, "sequence set: out of memory");
    set->window = window;
    set->scratch = rt_try_calloc(window / 8, 1);
    if (!set->scratch) {
        rt_free(set);
        return RT_FAIL(RT_ENOMEM, "sequence set: out of memory for a window of %u", window);
    }
    *out = set;
    return 0;
}

void rt_seqset_destroy(struct rt_seqset *set)
{
    if (!set)
        return;
    for (uint32_t i = 0; i < set->splits; i++)
        rt_free(set->split[i]);
    rt_free(set->split);
    rt_free(set->scratch);
    rt_free(set);
}

static const struct split *find(const struct rt_seqset *set, uint32_t split)
{
    return split < set->splits ? set->split[split] : NULL;
}

static bool bit_get(const struct rt_seqset *set, const struct split *s, uint64_t sequence)
{
    uint64_t at = sequence % set->window;

    return s->bits[at / 64] >> (at % 64) & 1;
}

static int out_of_memory(uint32_t split)
{
    return RT_FAIL(RT_ENOMEM, "sequence set: out of memory for split %u", split);
}

/* The split's state, made when it is not there. */
static int need(struct rt_seqset *set, uint32_t split, struct split **out)
{
    if (split >= set->capacity) {
        uint32_t capacity = set->capacity ? set->capacity : 64;
        struct split **grown;

        while (capacity <= split)
            capacity *= 2;
        grown = rt_try_realloc(set->split, capacity * sizeof(*grown));
        if (!grown)
            return out_of_memory(split);
        memset(grown + set->capacity, 0, (capacity - set->capacity) * sizeof(*grown));
        set->split = grown;
        set->capacity = capacity;
    }
    if (!set->split[split]) {
        set->split[split] = rt_try_calloc(1, sizeof(struct split) + set->window / 8);
        if (!set->split[split])
            return out_of_memory(split);
        if (split >= set->splits)
            set->splits = split + 1;
    }
    *out = set->split[split];
    return 0;
}

/* Move the mark over all that are in. */
static void advance(const struct rt_seqset *set, struct split *s)
{
    while (s->above && bit_get(set, s, s->low)) {
        uint64_t at = s->low % set->window;

        s->bits[at / 64] &= ~(1ull << at % 64);
        s->above--;
        s->low++;
    }
}

bool rt_seqset_has(const struct rt_seqset *set, uint32_t split, uint64_t sequence)
{
    const struct split *s = find(set, split);

    if (!s || sequence >= s->low + set->window)
        return false;
    return sequence < s->low || bit_get(set, s, sequence);
}

int rt_seqset_add(struct rt_seqset *set, uint32_t split, uint64_t sequence)
{
    uint64_t low = rt_seqset_low(set, split);
    struct split *s;
    uint64_t at;
    int err;

    rt_assert(split < SPLITS_MAX && sequence <= RT_SEQUENCE_MAX);
    if (rt_seqset_has(set, split, sequence))
        return 0;
    if (sequence - low >= set->window)
        return RT_FAIL(RT_ELIMIT,
                       "split %u: sequence %llu is beyond the window of %u above %llu: too many "
                       "batches are open",
                       split, (unsigned long long)sequence, set->window, (unsigned long long)low);
    err = need(set, split, &s);
    if (err)
        return err;
    at = sequence % set->window;
    s->bits[at / 64] |= 1ull << at % 64;
    s->above++;
    advance(set, s);
    return 0;
}

uint64_t rt_seqset_low(const struct rt_seqset *set, uint32_t split)
{
    const struct split *s = find(set, split);

    return s ? s->low : 0;
}

uint64_t rt_seqset_count(const struct rt_seqset *set, uint32_t split)
{
    const struct split *s = find(set, split);

    return s ? s->low + s->above : 0;
}

size_t rt_seqset_bitmap(const struct rt_seqset *set, uint32_t split, const uint8_t **bits)
{
    const struct split *s = find(set, split);
    uint64_t left = s ? s->above : 0;
    size_t size = 0;

    *bits = set->scratch;
    memset(set->scratch, 0, set->window / 8);
    for (uint32_t i = 0; left; i++) {
        if (bit_get(set, s, s->low + i)) {
            set->scratch[i / 8] |= (uint8_t)(1u << i % 8);
            size = i / 8 + 1;
            left--;
        }
    }
    return size;
}

int rt_seqset_restore(struct rt_seqset *set, uint32_t split, uint64_t low, const uint8_t *bits,
                      size_t size)
{
    struct split *s;
    int err;

    if (split >= SPLITS_MAX)
        return RT_FAIL(RT_EPROTO, "split %u, expected below %u", split, SPLITS_MAX);
    if (low > RT_SEQUENCE_MAX)
        return RT_FAIL(RT_EPROTO, "split %u: low mark %llu is above any sequence", split,
                       (unsigned long long)low);
    if (size > set->window / 8)
        return RT_FAIL(RT_EPROTO, "split %u: bitmap of %zu bytes, expected at most %u", split, size,
                       set->window / 8);
    err = need(set, split, &s);
    if (err)
        return err;
    memset(s->bits, 0, set->window / 8);
    s->low = low;
    s->above = 0;
    for (size_t i = 0; i < size * 8; i++) {
        uint64_t at = (low + i) % set->window;

        if (bits[i / 8] >> i % 8 & 1) {
            s->bits[at / 64] |= 1ull << at % 64;
            s->above++;
        }
    }
    advance(set, s);
    return 0;
}

uint32_t rt_seqset_splits(const struct rt_seqset *set)
{
    return set->splits;
}
