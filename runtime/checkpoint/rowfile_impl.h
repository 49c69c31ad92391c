/* runtime/checkpoint/rowfile_impl.h -- a row file byte by byte, for who writes and who reads it; nobody else includes it.
 *
 * All numbers are little-endian, every structure and every payload begins at a multiple of 8 bytes of the file. embedding_server/README.md
 * shows the same as a picture. */
#ifndef RT_ROWFILE_IMPL_H
#define RT_ROWFILE_IMPL_H

#include "runtime/base/mem.h"
#include "runtime/checkpoint/rowfile.h"

#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "structures are written as they are");

#define RT_ROWFILE_MAGIC "SAFFROWS" /* without its NUL */
#define RT_ROWFILE_ALIGN 8u

/* The file begins with it; `n_tables` entries and their names follow. */
struct rt_rowfile_prelude {
    char magic[8];
    uint32_t version, head_bytes; /* head_bytes: this, the entries and the names */
    uint64_t attempt, base, step, job;
    uint32_t owner, owners, shard_first, shard_end, n_tables;
    uint32_t crc; /* CRC32C of the head's other bytes */
};

enum { RT_ROWFILE_HAS_TOUCHED = 1, RT_ROWFILE_HAS_FREQUENCY = 2 };

/* Of a table; then its name and its optimizer's text, each with a NUL, and zeros up to a multiple of 8. */
struct rt_rowfile_entry {
    uint32_t name_bytes, optimizer_bytes; /* with the NUL */
    uint32_t dim, dtype;
    uint32_t marks; /* RT_ROWFILE_HAS_.. */
    uint32_t state_count, row_bytes;
    uint32_t zero;
};

/* Then `bytes` of payload, and zeros up to a multiple of 8. */
struct rt_rowfile_block_head {
    uint32_t kind, table; /* table: 0 in the END */
    uint64_t attempt;     /* the file's: a block of another cut is seen */
    uint64_t at;          /* of this structure in the file: a block that was moved is seen */
    uint32_t count, bytes;
    uint32_t payload_crc; /* CRC32C of the payload and its zeros */
    uint32_t head_crc;    /* CRC32C of the 36 bytes before */
};

_Static_assert(sizeof(struct rt_rowfile_prelude) == 72, "as embedding_server/README.md says");
_Static_assert(sizeof(struct rt_rowfile_entry) == 32, "as embedding_server/README.md says");
_Static_assert(sizeof(struct rt_rowfile_block_head) == 40, "as embedding_server/README.md says");
_Static_assert(sizeof(struct rt_rowfile_table) == 24, "the payload of the END");

static inline uint32_t rt_rowfile_head_crc(const uint8_t *head, size_t bytes)
{
    size_t at = offsetof(struct rt_rowfile_prelude, crc), after = at + sizeof(uint32_t);

    return rt_crc32c(rt_crc32c(0, head, at), head + after, bytes - after);
}

static inline uint32_t rt_rowfile_block_crc(const struct rt_rowfile_block_head *head)
{
    return rt_crc32c(0, head, offsetof(struct rt_rowfile_block_head, head_crc));
}

static inline size_t rt_rowfile_entry_bytes(const struct rt_rowfile_entry *entry)
{
    return rt_align_up(sizeof(*entry) + entry->name_bytes + entry->optimizer_bytes,
                       RT_ROWFILE_ALIGN);
}

/* What a table of a job is in a file's head. */
void rt_rowfile_entry_of(const struct rt_table_conf *table, char optimizer[RT_STATE_TEXT],
                         struct rt_rowfile_entry *out);

#endif
