/* embedding_server/slab.h -- memory of a table's rows: fixed-size rows, numbered, never moved by growth.
 *
 *   row: id (8 bytes) | weights, float32[dim] | optimizer state, float32[state]     4-byte aligned
 *
 * Rows live in blocks of 8 to 16 MiB (huge pages), so that a random row costs one TLB entry and growth
 * copies nothing; a row's number says where it is. Only the first block starts small and is doubled up to 1 MiB,
 * for the many tables that stay small. Freed rows are used again first. Touch: owner thread only. */
#ifndef EBS_SLAB_H
#define EBS_SLAB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define EBS_ROW_NONE UINT32_MAX /* also the limit: a table of one owner has fewer rows than this */

struct ebs_block {
    uint8_t *row;   /* [capacity][row_bytes], 64-byte aligned */
    uint64_t *live; /* bit per row */
};

struct ebs_slab {
    size_t row_bytes;
    unsigned shift;     /* a full block has 1 << shift rows */
    uint32_t capacity;  /* rows that all blocks hold */
    uint32_t fresh;     /* rows from here on were never used */
    uint32_t free_head; /* first freed row; its id field holds the next one */
    uint64_t count;     /* live rows */
    size_t n_blocks, blocks_capacity;
    struct ebs_block *block;
};

void ebs_slab_init(struct ebs_slab *slab, size_t row_bytes);
void ebs_slab_release(struct ebs_slab *slab);

/* A row for `id`, live, the rest of it undefined. RT_ENOMEM, RT_ELIMIT; then nothing has changed. */
int ebs_slab_alloc(struct ebs_slab *slab, uint64_t id, uint32_t *row);
void ebs_slab_free(struct ebs_slab *slab, uint32_t row);

/* Bytes in use: rows that were ever used, live bits, list of blocks. What a block has beyond was never
 * touched and is not resident but for the rest of its last page. */
size_t ebs_slab_bytes(const struct ebs_slab *slab);

/* The first live row at or after `row`; EBS_ROW_NONE when there is none. */
uint32_t ebs_slab_next_live(const struct ebs_slab *slab, uint32_t row);

static inline uint8_t *ebs_slab_at(const struct ebs_slab *slab, uint32_t row)
{
    return slab->block[row >> slab->shift].row +
           (size_t)(row & ((1u << slab->shift) - 1)) * slab->row_bytes;
}

static inline uint64_t ebs_row_id(const uint8_t *row)
{
    uint64_t id;

    memcpy(&id, row, sizeof(id)); /* rows are 4-byte aligned */
    return id;
}

static inline float *ebs_row_weights(uint8_t *row)
{
    return (float *)(row + sizeof(uint64_t));
}

#endif
