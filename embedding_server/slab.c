/* embedding_server/slab.c -- rows in one growing array; which are live, marked, free.
 *
 * DESIGN: a free row is one whose live bit is 0: nothing is written into it, so freeing a row touches no row
 * memory, and moving or dropping free rows at the end needs no list to be mended. To find the lowest one,
 * blocks of 4,096 rows have a bit in `open`, set by a free and cleared when a search finds none in it.
 * The same live bits let whoever walks all rows (export, checkpoint) read memory in order instead of
 * hopping along the index. */
#include "embedding_server/slab.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"

#define BITS       64u
#define BLOCK_ROWS 4096u
#define STEP_SMALL RT_STEP_SMALL /* growth at a time, before huge pages; and with them: */
#define STEP_HUGE  EBS_HUGE_PAGE
#define SLACK_PART 64u /* compaction begins when more than this part of the rows is free */

void ebs_slab_init(struct ebs_slab *slab, size_t row_bytes, struct ebs_budget *budget)
{
    rt_assert(row_bytes >= sizeof(uint64_t) && row_bytes % sizeof(float) == 0);
    *slab = (struct ebs_slab){.row_bytes = row_bytes};
    ebs_region_init(&slab->rows, budget);
    ebs_region_init(&slab->bits, budget);
}

void ebs_slab_release(struct ebs_slab *slab)
{
    ebs_region_release(&slab->rows);
    ebs_region_release(&slab->bits);
    rt_free(slab->open);
    ebs_slab_init(slab, slab->row_bytes, slab->rows.budget);
}

/* ---- growth ---- */

static size_t bits_bytes(uint64_t rows)
{
    return (rows + BITS - 1) / BITS * sizeof(struct ebs_row_bits);
}

/* Bits and `open` words for `rows` rows. */
static int grow_bits(struct ebs_slab *slab, uint64_t rows)
{
    size_t words = (rows + (size_t)BLOCK_ROWS * BITS - 1) / ((size_t)BLOCK_ROWS * BITS);

    if (words > slab->open_words) {
        size_t n = words < slab->open_words * 2 ? slab->open_words * 2 : words;
        uint64_t *open = rt_try_realloc(slab->open, n * sizeof(*open));

        if (!open)
            return RT_FAIL(RT_ENOMEM, "rows: out of memory, holding %u", slab->capacity);
        memset(open + slab->open_words, 0, (n - slab->open_words) * sizeof(*open));
        slab->open = open;
        slab->open_words = n;
    }
    return ebs_region_grow(&slab->bits, bits_bytes(rows));
}

/* Rows of `bytes` usable bytes. */
static uint32_t rows_in(const struct ebs_slab *slab, size_t bytes)
{
    size_t rows = bytes / slab->row_bytes;

    return rows < EBS_ROWS_MAX ? (uint32_t)rows : EBS_ROWS_MAX;
}

static int grow(struct ebs_slab *slab)
{
    size_t size = slab->rows.size, step = size / 8, least;
    int err;

    if (slab->capacity == EBS_ROWS_MAX)
        return RT_FAIL(RT_ELIMIT, "rows: limit of one owner's table reached at %u rows",
                       slab->capacity);
    if (size >= EBS_HUGE_FROM)
        step = STEP_HUGE;
    else if (step > STEP_SMALL)
        step = STEP_SMALL;
    least = ((size_t)slab->capacity + 1) * slab->row_bytes;
    size += step;
    if (size > RT_SMALL_MOST && least <= RT_SMALL_MOST)
        size = RT_SMALL_MOST; /* huge pages are for rows, not for a step */
    size = ebs_region_round(size < least ? least : size);
    err = grow_bits(slab, rows_in(slab, size));
    if (!err)
        err = ebs_region_grow(&slab->rows, size);
    if (!err)
        slab->capacity = rows_in(slab, slab->rows.size);
    return err;
}

/* ---- live, free ---- */

