/* tests/bench/rowfile.c -- a checkpoint's file of rows from the page cache: how fast it is verified, and written.
 *
 * A restore has 2 s for a GB and core, in which rows also go into their table: so verifying alone may take a third of that. */
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"
#include "runtime/checkpoint/rowfile.h"
#include "tests/lib/bench.h"
#include "tests/lib/temp.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BYTES  ((size_t)512 << 20) /* of the file, about */
#define REPEAT 3
#define MOST   ((size_t)1 << 20) /* bytes that are put at once */

static const struct {
    const char *name;
    struct rt_table_conf table;
} kinds[] = {
    {"dim 16, row-wise Adagrad",
     {.name = "t", .dim = 16, .dtype = WIRE_F32, .optimizer = {.kind = RT_OPT_ROWWISE_ADAGRAD}}},
    {"dim 16, row-wise Adagrad, LRU",
     {.name = "t",
      .dim = 16,
      .dtype = WIRE_F32,
      .optimizer = {.kind = RT_OPT_ROWWISE_ADAGRAD},
      .eviction = {.kind = RT_EVICT_LRU, .rows = 1}}},
    {"dim 64, Adam",
     {.name = "t", .dim = 64, .dtype = WIRE_F32, .optimizer = {.kind = RT_OPT_ADAM}}},
};

static void must(int err)
{
    if (err) {
        fprintf(stderr, "rowfile: %s\n", rt_err_text());
        exit(1);
    }
}

/* GB a second of CPU time. */
static double write_file(const char *path, const struct rt_job *job)
{
    struct rt_rowfile_head head = {.attempt = 1,
                                   .owners = 1,
                                   .shard_end = RT_SHARDS,
                                   .n_tables = 1,
                                   .job = rt_rowfile_job(job)};
    uint32_t row_bytes = rt_row_layout(job->table).row_bytes;
    size_t n = MOST / row_bytes;
    uint8_t *rows = rt_xmalloc(n * row_bytes);
    struct rt_rowfile_table table;
    struct rt_rowfile_out out = {0};
    uint64_t bytes, digest, begin;

    for (size_t i = 0; i < n * row_bytes; i++)
        rows[i] = (uint8_t)rt_draw(1, i);
    begin = bench_cpu_ns();
    must(rt_rowfile_begin(&out, path, job, &head));
    for (size_t at = 0; at < BYTES; at += n * row_bytes)
        must(rt_rowfile_put(&out, RT_ROWFILE_ROWS, 0, rows, n, n * row_bytes));
    must(rt_rowfile_finish(&out, &table, &bytes, &digest));
    rt_free(rows);
    return (double)bytes / (double)(bench_cpu_ns() - begin);
}

static double verify_file(const char *path, const struct rt_job *job)
{
    struct rt_rowfile_block block;
    struct rt_rowfile *file;
    uint64_t begin = bench_cpu_ns();
    double rate;
    int rc;

    must(rt_rowfile_open(path, job, &file));
    while ((rc = rt_rowfile_next(file, &block)) > 0)
        ;
    must(rc);
    rate = (double)rt_rowfile_bytes(file) / (double)(bench_cpu_ns() - begin);
    rt_rowfile_close(file);
    return rate;
}

int main(void)
{
    struct bench *bench = bench_create("rowfile");
    char folder[TEMP_PATH_MAX];

    temp_folder(folder);
    char *path = rt_path_join(folder, "rows.00000");
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        struct rt_job job = {.name = "bench", .n_tables = 1, .table = &kinds[i].table};
        double written = write_file(path, &job), verified = 0;
        char *verify = rt_xasprintf("verify, %s", kinds[i].name);
        char *write = rt_xasprintf("write, %s", kinds[i].name);

        for (int k = 0; k < REPEAT; k++)
            verified = fmax(verified, verify_file(path, &job));
        bench_more(bench, verify, verified, "GB/s", 1.5, "a third of what a restore may take");
        bench_demand(bench, 1);
        bench_more(bench, write, written, "GB/s", (double)NAN, "");
        rt_free(write);
        rt_free(verify);
    }
    unlink(path);
    rmdir(folder);
    rt_free(path);
    return bench_finish(bench);
}
