/* runtime/checkpoint/store_verify.c -- every byte of a checkpoint read and compared with what its manifest says. */
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "runtime/checkpoint/folder.h"
#include "runtime/checkpoint/rowfile.h"
#include "runtime/checkpoint/store.h"
#include "runtime/wire/member.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PIECE ((size_t)128 << 10) /* bytes */

struct check {
    const char *dir;
    const struct rt_manifest *manifest;
    const struct rt_job *job;
    rt_store_read_fn read;
    void *ctx;
    uint64_t bytes;               /* of the files before */
    struct rt_rowfile_table *sum; /* [manifest->n_tables] of all files; NULL: nobody wants it */
};

int rt_store_path(const char *dir, const char *name, const char *file, char **out)
{
    char *path = NULL;
    uint64_t size;
    int folder = -1, fd = -1, err = 0;

    if (!wire_is_token(name) || !rt_folder_is_file_name(file))
        return RT_FAIL(RT_EUSAGE, "%.64s/%.128s: no name of a checkpoint and a file of it", name,
                       file);
    path = rt_xasprintf("%s/%s/%s", dir, name, file);
    err = rt_folder_open(dir, name, &folder);
    if (!err && folder >= 0)
        err = rt_folder_open_file(folder, path, file, &fd, &size);
    if (!err && fd < 0)
        err = RT_FAIL(RT_EFILE, "%s: there is no such file", path);
    rt_folder_close(fd);
    rt_folder_close(folder);
    if (err)
        rt_free(path);
    else
        *out = path;
    return err;
}

static void tell(const struct check *c, uint64_t bytes)
{
    if (c->read)
        c->read(c->ctx, c->bytes + bytes);
}

static int check_whole(const char *path, const struct rt_manifest_file *file, uint64_t bytes,
                       uint64_t digest)
{
    if (bytes != file->bytes)
        return RT_FAIL(RT_EDATA, "%s: it has %" PRIu64 " bytes, expected %" PRIu64, path, bytes,
                       file->bytes);
    if (digest != file->digest)
        return RT_FAIL(RT_EDATA, "%s: its digest is %016" PRIx64 ", the manifest says %016" PRIx64,
                       path, digest, file->digest);
    return 0;
}

/* ---- a file that is no owner's ---- */

static int hash_file(const struct check *c, int fd, const char *path, struct rt_hash *hash,
                     uint64_t *bytes)
{
    uint8_t *piece = rt_try_malloc(PIECE);
    int err = piece ? 0 : RT_FAIL(RT_ENOMEM, "%s: out of memory", path);

    for (*bytes = 0; !err;) {
        ssize_t n = rt_fault_now() ? (errno = EIO, -1) : read(fd, piece, PIECE);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            err = RT_FAIL(RT_EFILE, "%s: cannot be read: %s", path, strerror(errno));
        if (n <= 0)
            break;
        rt_hash_add(hash, piece, (size_t)n);
        *bytes += (uint64_t)n;
        tell(c, *bytes);
    }
    rt_free(piece);
    return err;
}

static int verify_plain(struct check *c, const char *path, const struct rt_manifest_file *file)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    struct rt_hash *hash = rt_hash_create();
    uint64_t bytes = 0;
    int err = 0;

    if (!hash)
        err = RT_FAIL(RT_ENOMEM, "%s: out of memory", path);
    else if (fd < 0)
        err = RT_FAIL(RT_EFILE, "%s: cannot be opened: %s", path, strerror(errno));
    if (!err)
        err = hash_file(c, fd, path, hash, &bytes);
    if (!err)
        err = check_whole(path, file, bytes, rt_hash_value(hash));
    rt_folder_close(fd);
    rt_hash_destroy(hash);
    return err;
}

/* ---- an owner's ---- */

