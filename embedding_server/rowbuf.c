/* embedding_server/rowbuf.c -- see rowbuf.h. */
#include "embedding_server/rowbuf.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"

#include <string.h>

#define BLOCKS    16u
#define BLOCK_MAX ((size_t)1 << 20) /* as RT_ROWFILE_BLOCK_MAX: a run is a block of the file */
#define RUN       EBS_ROWBUF_RUN

int ebs_rowbuf_init(struct ebs_rowbuf *buf, size_t bytes, size_t row_max)
{
    size_t block = bytes / BLOCKS < BLOCK_MAX ? bytes / BLOCKS : BLOCK_MAX;

    *buf = (struct ebs_rowbuf){.block_bytes = (block - sizeof(struct ebs_rowbuf_block)) / 8 * 8,
                               .row_max = row_max};
    rt_assert(block > sizeof(struct ebs_rowbuf_block) &&
              buf->block_bytes >= 4 * (row_max + 2 * RUN));
    buf->full_end = &buf->full;
    for (size_t n = bytes / block; buf->n_blocks < n; buf->n_blocks++) {
        struct ebs_rowbuf_block *one = rt_try_malloc(sizeof(*one) + buf->block_bytes);

        if (!one) {
            ebs_rowbuf_release(buf);
            return RT_FAIL(RT_ENOMEM, "no memory for %zu bytes of rows on their way to a file",
                           bytes);
        }
        ebs_rowbuf_give(buf, one);
    }
    return 0;
}

static void free_list(struct ebs_rowbuf_block *block)
{
    while (block) {
        struct ebs_rowbuf_block *next = block->next;

        rt_free(block);
        block = next;
    }
}

void ebs_rowbuf_release(struct ebs_rowbuf *buf)
{
    free_list(buf->free);
    free_list(buf->full);
    rt_free(buf->open);
    *buf = (struct ebs_rowbuf){0};
}

void ebs_rowbuf_close(struct ebs_rowbuf *buf)
{
    if (!buf->open)
        return;
    *buf->full_end = buf->open;
    buf->full_end = &buf->open->next;
    buf->open = NULL;
}

static bool open_block(struct ebs_rowbuf *buf)
{
    ebs_rowbuf_close(buf);
    if (!buf->free) {
        buf->overflow = true;
        return false;
    }
    buf->open = buf->free;
    buf->free = buf->open->next;
    buf->open->next = NULL;
    buf->n_free--;
    return true;
}

bool ebs_rowbuf_add(struct ebs_rowbuf *buf, uint32_t kind, uint32_t table, const uint8_t *row,
                    size_t bytes)
{
    struct ebs_rowbuf_block *block = buf->open;
    struct ebs_rowbuf_run *run;

    if (!block || block->used + RUN + bytes > buf->block_bytes) {
        if (!open_block(buf))
            return false;
        block = buf->open;
    }
    run = (struct ebs_rowbuf_run *)(void *)(block->at + block->last);
    if (block->used == 0 || run->table != table || run->kind != kind) {
        block->last = block->used;
        run = (struct ebs_rowbuf_run *)(void *)(block->at + block->last);
        *run = (struct ebs_rowbuf_run){.kind = kind, .table = table, .row_bytes = (uint32_t)bytes};
        block->used += RUN;
    }
    memcpy(block->at + block->used, row, bytes);
    block->used += bytes;
    run->rows++;
    return true;
}

/* Of a block with so many bytes taken: the head of a run that goes on in it, and at its end what was too short for a head and the
 * longest row. Other heads are told as bytes. */
static size_t room_behind(const struct ebs_rowbuf *buf, size_t used)
{
    size_t gone = used + 2 * RUN + buf->row_max;

    return gone < buf->block_bytes ? buf->block_bytes - gone : 0;
}

size_t ebs_rowbuf_room(const struct ebs_rowbuf *buf)
{
    return buf->n_free * room_behind(buf, 0) + (buf->open ? room_behind(buf, buf->open->used) : 0);
}

size_t ebs_rowbuf_size(const struct ebs_rowbuf *buf)
{
    return buf->n_blocks * room_behind(buf, 0);
}

struct ebs_rowbuf_block *ebs_rowbuf_take(struct ebs_rowbuf *buf)
{
    struct ebs_rowbuf_block *block = buf->full;

    if (!block)
        return NULL;
    buf->full = block->next;
    if (!buf->full)
        buf->full_end = &buf->full;
    block->next = NULL;
    return block;
}

void ebs_rowbuf_give(struct ebs_rowbuf *buf, struct ebs_rowbuf_block *block)
{
    block->used = block->last = 0;
    block->next = buf->free;
    buf->free = block;
    buf->n_free++;
}
