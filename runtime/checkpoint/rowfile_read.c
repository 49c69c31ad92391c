/* runtime/checkpoint/rowfile_read.c -- reading a row file, as something that anybody may have changed.
 *
 * DESIGN: pread() into one buffer, never mmap(): a page that the disk cannot give is an error here, not a signal. A payload comes in
 * pieces that stay in the second-level cache while both checksums go over them, then its rows' digests go over it. A length is
 * believed when the checksum over it is right and it lies in the file; only then is memory taken for it. */
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/checkpoint/rowfile.h"
#include "runtime/checkpoint/rowfile_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#define PIECE ((size_t)128 << 10) /* bytes */

struct rt_rowfile {
    char *path;
    int fd;
    uint64_t size, at; /* of the file; where the next block begins */
    struct rt_rowfile_head head;
    uint8_t *names; /* the head's bytes: names and texts lie there */
    struct rt_rowfile_schema *schema;
    uint64_t *seed; /* of rows' digests */
    struct rt_rowfile_table *table;
    uint8_t *payload;
    size_t capacity;
    struct rt_hash *hash;
    bool ended;
};

static int damaged(const struct rt_rowfile *file, uint64_t at, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static int damaged(const struct rt_rowfile *file, uint64_t at, const char *fmt, ...)
{
    char what[512];
    va_list args;

    va_start(args, fmt);
    vsnprintf(what, sizeof(what), fmt, args);
    va_end(args);
    return RT_FAIL(RT_EDATA, "%s: damaged row file: at byte %" PRIu64 ": %s", file->path, at, what);
}

static int no_memory(const struct rt_rowfile *file, size_t bytes)
{
    return RT_FAIL(RT_ENOMEM, "%s: out of memory for %zu bytes", file->path, bytes);
}

static int read_at(const struct rt_rowfile *file, uint64_t at, void *out, size_t bytes)
{
    uint8_t *to = out;

    while (bytes > 0) {
        ssize_t n = rt_fault_now() ? (errno = EIO, -1) : pread(file->fd, to, bytes, (off_t)at);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return RT_FAIL(RT_EFILE, "%s: cannot be read: %s", file->path,
                           n < 0 ? strerror(errno) : "it has become shorter");
        to += n;
        at += (uint64_t)n;
        bytes -= (size_t)n;
    }
    return 0;
}

/* ---- the head ---- */

static int check_numbers(const struct rt_rowfile *file)
{
    const struct rt_rowfile_head *h = &file->head;

    if (h->attempt <= h->base)
        return damaged(file, 0, "attempt %" PRIu64 " goes on from %" PRIu64, h->attempt, h->base);
    if (h->owners > RT_OWNERS_MAX || h->owner >= h->owners)
        return damaged(file, 0, "owner %u of %u", h->owner, h->owners);
    if (h->shard_first >= h->shard_end || h->shard_end > RT_SHARDS)
        return damaged(file, 0, "shards %u to %u of %u", h->shard_first, h->shard_end, RT_SHARDS);
    if (h->n_tables == 0 || h->n_tables > WIRE_TABLES_MAX)
        return damaged(file, 0, "%u tables, expected 1..%u", h->n_tables, WIRE_TABLES_MAX);
    return 0;
}

/* Its checksum is right: file->names has the head, of `bytes`. */
static int take_numbers(struct rt_rowfile *file, size_t bytes)
{
    struct rt_rowfile_prelude p;

    memcpy(&p, file->names, sizeof(p));
    if (p.crc != rt_rowfile_head_crc(file->names, bytes))
        return damaged(file, 0, "the head's checksum is wrong");
    file->head = (struct rt_rowfile_head){
        .attempt = p.attempt,
        .base = p.base,
        .step = p.step,
        .job = p.job,
        .owner = p.owner,
        .owners = p.owners,
        .shard_first = p.shard_first,
        .shard_end = p.shard_end,
        .n_tables = p.n_tables,
    };
    rt_hash_add(file->hash, file->names, bytes);
    return check_numbers(file);
}

/* A text of `bytes`, its only NUL the last one. */
static bool is_text(const uint8_t *text, size_t bytes)
{
    return memchr(text, '\0', bytes) == text + bytes - 1;
}

/* The entry at `at` of the head's `bytes`. @next: where the one behind it begins. */
static int take_entry(struct rt_rowfile *file, uint32_t table, size_t at, size_t bytes,
                      size_t *next)
{
    struct rt_rowfile_schema *out = &file->schema[table];
    const uint8_t *name = file->names + at + sizeof(struct rt_rowfile_entry);
    struct rt_rowfile_entry e;

    if (sizeof(e) > bytes - at)
        return damaged(file, at, "the head ends before table %u", table);
    memcpy(&e, file->names + at, sizeof(e));
    if (e.name_bytes == 0 || e.optimizer_bytes == 0 || e.name_bytes > RT_ROWFILE_HEAD_MAX ||
        e.optimizer_bytes > RT_STATE_TEXT || rt_rowfile_entry_bytes(&e) > bytes - at ||
        !is_text(name, e.name_bytes) || !is_text(name + e.name_bytes, e.optimizer_bytes))
        return damaged(file, at, "table %u has no name or no optimizer", table);
    *next = at + rt_rowfile_entry_bytes(&e);
    out->name = (const char *)name;
    out->optimizer = (const char *)name + e.name_bytes;
    out->dim = e.dim;
    out->dtype = e.dtype;
    if (e.dim == 0 || e.dim > WIRE_DIM_MAX || wire_dtype_size(e.dtype) == 0 ||
        e.state_count > RT_STATE_SLOTS * e.dim ||
        e.marks > (RT_ROWFILE_HAS_TOUCHED | RT_ROWFILE_HAS_FREQUENCY) ||
        e.marks == RT_ROWFILE_HAS_FREQUENCY)
        return damaged(file, at, "rows of table %u: dim %u, dtype %u, %u floats of state, marks %u",
                       table, e.dim, e.dtype, e.state_count, e.marks);
    out->layout = rt_row_place(e.dim, e.dtype, e.state_count, e.marks & RT_ROWFILE_HAS_TOUCHED,
                               e.marks & RT_ROWFILE_HAS_FREQUENCY);
    if (out->layout.row_bytes != e.row_bytes)
        return damaged(file, at, "rows of table %u have %u bytes, expected %u", table, e.row_bytes,
                       out->layout.row_bytes);
    file->seed[table] = rt_hash_bytes(out->name, e.name_bytes - 1);
    return 0;
}

static int take_tables(struct rt_rowfile *file, size_t bytes)
{
    size_t at = sizeof(struct rt_rowfile_prelude);
    uint32_t n = file->head.n_tables;
    int err = 0;

    file->schema = rt_try_calloc(n, sizeof(*file->schema));
    file->seed = rt_try_calloc(n, sizeof(*file->seed));
    file->table = rt_try_calloc(n, sizeof(*file->table));
    if (!file->schema || !file->seed || !file->table)
        return no_memory(file, n * sizeof(*file->schema));
    for (uint32_t t = 0; t < n && !err; t++)
        err = take_entry(file, t, at, bytes, &at);
    if (!err && at != bytes)
        err = damaged(file, at, "the head has %zu bytes behind its tables", bytes - at);
    return err;
}

static int read_head(struct rt_rowfile *file)
{
    struct rt_rowfile_prelude p;
    int err;

    if (file->size < sizeof(p))
        return damaged(file, 0, "%" PRIu64 " bytes are no head", file->size);
    err = read_at(file, 0, &p, sizeof(p));
    if (err)
        return err;
    if (memcmp(p.magic, RT_ROWFILE_MAGIC, sizeof(p.magic)) != 0)
        return damaged(file, 0, "it does not begin with %s", RT_ROWFILE_MAGIC);
    if (p.version < 1 || p.version > RT_ROWFILE_VERSION)
        return RT_FAIL(RT_EUSAGE, "%s: row file of version %u, this program reads versions 1 to %u",
                       file->path, p.version, RT_ROWFILE_VERSION);
    if (p.head_bytes < sizeof(p) || p.head_bytes > RT_ROWFILE_HEAD_MAX ||
        p.head_bytes > file->size || p.head_bytes % RT_ROWFILE_ALIGN != 0)
        return damaged(file, 0, "a head of %u bytes, the file has %" PRIu64, p.head_bytes,
                       file->size);
    file->names = rt_try_malloc(p.head_bytes);
    file->hash = rt_hash_create();
    if (!file->names || !file->hash)
        return no_memory(file, p.head_bytes);
    err = read_at(file, 0, file->names, p.head_bytes);
    if (!err)
        err = take_numbers(file, p.head_bytes);
    if (!err)
        err = take_tables(file, p.head_bytes);
    file->at = p.head_bytes;
    return err;
}

static int check_table(const struct rt_rowfile *file, const struct rt_table_conf *table,
                       const struct rt_rowfile_schema *is)
{
    char optimizer[RT_STATE_TEXT];
    struct rt_row_layout want = rt_row_layout(table);

    rt_state_text(&table->optimizer, optimizer);
    if (strcmp(is->name, table->name) == 0 && strcmp(is->optimizer, optimizer) == 0 &&
        is->dim == table->dim && is->dtype == table->dtype && is->layout.touched == want.touched &&
        is->layout.frequency == want.frequency && is->layout.row_bytes == want.row_bytes)
        return 0;
    return RT_FAIL(RT_EUSAGE,
                   "%s: rows of table '%.100s' (dim %u, %s, %s, %u bytes), expected '%.100s' (dim "
                   "%u, %s, %s, %u bytes) as embedding.yml has it",
                   file->path, is->name, is->dim, rt_dtype_name(is->dtype), is->optimizer,
                   is->layout.row_bytes, table->name, table->dim, rt_dtype_name(table->dtype),
                   optimizer, want.row_bytes);
}

static int check_job(const struct rt_rowfile *file, const struct rt_job *job)
{
    int err = 0;

    if (file->head.n_tables != job->n_tables)
        return RT_FAIL(RT_EUSAGE, "%s: rows of %u tables, embedding.yml has %u", file->path,
                       file->head.n_tables, job->n_tables);
    for (uint32_t t = 0; t < job->n_tables && !err; t++)
        err = check_table(file, &job->table[t], &file->schema[t]);
    if (!err && file->head.job != rt_rowfile_job(job))
        err = RT_FAIL(RT_EUSAGE, "%s: rows of a job of another name than '%s'", file->path,
                      job->name);
    return err;
}

/* A link is not followed, and a pipe not waited for. */
static int open_file(struct rt_rowfile *file)
{
    struct stat st;

    file->fd = open(file->path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (file->fd < 0 || fstat(file->fd, &st) != 0)
        return RT_FAIL(RT_EFILE, "%s: cannot be opened: %s", file->path, strerror(errno));
    if (!S_ISREG(st.st_mode))
        return RT_FAIL(RT_EFILE, "%s: cannot be opened: not a file", file->path);
    file->size = (uint64_t)st.st_size;
    (void)posix_fadvise(file->fd, 0, 0,
                        POSIX_FADV_SEQUENTIAL); /* advice: it reads as well without */
    return 0;
}

int rt_rowfile_open(const char *path, const struct rt_job *job, struct rt_rowfile **out)
{
    struct rt_rowfile *file = rt_xcalloc(1, sizeof(*file));
    int err;

    file->path = rt_xstrdup(path);
    err = open_file(file);
    if (!err)
        err = read_head(file);
    if (!err && job)
        err = check_job(file, job);
    if (err)
        rt_rowfile_close(file);
    else
        *out = file;
    return err;
}

void rt_rowfile_close(struct rt_rowfile *file)
{
    if (!file)
        return;
    if (file->fd >= 0)
        close(file->fd);
    rt_hash_destroy(file->hash);
    rt_free(file->payload);
    rt_free(file->table);
    rt_free(file->seed);
    rt_free(file->schema);
    rt_free(file->names);
    rt_free(file->path);
    rt_free(file);
}

const struct rt_rowfile_head *rt_rowfile_head(const struct rt_rowfile *file)
{
    return &file->head;
}

const struct rt_rowfile_schema *rt_rowfile_schema(const struct rt_rowfile *file, uint32_t table)
{
    rt_assert(table < file->head.n_tables);
    return &file->schema[table];
}

/* ---- blocks ---- */

/* Is a payload of its kind what count and bytes say? */
static bool is_sized(const struct rt_rowfile *file, const struct rt_rowfile_block_head *b)
{
    uint64_t one = sizeof(uint64_t);

    switch (b->kind) {
    case RT_ROWFILE_ROWS:
        one = b->table < file->head.n_tables ? file->schema[b->table].layout.row_bytes : 0;
        break;
    case RT_ROWFILE_REMOVED:
        break;
    case RT_ROWFILE_SKETCH:
        one = RT_ROWFILE_LINE;
        break;
    case RT_ROWFILE_POLICY:
        return b->table < file->head.n_tables && b->count == 1 && b->bytes <= RT_ROWFILE_POLICY_MAX;
    case RT_ROWFILE_END:
        return b->table == 0 && b->count == file->head.n_tables &&
               b->bytes == b->count * sizeof(struct rt_rowfile_table);
    default:
        return false;
    }
    return b->table < file->head.n_tables && b->count > 0 && b->bytes <= RT_ROWFILE_BLOCK_MAX &&
           b->bytes == b->count * one;
}

static int check_block(const struct rt_rowfile *file, const struct rt_rowfile_block_head *b)
{
    uint64_t left = file->size - file->at - sizeof(*b);

    if (b->head_crc != rt_rowfile_block_crc(b))
        return damaged(file, file->at, "the checksum of a block's head is wrong");
    if (b->at != file->at)
        return damaged(file, file->at, "a block that belongs to byte %" PRIu64, b->at);
    if (b->attempt != file->head.attempt)
        return damaged(file, file->at, "a block of attempt %" PRIu64 ", the file's is %" PRIu64,
                       b->attempt, file->head.attempt);
    if (!is_sized(file, b))
        return damaged(file, file->at, "a block of kind %u, table %u with %u entries in %u bytes",
                       b->kind, b->table, b->count, b->bytes);
    if (rt_align_up(b->bytes, RT_ROWFILE_ALIGN) > left)
        return damaged(file, file->at, "a block of %u bytes, %" PRIu64 " are left in the file",
                       b->bytes, left);
    if (b->kind == RT_ROWFILE_REMOVED && (file->head.base == 0 || file->table[b->table].rows > 0))
        return damaged(file, file->at, "removed ids %s",
                       file->head.base == 0 ? "in a full checkpoint"
                                            : "behind rows of their table");
    return 0;
}

static int make_room(struct rt_rowfile *file, size_t bytes)
{
    size_t capacity = bytes > RT_ROWFILE_BLOCK_MAX ? bytes : RT_ROWFILE_BLOCK_MAX;
    uint8_t *wider;

    if (bytes <= file->capacity)
        return 0;
    wider = rt_try_aligned(capacity);
    if (!wider)
        return no_memory(file, capacity);
    rt_free(file->payload);
    file->payload = wider;
    file->capacity = capacity;
    return 0;
}

/* With the zeros behind it. */
static int read_payload(struct rt_rowfile *file, const struct rt_rowfile_block_head *b)
{
    size_t bytes = rt_align_up(b->bytes, RT_ROWFILE_ALIGN);
    uint32_t crc = 0;
    int err = make_room(file, bytes);

    for (size_t at = 0, n; at < bytes && !err; at += n) {
        n = bytes - at < PIECE ? bytes - at : PIECE;
        err = read_at(file, file->at + sizeof(*b) + at, file->payload + at, n);
        if (!err) {
            crc = rt_crc32c(crc, file->payload + at, n);
            rt_hash_add(file->hash, file->payload + at, n);
        }
    }
    if (!err && crc != b->payload_crc)
        err = damaged(file, file->at, "the checksum of a block's %u bytes is wrong", b->bytes);
    for (size_t at = b->bytes; at < bytes && !err; at++)
        if (file->payload[at] != 0)
            err = damaged(file, file->at, "a block that does not end in zeros");
    return err;
}

static int check_ids(const struct rt_rowfile *file, size_t stride, size_t count)
{
    uint32_t width = file->head.shard_end - file->head.shard_first;
    uint64_t id;
    bool outside = false;

    for (size_t i = 0; i < count; i++) {
        memcpy(&id, file->payload + i * stride, sizeof(id));
        outside |= rt_shard_of(id) - file->head.shard_first >= width;
    }
    return outside ? damaged(file, file->at, "an id that is not of shards %u to %u",
                             file->head.shard_first, file->head.shard_end)
                   : 0;
}

/* As rt_rowfile_row_digest(), of a row that is ours to write: what is hashed is made one by putting the id before the weights for as
 * long as it takes. */
static uint64_t digest_in_place(const struct rt_row_layout *layout, uint64_t seed, uint8_t *row)
{
    uint8_t *from = row + layout->weight - sizeof(uint64_t);
    uint64_t id, hidden, digest;

    memcpy(&id, row, sizeof(id));
    memcpy(&hidden, from, sizeof(hidden));
    memcpy(from, &id, sizeof(id));
    digest = rt_hash_bytes_seed(from, sizeof(id) + layout->row_bytes - layout->weight, seed);
    memcpy(from, &hidden, sizeof(hidden));
    return digest;
}

static int count_block(struct rt_rowfile *file, const struct rt_rowfile_block_head *b)
{
    const struct rt_row_layout *layout = &file->schema[b->table].layout;
    struct rt_rowfile_table *table = &file->table[b->table];

    if (b->kind == RT_ROWFILE_REMOVED) {
        table->removed += b->count;
        return check_ids(file, sizeof(uint64_t), b->count);
    }
    if (b->kind != RT_ROWFILE_ROWS)
        return 0;
    table->rows += b->count;
    for (size_t i = 0; i < b->count; i++)
        table->digest +=
            digest_in_place(layout, file->seed[b->table], file->payload + i * layout->row_bytes);
    return check_ids(file, layout->row_bytes, b->count);
}

static int check_end(const struct rt_rowfile *file)
{
    struct rt_rowfile_table says;

    for (uint32_t t = 0; t < file->head.n_tables; t++) {
        const struct rt_rowfile_table *is = &file->table[t];

        memcpy(&says, file->payload + t * sizeof(says), sizeof(says));
        if (says.rows != is->rows || says.removed != is->removed || says.digest != is->digest)
            return damaged(file, file->at,
                           "table '%.100s' has %" PRIu64 " rows and %" PRIu64
                           " removed ids with digest %016" PRIx64 ", its end says %" PRIu64
                           ", %" PRIu64 " and %016" PRIx64,
                           file->schema[t].name, is->rows, is->removed, is->digest, says.rows,
                           says.removed, says.digest);
    }
    return 0;
}

/* Head and payload of the block at file->at, checked; file->at is behind it then. */
static int read_block(struct rt_rowfile *file, struct rt_rowfile_block_head *b)
{
    int err;

    if (file->size - file->at < sizeof(*b))
        return damaged(file, file->at, "it ends without an end block");
    err = read_at(file, file->at, b, sizeof(*b));
    if (!err)
        err = check_block(file, b);
    if (err)
        return err;
    rt_hash_add(file->hash, b, sizeof(*b));
    err = read_payload(file, b);
    if (!err)
        err = b->kind == RT_ROWFILE_END ? check_end(file) : count_block(file, b);
    if (!err)
        file->at += sizeof(*b) + rt_align_up(b->bytes, RT_ROWFILE_ALIGN);
    return err;
}

int rt_rowfile_next(struct rt_rowfile *file, struct rt_rowfile_block *out)
{
    struct rt_rowfile_block_head b;
    uint64_t at = file->at;
    int err;

    if (file->ended)
        return 0;
    err = read_block(file, &b);
    if (err)
        return err;
    if (b.kind == RT_ROWFILE_END) {
        if (file->at != file->size)
            return damaged(file, file->at, "bytes behind the end block");
        file->ended = true;
        return 0;
    }
    *out = (struct rt_rowfile_block){
        .kind = (enum rt_rowfile_kind)b.kind,
        .table = b.table,
        .count = b.count,
        .bytes = b.bytes,
        .payload = file->payload,
        .at = at,
    };
    return 1;
}

const struct rt_rowfile_table *rt_rowfile_tables(const struct rt_rowfile *file)
{
    rt_assert(file->ended);
    return file->table;
}

uint64_t rt_rowfile_bytes(const struct rt_rowfile *file)
{
    return file->size;
}

uint64_t rt_rowfile_digest(const struct rt_rowfile *file)
{
    rt_assert(file->ended);
    return rt_hash_value(file->hash);
}
