/* tests/fuzz/fuzz_rowfile.c -- any bytes as a file of rows; what is accepted is what its end says.
 *
 * Checksums would keep a fuzzer at the door. So where the first byte is odd they are made good first: the head's, and those of
 * the blocks that follow it, whose places become the ones that they have. The seeds are files of tests/lib/checkpoint_bed.c with a
 * digit before them. */
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/checkpoint/rowfile.h"
#include "runtime/checkpoint/rowfile_impl.h"
#include "tests/fuzz/fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void seal_blocks(uint8_t *data, size_t size, size_t at, uint64_t attempt)
{
    struct rt_rowfile_block_head b;

    while (at <= size && size - at >= sizeof(b)) {
        memcpy(&b, data + at, sizeof(b));
        size_t bytes = rt_align_up(b.bytes, RT_ROWFILE_ALIGN);
        b.at = at;
        b.attempt = attempt;
        if (bytes <= size - at - sizeof(b))
            b.payload_crc = rt_crc32c(0, data + at + sizeof(b), bytes);
        b.head_crc = rt_rowfile_block_crc(&b);
        memcpy(data + at, &b, sizeof(b));
        at += sizeof(b) + bytes;
    }
}

static void seal(uint8_t *data, size_t size)
{
    struct rt_rowfile_prelude p;

    if (size < sizeof(p))
        return;
    memcpy(&p, data, sizeof(p));
    memcpy(p.magic, RT_ROWFILE_MAGIC, sizeof(p.magic));
    p.version = RT_ROWFILE_VERSION;
    memcpy(data, &p, sizeof(p));
    if (p.head_bytes < sizeof(p) || p.head_bytes > size)
        return;
    p.crc = rt_rowfile_head_crc(data, p.head_bytes);
    memcpy(data, &p, sizeof(p));
    seal_blocks(data, size, p.head_bytes, p.attempt);
}

/* Of the rows that were read: what the reader counts, counted again. */
static void count(const struct rt_rowfile *file, const struct rt_rowfile_block *b,
                  struct rt_rowfile_table *sum)
{
    const struct rt_rowfile_schema *schema = rt_rowfile_schema(file, b->table);
    uint64_t seed = rt_hash_bytes(schema->name, strlen(schema->name));
    size_t one = schema->layout.row_bytes;

    rt_assert(strlen(schema->optimizer) < RT_STATE_TEXT && schema->dim <= WIRE_DIM_MAX);
    if (b->kind == RT_ROWFILE_REMOVED)
        sum[b->table].removed += b->count;
    if (b->kind != RT_ROWFILE_ROWS)
        return;
    rt_assert(b->bytes == b->count * one);
    sum[b->table].rows += b->count;
    for (size_t i = 0; i < b->count; i++)
        sum[b->table].digest += rt_rowfile_row_digest(&schema->layout, seed, b->payload + i * one);
}

static char path[256]; /* a reader wants a file */

static int read_all(size_t size)
{
    struct rt_rowfile_block block;
    struct rt_rowfile_table *sum;
    struct rt_rowfile *file;
    int rc = rt_rowfile_open(path, NULL, &file);

    if (rc)
        return rc;
    uint32_t n = rt_rowfile_head(file)->n_tables;
    sum = rt_xcalloc(n, sizeof(*sum));
    while ((rc = rt_rowfile_next(file, &block)) > 0) {
        rt_assert(block.table < n && block.at + block.bytes < size);
        count(file, &block, sum);
    }
    if (!rc)
        rt_assert(memcmp(sum, rt_rowfile_tables(file), n * sizeof(*sum)) == 0 &&
                  rt_rowfile_bytes(file) == size);
    rt_free(sum);
    rt_rowfile_close(file);
    return rc;
}

static void remove_file(void)
{
    unlink(path);
}

static int make_file(void)
{
    const char *root = getenv("TMPDIR");
    int fd;

    snprintf(path, sizeof(path), "%s/saffron-fuzz-XXXXXX", root ? root : "/tmp");
    fd = mkstemp(path);
    rt_assert(fd >= 0 && atexit(remove_file) == 0);
    return fd;
}

int fuzz_rowfile(const uint8_t *data, size_t size)
{
    static int fd = -1;

    if (size < 1)
        return 0;
    if (fd < 0)
        fd = make_file();
    uint8_t *copy = rt_xmalloc(size);
    memcpy(copy, data + 1, size - 1);
    if (data[0] & 1)
        seal(copy, size - 1);
    bool written =
        pwrite(fd, copy, size - 1, 0) == (ssize_t)size - 1 && ftruncate(fd, (off_t)size - 1) == 0;
    rt_free(copy);
    rt_assert(written);
    int err = read_all(size - 1);
    rt_assert(err == 0 || err == RT_EDATA || err == RT_EUSAGE);
    return 0;
}
