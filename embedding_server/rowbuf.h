/* embedding_server/rowbuf.h -- rows of a cut on their way to its file: the loop fills blocks, the io's worker writes full ones.
 *
 *   a block:  run | run ...       a run: {kind, table, rows, bytes of one | the rows, one behind the other}
 *
 *   free -ebs_rowbuf_add-> open -full, or ebs_rowbuf_close-> full -ebs_rowbuf_take-> the writer's -ebs_rowbuf_give-> free
 *
 * Rows of several tables come in turns, those that are collected and those that are copied before they change, and there may be thousands
 * of tables: so they share the open block. Lines of a sketch are rows of another kind. Memory: all of it from ebs_rowbuf_init() on; a
 * row without room is not taken, and the buffer has overflowed for good. Touch: the loop's thread; a block that was taken: whoever took it. */
#ifndef EBS_ROWBUF_H
#define EBS_ROWBUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ebs_rowbuf_run {
    uint32_t kind; /* enum rt_rowfile_kind */
    uint32_t table, rows, row_bytes;
};
#define EBS_ROWBUF_RUN sizeof(struct ebs_rowbuf_run)

struct ebs_rowbuf_block {
    struct ebs_rowbuf_block *next;
    size_t used, last; /* bytes; where the last run begins */
    uint8_t at[];
};

/* Zero-initialise. */
struct ebs_rowbuf {
    size_t block_bytes, row_max; /* bytes of a block; of the longest row */
    size_t n_blocks, n_free;
    struct ebs_rowbuf_block *open, *free;
    struct ebs_rowbuf_block *full, **full_end; /* the oldest first */
    bool overflow;                             /* a row had no room */
    uint64_t kept;                             /* rows copied before they changed */
};

/* @bytes: of all blocks, which are 16 or more, and what goes with them; one must hold some of the longest rows. RT_ENOMEM. */
int ebs_rowbuf_init(struct ebs_rowbuf *buf, size_t bytes, size_t row_max);
void ebs_rowbuf_release(struct ebs_rowbuf *buf);

/* false: there is no room. @row: [bytes], a multiple of 4, the same for all of a kind and table. */
bool ebs_rowbuf_add(struct ebs_rowbuf *buf, uint32_t kind, uint32_t table, const uint8_t *row,
                    size_t bytes);
/* Bytes that certainly have room: of rows, and EBS_ROWBUF_RUN for each time that a row is of another kind or table than the one before
 * it, the first included. */
size_t ebs_rowbuf_room(const struct ebs_rowbuf *buf);
size_t ebs_rowbuf_size(const struct ebs_rowbuf *buf); /* the same, with no row in it */

/* What is open counts as full, if it has a row. */
void ebs_rowbuf_close(struct ebs_rowbuf *buf);
/* The oldest full one, until it is given back; NULL: there is none. */
struct ebs_rowbuf_block *ebs_rowbuf_take(struct ebs_rowbuf *buf);
void ebs_rowbuf_give(struct ebs_rowbuf *buf, struct ebs_rowbuf_block *block);

#endif
