/* embedding_server/filter.c -- low-water mark and ring bitmap per split.
 *
 * Bit (sequence mod window) of a split's ring stands for the one sequence in [low, low + window) that maps
 * there. Splits hang in a table of two levels, made on first use: jobs have tens of splits, the limit is
 * 65,536. */
#include "embedding_server/filter.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "runtime/wire/batch.h"

#define SEQUENCE_MASK ((1ull << EBS_SEQUENCE_BITS) - 1)
#define PAGE_SPLITS   256u
#define BITS          64u

struct split {
    uint64_t low;
    uint64_t bit[]; /* [window / 64] */
};

struct page {
    struct split *split[PAGE_SPLITS];
};

struct ebs_filter {
    uint32_t window; /* a power of two, >= 64 */
    size_t bytes;
    struct page *page[PAGE_SPLITS];
};

int ebs_filter_create(uint32_t window, struct ebs_filter **out)
{
    struct ebs_filter *filter;

    if (window < EBS_WINDOW_MIN || window > EBS_WINDOW_MAX)
        return RT_FAIL(RT_EUSAGE, "filter window: expected %u..%u, got %u", EBS_WINDOW_MIN,
                       EBS_WINDOW_MAX, window);
    filter = rt_try_calloc(1, sizeof(*filter));
    if (!filter)
        return RT_FAIL(RT_ENOMEM, "filter: out of memory");
    filter->window = EBS_WINDOW_MIN;
    while (filter->window < window)
        filter->window *= 2;
    filter->bytes = sizeof(*filter);
    *out = filter;
    return 0;
}

void ebs_filter_destroy(struct ebs_filter *filter)
{
    if (!filter)
        return;
    for (size_t p = 0; p < PAGE_SPLITS; p++) {
        for (size_t s = 0; filter->page[p] && s < PAGE_SPLITS; s++)
            rt_free(filter->page[p]->split[s]);
        rt_free(filter->page[p]);
    }
    rt_free(filter);
}

static struct split *split_of(const struct ebs_filter *filter, uint32_t number)
{
    const struct page *page;

    rt_assert(number < PAGE_SPLITS * PAGE_SPLITS);
    page = filter->page[number / PAGE_SPLITS];
    return page ? page->split[number % PAGE_SPLITS] : NULL;
}

static uint64_t *word_of(const struct ebs_filter *filter, struct split *split, uint64_t sequence)
{
    return &split->bit[(sequence & (filter->window - 1)) / BITS];
}

static uint64_t bit_of(uint64_t sequence)
{
    return 1ull << (sequence % BITS);
}

bool ebs_filter_seen(const struct ebs_filter *filter, uint64_t batch_id)
{
    struct split *split = split_of(filter, (uint32_t)(batch_id >> EBS_SEQUENCE_BITS));
    uint64_t sequence = batch_id & SEQUENCE_MASK;

    if (!split)
        return false;
    if (sequence < split->low)
        return true;
    return sequence - split->low < filter->window &&
           (*word_of(filter, split, sequence) & bit_of(sequence)) != 0;
}

int ebs_filter_reserve(struct ebs_filter *filter, uint64_t batch_id)
{
    uint32_t number = (uint32_t)(batch_id >> EBS_SEQUENCE_BITS);
    struct page **page = &filter->page[number / PAGE_SPLITS];
    size_t bytes = sizeof(struct split) + filter->window / BITS * sizeof(uint64_t);

    if (!*page) {
        *page = rt_try_calloc(1, sizeof(**page));
        if (!*page)
            return RT_FAIL(RT_ENOMEM, "filter: out of memory for split %u", number);
        filter->bytes += sizeof(**page);
    }
    if (!(*page)->split[number % PAGE_SPLITS]) {
        struct split *split = rt_try_calloc(1, bytes);

        if (!split)
            return RT_FAIL(RT_ENOMEM, "filter: out of memory for split %u", number);
        (*page)->split[number % PAGE_SPLITS] = split;
        filter->bytes += bytes;
    }
    return 0;
}

/* Raise low to `to`: all that is passed over counts as applied. */
static void push_low(struct ebs_filter *filter, struct split *split, uint64_t to)
{
    if (to - split->low >= filter->window) {
        for (uint32_t w = 0; w < filter->window / BITS; w++)
            split->bit[w] = 0;
    } else {
        for (uint64_t s = split->low; s < to; s++)
            *word_of(filter, split, s) &= ~bit_of(s);
    }
    split->low = to;
}