/* The lowest free row among those once used; EBS_ROW_NONE: all are live. */
static uint32_t lowest_free(struct ebs_slab *slab)
{
    for (; slab->open_from < slab->open_words; slab->open_from++) {
        uint64_t *word = &slab->open[slab->open_from];

        for (; *word; *word &= *word - 1) {
            size_t block = slab->open_from * BITS + (size_t)__builtin_ctzll(*word);

            for (size_t row = block * BLOCK_ROWS; row < (block + 1) * BLOCK_ROWS; row += BITS) {
                uint64_t free;

                if (row >= slab->fresh)
                    return EBS_ROW_NONE;
                free = ~ebs_slab_bits(slab, (uint32_t)row)->live;
                if (!free)
                    continue;
                row += (size_t)__builtin_ctzll(free);
                return row < slab->fresh ? (uint32_t)row : EBS_ROW_NONE;
            }
        }
    }
    return EBS_ROW_NONE;
}

static void set_open(struct ebs_slab *slab, uint32_t row)
{
    size_t word = row / BLOCK_ROWS / BITS;

    slab->open[word] |= 1ull << (row / BLOCK_ROWS % BITS);
    if (word < slab->open_from)
        slab->open_from = word;
}

int ebs_slab_alloc(struct ebs_slab *slab, uint64_t id, uint32_t *out)
{
    uint32_t row = slab->count < slab->fresh ? lowest_free(slab) : EBS_ROW_NONE;

    if (row == EBS_ROW_NONE) {
        if (slab->fresh == slab->capacity) {
            int err = grow(slab);

            if (err)
                return err;
        }
        row = slab->fresh++;
    }
    ebs_slab_bits(slab, row)->live |= 1ull << (row % BITS);
    if (ebs_slab_is_ahead(slab, row))
        ebs_slab_bits(slab, row)->saved |= 1ull << (row % BITS);
    memcpy(ebs_slab_at(slab, row), &id, sizeof(id));
    slab->count++;
    *out = row;
    return 0;
}

/* @return it had one */
static bool unmark(struct ebs_slab *slab, uint32_t row)
{
    struct ebs_row_bits *bits = ebs_slab_bits(slab, row);
    uint64_t bit = 1ull << (row % BITS);
    bool marked = bits->mark & bit;

    bits->mark &= ~bit;
    slab->marked -= marked;
    return marked;
}

void ebs_slab_free(struct ebs_slab *slab, uint32_t row)
{
    bool pending = ebs_slab_keep(slab, row);

    rt_assert(ebs_slab_is_live(slab, row) && !pending);
    ebs_slab_bits(slab, row)->live &= ~(1ull << (row % BITS));
    unmark(slab, row);
    set_open(slab, row);
    slab->count--;
}

size_t ebs_slab_bytes(const struct ebs_slab *slab)
{
    return slab->fresh * slab->row_bytes + bits_bytes(slab->fresh) +
           slab->open_words * sizeof(*slab->open);
}

size_t ebs_slab_resident(const struct ebs_slab *slab)
{
    return slab->rows.size + slab->bits.size + slab->open_words * sizeof(*slab->open);
}

uint32_t ebs_slab_next_live(const struct ebs_slab *slab, uint32_t row)
{
    for (; row < slab->fresh; row = (row / BITS + 1) * BITS) {
        uint64_t word = ebs_slab_bits(slab, row)->live >> (row % BITS);

        if (word)
            return row + (uint32_t)__builtin_ctzll(word);
    }
    return EBS_ROW_NONE;
}

/* ---- a cut ---- */

void ebs_slab_cut(struct ebs_slab *slab, bool full)
{
    rt_assert(slab->cut_end == 0);
    slab->cut_end = (slab->fresh + BITS - 1) / BITS * BITS; /* at most EBS_ROWS_MAX, a multiple */
    slab->cut_full = full;
    slab->cut_dropped = false;
    slab->marked = 0;
}

uint64_t ebs_slab_cut_pass(struct ebs_slab *slab)
{
    struct ebs_row_bits *bits = ebs_slab_bits(slab, slab->cut_at);
    uint64_t pending = bits->live & ~bits->saved & (slab->cut_full ? UINT64_MAX : bits->mark);

    rt_assert(slab->cut_at < slab->cut_end);
    bits->mark &= bits->saved;
    bits->saved = 0;
    slab->cut_at += BITS;
    if (slab->cut_at == slab->cut_end)
        slab->cut_at = slab->cut_end = 0;
    return pending;
}