/* Is it the part of this checkpoint that the manifest has it for? */
int rt_store_check_head(const struct rt_manifest *m, const char *path,
                        const struct rt_manifest_file *file, const struct rt_rowfile *rows)
{
    const struct rt_rowfile_head *h = rt_rowfile_head(rows);
    bool same_tables = h->n_tables == m->n_tables;

    if (h->attempt != m->attempt || h->base != m->base || h->step != m->step)
        return RT_FAIL(RT_EDATA,
                       "%s: rows of attempt %" PRIu64 " on %" PRIu64 " at step %" PRIu64
                       ", expected %" PRIu64 " on %" PRIu64 " at step %" PRIu64,
                       path, h->attempt, h->base, h->step, m->attempt, m->base, m->step);
    if (h->owner != file->owner || h->owners != m->owners || h->shard_first != file->shard_first ||
        h->shard_end != file->shard_end)
        return RT_FAIL(RT_EDATA,
                       "%s: rows of owner %u of %u, shards %u to %u; expected owner %u of %u, "
                       "shards %u to %u",
                       path, h->owner, h->owners, h->shard_first, h->shard_end, file->owner,
                       m->owners, file->shard_first, file->shard_end);
    for (uint32_t t = 0; same_tables && t < m->n_tables; t++)
        same_tables = strcmp(rt_rowfile_schema(rows, t)->name, m->table[t].name) == 0;
    if (h->job != m->row_job || !same_tables)
        return RT_FAIL(RT_EDATA, "%s: rows of another job than the manifest's '%s'", path, m->job);
    if (rt_rowfile_bytes(rows) != file->bytes)
        return check_whole(path, file, rt_rowfile_bytes(rows), file->digest);
    return 0;
}

int rt_store_check_end(const char *path, const struct rt_manifest_file *file,
                       const struct rt_rowfile *rows)
{
    return check_whole(path, file, rt_rowfile_bytes(rows), rt_rowfile_digest(rows));
}

static int verify_rows(struct check *c, const char *path, const struct rt_manifest_file *file)
{
    struct rt_rowfile_block block;
    struct rt_rowfile *rows = NULL;
    int err = rt_rowfile_open(path, c->job, &rows);

    if (!err)
        err = rt_store_check_head(c->manifest, path, file, rows);
    while (!err && (err = rt_rowfile_next(rows, &block)) > 0) {
        tell(c, block.at + block.bytes);
        err = 0;
    }
    if (!err)
        err = rt_store_check_end(path, file, rows);
    for (uint32_t t = 0; !err && c->sum && t < c->manifest->n_tables; t++) {
        const struct rt_rowfile_table *is = &rt_rowfile_tables(rows)[t];

        c->sum[t].rows += is->rows;
        c->sum[t].removed += is->removed;
        c->sum[t].digest += is->digest;
    }
    rt_rowfile_close(rows);
    return err;
}

/* ---- all ---- */

static int verify_one(struct check *c, size_t i)
{
    const struct rt_manifest_file *file = &c->manifest->file[i];
    char *path = NULL;
    int err = rt_store_path(c->dir, c->manifest->name, file->name, &path);

    if (!err)
        err = file->is_rows ? verify_rows(c, path, file) : verify_plain(c, path, file);
    if (!err) {
        tell(c, file->bytes);
        c->bytes += file->bytes;
    }
    rt_free(path);
    return err;
}

int rt_store_verify_file(const char *dir, const struct rt_manifest *manifest, size_t file,
                         const struct rt_job *job, rt_store_read_fn read, void *ctx)
{
    struct check c = {.dir = dir, .manifest = manifest, .job = job, .read = read, .ctx = ctx};

    rt_assert(file < manifest->n_files);
    return verify_one(&c, file);
}

static int check_sum(const struct check *c)
{
    for (uint32_t t = 0; t < c->manifest->n_tables; t++) {
        const struct rt_manifest_table *says = &c->manifest->table[t];
        const struct rt_rowfile_table *is = &c->sum[t];

        if (is->rows != says->rows || is->removed != says->removed || is->digest != says->digest)
            return RT_FAIL(RT_EDATA,
                           "%s/%s: table '%.100s' has %" PRIu64 " rows and %" PRIu64
                           " removed ids with digest %016" PRIx64
                           " in its files, the manifest says %" PRIu64 ", %" PRIu64
                           " and %016" PRIx64,
                           c->dir, c->manifest->name, says->name, is->rows, is->removed, is->digest,
                           says->rows, says->removed, says->digest);
    }
    return 0;
}

int rt_store_verify(const char *dir, const struct rt_manifest *manifest, const struct rt_job *job,
                    rt_store_read_fn read, void *ctx)
{
    struct check c = {.dir = dir, .manifest = manifest, .job = job, .read = read, .ctx = ctx};
    int err = 0;

    c.sum = rt_try_calloc(manifest->n_tables, sizeof(*c.sum));
    if (!c.sum)
        return RT_FAIL(RT_ENOMEM, "%s/%s: out of memory", dir, manifest->name);
    for (size_t i = 0; i < manifest->n_files && !err; i++)
        err = verify_one(&c, i);
    if (!err)
        err = check_sum(&c);
    rt_free(c.sum);
    return err;
}
