/* runtime/checkpoint/rowfile.h -- an owner's rows at a cut, in a file of blocks with checksums.
 *
 *   head | block | block ... | end block                all numbers little-endian
 *
 * A block is {kind, table, count, bytes, place in the file, CRC32C of all that and of the payload | payload}:
 *   ROWS     count rows of one table, each of its row_bytes as runtime/job/layout.h lays it out: state and policies' marks too
 *   REMOVED  count ids of one table that the base has and the cut has not; before that table's ROWS
 *   POLICY   what a table's clock, admission and eviction know beside the rows; the embedding server's own
 *   SKETCH   count lines of one table's sketch of admission, each {number, 8 | line, 64}; lines not there have counted nothing
 *   END      the last one: of each table how many rows and removed ids the file has, and the sum of its rows' digests
 * A reader believes nothing before its checksum is right, and no file that has no END. embedding_server/README.md says it byte by
 * byte.
 *
 * A row's digest: XXH3-64 of {id | weights, padding, state}, seeded by the XXH3-64 of its table's name. `touched` and `frequency`
 * are left out: they count on the clock of one owner. Sums of digests (mod 2^64) of the same rows are the same however they are
 * spread over owners and files. Touch: one thread at a time. */
#ifndef RT_ROWFILE_H
#define RT_ROWFILE_H

#include "runtime/base/partial.h"
#include "runtime/job/layout.h"

#define RT_ROWFILE_VERSION                                                                         \
    2u                      /* 1, which is read too, has no SKETCH: its POLICY ends in all of it */
#define RT_ROWFILE_LINE 72u /* bytes of a line of a SKETCH */
#define RT_ROWFILE_BLOCK_MAX                                                                       \
    ((size_t)1 << 20) /* bytes of a payload of rows or ids: at least a row */
#define RT_ROWFILE_POLICY_MAX                                                                      \
    ((size_t)64 << 20) /* bytes of a payload of policies; who has more puts several */
#define RT_ROWFILE_HEAD_MAX ((size_t)16 << 20)
#define RT_ROWFILE_NAME     "rows.%05u" /* of owner number .. in its checkpoint's folder */

enum rt_rowfile_kind {
    RT_ROWFILE_ROWS = 1,
    RT_ROWFILE_REMOVED = 2,
    RT_ROWFILE_POLICY = 3,
    RT_ROWFILE_END = 4,
    RT_ROWFILE_SKETCH = 5
};

/* Which cut, and which part of it. Tables are told by name, dim, dtype, layout and optimizer (rt_state_text): a reader refuses what
 * is not as its job has it. */
struct rt_rowfile_head {
    uint64_t attempt, base; /* base 0: full */
    uint64_t step;
    uint64_t job;                    /* rt_rowfile_job() */
    uint32_t owner, owners;          /* of the shard map then */
    uint32_t shard_first, shard_end; /* [first, end) of RT_SHARDS */
    uint32_t n_tables;
};

struct rt_rowfile_table {
    uint64_t rows, removed, digest; /* in this file */
};

/* Of a job, by its name and tables: files of another are refused. */
uint64_t rt_rowfile_job(const struct rt_job *job);
/* Bytes of a row in the file; its digest. @seed: rt_hash_bytes() of the table's name. */
uint64_t rt_rowfile_row_digest(const struct rt_row_layout *layout, uint64_t seed,
                               const uint8_t *row);

/* ---- writing ---- */

/* Zero-initialise. PATH.partial until it is whole. */
struct rt_rowfile_out {
    struct rt_partial file;
    const struct rt_job *job;
    struct rt_rowfile_table *table; /* [n_tables] so far */
    uint64_t *seed;                 /* [n_tables] of rows' digests */
    struct rt_row_layout *layout;   /* [n_tables] */
    struct rt_hash *hash;           /* of all bytes so far */
    uint64_t attempt;
    bool is_full; /* no base: then nothing is removed */
};

/* RT_EFILE, RT_ENOMEM, as all of these; after an error only rt_rowfile_drop(). @job: stays. */
int rt_rowfile_begin(struct rt_rowfile_out *out, const char *path, const struct rt_job *job,
                     const struct rt_rowfile_head *head);
/* One block; a payload over RT_ROWFILE_BLOCK_MAX becomes several (all but POLICY). @count: rows, ids, lines, or 1. */
int rt_rowfile_put(struct rt_rowfile_out *out, enum rt_rowfile_kind kind, uint32_t table,
                   const void *payload, size_t count, size_t bytes);
/* The END, then on disk and by its name. @table: [n_tables] what the file has. @digest: XXH3-64 of all its bytes. */
int rt_rowfile_finish(struct rt_rowfile_out *out, struct rt_rowfile_table *table, uint64_t *bytes,
                      uint64_t *digest);
void rt_rowfile_drop(struct rt_rowfile_out *out); /* whatever came of it */

/* ---- reading ---- */

struct rt_rowfile;

struct rt_rowfile_block {
    enum rt_rowfile_kind kind; /* never END */
    uint32_t table;
    size_t count, bytes;
    const uint8_t *payload; /* 8-byte aligned, good until the next call */
    uint64_t at;            /* where the block begins */
};

/* Reads and checks the head. @job: the tables that it must have; NULL: any, as a tool reads it (rt_rowfile_schema()).
 * RT_EFILE; RT_EDATA for what is damaged: path, offset, what; RT_EUSAGE for what is of another job, or of a version that is not
 * ours; RT_ENOMEM. */
int rt_rowfile_open(const char *path, const struct rt_job *job, struct rt_rowfile **out);
void rt_rowfile_close(struct rt_rowfile *file); /* NULL is legal */
const struct rt_rowfile_head *rt_rowfile_head(const struct rt_rowfile *file);

/* A table as the head tells of it; table < n_tables. */
struct rt_rowfile_schema {
    const char *name, *optimizer;
    uint32_t dim, dtype;
    struct rt_row_layout layout;
};
const struct rt_rowfile_schema *rt_rowfile_schema(const struct rt_rowfile *file, uint32_t table);

/* The next block. 1: it is there and its checksum is right; rows and digests are counted. 0: END was read, and all is as it says;
 * nothing follows it. RT_EDATA names path, offset and reason; RT_EFILE, RT_ENOMEM. */
int rt_rowfile_next(struct rt_rowfile *file, struct rt_rowfile_block *out);
/* After 0: of table[n_tables]; bytes and digest of the file, for comparison with its manifest. */
const struct rt_rowfile_table *rt_rowfile_tables(const struct rt_rowfile *file);
uint64_t rt_rowfile_bytes(const struct rt_rowfile *file);
uint64_t rt_rowfile_digest(const struct rt_rowfile *file);

#endif