/* Move low over all that are applied. */
static void advance(const struct ebs_filter *filter, struct split *split)
{
    for (;;) {
        uint64_t *word = word_of(filter, split, split->low);

        if (!(*word & bit_of(split->low)))
            break;
        *word &= ~bit_of(split->low);
        split->low++;
    }
}

void ebs_filter_set(struct ebs_filter *filter, uint64_t batch_id)
{
    struct split *split = split_of(filter, (uint32_t)(batch_id >> EBS_SEQUENCE_BITS));
    uint64_t sequence = batch_id & SEQUENCE_MASK;

    rt_assert(split != NULL);
    if (sequence < split->low)
        return;
    if (sequence - split->low >= filter->window)
        push_low(filter, split, sequence - filter->window + 1);
    *word_of(filter, split, sequence) |= bit_of(sequence);
    advance(filter, split);
}

static bool is_finished(const struct wire_split_ledger *ledger, uint64_t sequence)
{
    uint64_t at = ledger ? sequence - ledger->finished_low : 0;

    if (!ledger)
        return false;
    return sequence < ledger->finished_low ||
           (at / 8 < ledger->finished_bytes && (ledger->finished[at / 8] >> at % 8 & 1));
}

/* Of one split: the first sequence from the ledger's low mark on. ledger NULL: nothing of it is finished. */
static bool split_beyond(const struct ebs_filter *filter, const struct split *split,
                         const struct wire_split_ledger *ledger, uint64_t *sequence)
{
    uint64_t s = ledger ? ledger->finished_low : 0;

    for (; s < split->low; s++) {
        if (!is_finished(ledger, s)) {
            *sequence = s;
            return true;
        }
    }
    for (uint32_t i = 0; i < filter->window; i++) {
        s = split->low + i;
        if (i + BITS <= filter->window && s % BITS == 0 &&
            split->bit[(s & (filter->window - 1)) / BITS] == 0) {
            i += BITS - 1; /* a word with nothing */
            continue;
        }
        if ((split->bit[(s & (filter->window - 1)) / BITS] & bit_of(s)) &&
            !is_finished(ledger, s)) {
            *sequence = s;
            return true;
        }
    }
    return false;
}

bool ebs_filter_beyond(const struct ebs_filter *filter, const struct wire_split_ledger *ledger,
                       uint32_t n, uint64_t *batch_id)
{
    uint32_t at = 0;

    for (uint32_t number = 0; number < PAGE_SPLITS * PAGE_SPLITS; number++) {
        const struct page *page = filter->page[number / PAGE_SPLITS];
        const struct split *split = page ? page->split[number % PAGE_SPLITS] : NULL;
        uint64_t sequence;

        if (!page)
            number |= PAGE_SPLITS - 1; /* to the next one */
        while (at < n && ledger[at].split < number)
            at++;
        if (!split)
            continue;
        if (split_beyond(filter, split, at < n && ledger[at].split == number ? &ledger[at] : NULL,
                         &sequence)) {
            *batch_id = (uint64_t)number << EBS_SEQUENCE_BITS | sequence;
            return true;
        }
    }
    return false;
}

int ebs_filter_add(struct ebs_filter *filter, uint32_t number, uint64_t low, const uint8_t *bits,
                   size_t bytes)
{
    struct split *split = split_of(filter, number);

    if (low > SEQUENCE_MASK || bytes * 8 > SEQUENCE_MASK - low)
        return RT_FAIL(RT_EPROTO, "split %u: a bitmap of %zu bytes at sequence %llu", number, bytes,
                       (unsigned long long)low);
    if (bytes > filter->window / 8)
        return RT_FAIL(RT_EPROTO, "split %u: bitmap of %zu bytes, expected at most %u", number,
                       bytes, filter->window / 8);
    rt_assert(split != NULL);
    if (low > split->low) {
        push_low(filter, split, low);
        advance(filter, split);
    }
    for (size_t i = 0; i < bytes * 8; i++)
        if (bits[i / 8] >> i % 8 & 1)
            ebs_filter_set(filter, (uint64_t)number << EBS_SEQUENCE_BITS | (low + i));
    return 0;
}

uint64_t ebs_filter_low(const struct ebs_filter *filter, uint32_t split)
{
    const struct split *known = split_of(filter, split);

    return known ? known->low : 0;
}

uint32_t ebs_filter_window(const struct ebs_filter *filter)
{
    return filter->window;
}

size_t ebs_filter_bytes(const struct ebs_filter *filter)
{
    return filter->bytes;
}
