/* embedding_server/slab.c -- blocks of rows, the free list, the live bits.
 *
 * DESIGN: memory is asked for in blocks and touched row by row, so what the machine holds follows the
 * live rows by pages. The live bits (one eighth of a byte per row) let whoever walks all rows (export,
 * checkpoint) read memory in order instead of hopping along the index. */
#include "embedding_server/slab.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"

#define BLOCK_BYTES ((size_t)16 << 20)
#define FIRST_BLOCK_BYTES                                                                          \
    ((size_t)1 << 20) /* the first block doubles up to here, then is a full one */
#define FIRST_BLOCK_ROWS 64u
#define BITS             64u

void ebs_slab_init(struct ebs_slab *slab, size_t row_bytes)
{
    rt_assert(row_bytes >= sizeof(uint64_t) && row_bytes % sizeof(float) == 0);
    *slab = (struct ebs_slab){.row_bytes = row_bytes, .shift = 6, .free_head = EBS_ROW_NONE};
    while (row_bytes << (slab->shift + 1) <= BLOCK_BYTES)
        slab->shift++;
}

void ebs_slab_release(struct ebs_slab *slab)
{
    for (size_t b = 0; b < slab->n_blocks; b++) {
        rt_free(slab->block[b].row);
        rt_free(slab->block[b].live);
    }
    rt_free(slab->block);
    ebs_slab_init(slab, slab->row_bytes);
}

static int no_memory(const struct ebs_slab *slab, size_t bytes)
{
    return RT_FAIL(RT_ENOMEM, "rows: out of memory at %zu bytes more, holding %u rows of %zu bytes",
                   bytes, slab->capacity, slab->row_bytes);
}

/* The first block of a table, made larger: the only rows that ever move. */
static int grow_first(struct ebs_slab *slab)
{
    uint32_t full = 1u << slab->shift;
    uint32_t rows = slab->capacity ? slab->capacity * 2 : FIRST_BLOCK_ROWS;
    struct ebs_block *block = slab->block;
    uint8_t *row;

    if (rows > full || rows * slab->row_bytes > FIRST_BLOCK_BYTES)
        rows = full;
    row = rt_try_aligned(rows * slab->row_bytes);
    if (!row)
        return no_memory(slab, rows * slab->row_bytes);
    if (slab->fresh > 0)
        memcpy(row, block->row, slab->fresh * slab->row_bytes);
    rt_free(block->row);
    block->row = row;
    slab->capacity = rows;
    return 0;
}

/* One more entry in the list of blocks, with live bits and no rows yet. */
static int add_block(struct ebs_slab *slab)
{
    size_t words = (1u << slab->shift) / BITS;
    uint64_t *live;

    if (slab->n_blocks == slab->blocks_capacity) {
        size_t capacity = slab->blocks_capacity ? slab->blocks_capacity * 2 : 1;
        struct ebs_block *block = rt_try_realloc(slab->block, capacity * sizeof(*block));

        if (!block)
            return no_memory(slab, capacity * sizeof(*block));
        slab->block = block;
        slab->blocks_capacity = capacity;
    }
    live = rt_try_calloc(words, sizeof(*live));
    if (!live)
        return no_memory(slab, words * sizeof(*live));
    slab->block[slab->n_blocks++] = (struct ebs_block){.live = live};
    return 0;
}

static int grow(struct ebs_slab *slab)
{
    size_t bytes = slab->row_bytes << slab->shift;
    uint8_t *row;
    int err;

    if (slab->n_blocks == 0) {
        err = add_block(slab);
        if (err)
            return err;
    }
    if (slab->capacity < 1u << slab->shift)
        return grow_first(slab);
    /* One row less than 2^32: its number would be EBS_ROW_NONE. */
    if ((uint64_t)slab->capacity + (1u << slab->shift) > UINT32_MAX)
        return RT_FAIL(RT_ELIMIT, "rows: limit of one owner's table reached at %u rows",
                       slab->capacity);
    row = rt_try_aligned(bytes);
    if (!row)
        return no_memory(slab, bytes);
    err = add_block(slab);
    if (err) {
        rt_free(row);
        return err;
    }
    slab->block[slab->n_blocks - 1].row = row;
    slab->capacity += 1u << slab->shift;
    return 0;
}

static uint64_t *live_word(const struct ebs_slab *slab, uint32_t row, uint64_t *bit)
{
    uint32_t at = row & ((1u << slab->shift) - 1);

    *bit = 1ull << (at % BITS);
    return &slab->block[row >> slab->shift].live[at / BITS];
}

int ebs_slab_alloc(struct ebs_slab *slab, uint64_t id, uint32_t *out)
{
    uint32_t row = slab->free_head;
    uint64_t bit, *word;

    if (row != EBS_ROW_NONE) {
        slab->free_head = (uint32_t)ebs_row_id(ebs_slab_at(slab, row));
    } else {
        if (slab->fresh == slab->capacity) {
            int err = grow(slab);

            if (err)
                return err;
        }
        row = slab->fresh++;
    }
    word = live_word(slab, row, &bit);
    *word |= bit;
    memcpy(ebs_slab_at(slab, row), &id, sizeof(id));
    slab->count++;
    *out = row;
    return 0;
}

void ebs_slab_free(struct ebs_slab *slab, uint32_t row)
{
    uint64_t bit, *word = live_word(slab, row, &bit);
    uint64_t next = slab->free_head;

    rt_assert(row < slab->fresh && (*word & bit));
    *word &= ~bit;
    memcpy(ebs_slab_at(slab, row), &next, sizeof(next));
    slab->free_head = row;
    slab->count--;
}

size_t ebs_slab_bytes(const struct ebs_slab *slab)
{
    return slab->fresh * slab->row_bytes +
           slab->n_blocks * ((size_t)1 << slab->shift) / BITS * sizeof(uint64_t) +
           slab->blocks_capacity * sizeof(*slab->block);
}

uint32_t ebs_slab_next_live(const struct ebs_slab *slab, uint32_t row)
{
    while (row < slab->fresh) {
        uint64_t bit, word = *live_word(slab, row, &bit) & ~(bit - 1);

        if (word)
            return row / BITS * BITS + (uint32_t)__builtin_ctzll(word);
        row = (row / BITS + 1) * BITS;
    }
    return EBS_ROW_NONE;
}