void ebs_slab_cut_drop(struct ebs_slab *slab)
{
    slab->cut_dropped = true;
}

bool ebs_slab_cut_let_go(struct ebs_slab *slab, uint32_t blocks)
{
    rt_assert(slab->cut_dropped || slab->cut_end == 0);
    for (; slab->cut_end > 0 && blocks > 0; blocks--)
        (void)ebs_slab_cut_pass(slab);
    return slab->cut_end > 0;
}

/* ---- giving memory back ---- */

/* Free rows at the end become never used ones: their bits are 0 already. */
static void drop_tail(struct ebs_slab *slab)
{
    while (slab->fresh > 0) {
        uint32_t last = slab->fresh - 1;
        uint64_t live = ebs_slab_bits(slab, last)->live << (BITS - 1 - last % BITS);

        if (live) {
            slab->fresh -= (uint32_t)__builtin_clzll(live);
            return;
        }
        slab->fresh = last / BITS * BITS;
    }
}

bool ebs_slab_compact_next(struct ebs_slab *slab, uint32_t *from, uint32_t *to)
{
    uint64_t free;

    drop_tail(slab);
    free = slab->fresh - slab->count;
    if (free * slab->row_bytes < EBS_PAGE || free <= slab->fresh / SLACK_PART)
        return false;
    *from = slab->fresh - 1;
    *to = lowest_free(slab);
    rt_assert(*to < *from);
    return true;
}

void ebs_slab_move(struct ebs_slab *slab, uint32_t from, uint32_t to)
{
    rt_assert(ebs_slab_is_live(slab, from) && to < slab->fresh && !ebs_slab_is_live(slab, to));
    rt_assert(slab->cut_end == 0);
    memcpy(ebs_slab_at(slab, to), ebs_slab_at(slab, from), slab->row_bytes);
    ebs_slab_bits(slab, to)->live |= 1ull << (to % BITS);
    if (unmark(slab, from))
        ebs_slab_mark(slab, to);
    ebs_slab_bits(slab, from)->live &= ~(1ull << (from % BITS));
    set_open(slab, from);
}

void ebs_slab_trim(struct ebs_slab *slab)
{
    size_t keep;

    drop_tail(slab);
    if (slab->fresh < slab->ahead_from) {
        slab->ahead_from = slab->fresh;
        slab->touched = 0;
    }
    keep = slab->fresh * slab->row_bytes;
    ebs_region_shrink(&slab->rows, keep > slab->touched ? keep : slab->touched);
    slab->capacity = rows_in(slab, slab->rows.size);
    ebs_region_shrink(&slab->bits, bits_bytes(slab->capacity));
}

/* ---- touching ahead ---- */

bool ebs_slab_touch_ahead(struct ebs_slab *slab, size_t bytes)
{
    size_t used = slab->fresh * slab->row_bytes, from = ebs_region_round(used), to = used;
    size_t grown =
        slab->fresh > slab->ahead_from ? (slab->fresh - slab->ahead_from) * slab->row_bytes : 0;
    size_t window = grown < RT_AHEAD_MAX / 2 ? grown * 2 : RT_AHEAD_MAX;

    if (window > used / RT_AHEAD_PART)
        window = used / RT_AHEAD_PART;
    if (from < slab->touched)
        from = slab->touched;
    /* Small pages cost little, and free rows are used first. */
    if (used >= EBS_HUGE_FROM && (slab->fresh - slab->count) * slab->row_bytes < window)
        to = ebs_region_round(used + window);
    if (to <= from) {
        slab->ahead_from = slab->fresh;
        return false;
    }
    bytes = ebs_region_round(from + bytes) - from;
    if (bytes < to - from)
        to = from + bytes;
    if (grow_bits(slab, rows_in(slab, to)) != 0 || ebs_region_grow(&slab->rows, to) != 0) {
        slab->ahead_from = slab->fresh;
        return false;
    }
    slab->capacity = rows_in(slab, slab->rows.size);
    ebs_region_touch(&slab->rows, from, to);
    slab->touched = to;
    return true;
}
