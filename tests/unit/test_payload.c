/* tests/unit/test_payload.c -- even rows through planes into batches: every value at its place, for widths around those of
 * planes, floats and vectors, for every instruction set, and where a growing store moves them. */
#include "data_compose/batch.h"

#include "runtime/base/assert.h"
#include "runtime/base/cpu.h"
#include "runtime/base/file.h"
#include "runtime/base/mem.h"
#include "runtime/net/frame.h"
#include "tests/lib/data_job.h"
#include "tests/lib/plain_io.h"
#include "tests/lib/temp.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#define ROWS 203u

/* twice: the second feature has two columns, so its ids are two by two. */
struct shape {
    const char *name;
    uint32_t features, dense;
    bool twice, weight, group;
};

static char dir[TEMP_PATH_MAX];
static char *path;
static struct rt_io *io;

static void describe(struct data_job *dj, const struct shape *shape)
{
    static const char *paths[1];
    char columns[1024] = "label=label";
    size_t n = strlen(columns);

    for (uint32_t i = 0; i < shape->dense; i++)
        n += (size_t)snprintf(columns + n, sizeof(columns) - n, " d%u=dense", i);
    for (uint32_t i = 0; i < shape->features; i++)
        n += (size_t)snprintf(columns + n, sizeof(columns) - n, " f%u=feature:int", i);
    if (shape->twice)
        n += (size_t)snprintf(columns + n, sizeof(columns) - n, " more=feature:f1,int");
    snprintf(columns + n, sizeof(columns) - n, "%s%s", shape->weight ? " w=weight" : "",
             shape->group ? " g=group:int" : "");
    data_job_init(dj, RT_FORMAT_TSV, false, columns);
    paths[0] = path;
    dj->job.data.train = paths;
    dj->job.data.n_train = 1;
    dj->job.data.batch_size = 24; /* chunks of 32 rows: a split keeps some */
}

/* Id f of row n is 1000 n + f; dense value d is n + d / 64. */
static void write_rows(const struct shape *shape)
{
    FILE *f = fopen(path, "w");

    assert_non_null(f);
    for (uint32_t n = 0; n < ROWS; n++) {
        fprintf(f, "%u", n % 2);
        for (uint32_t d = 0; d < shape->dense; d++)
            fprintf(f, "\t%.6f", n + d / 64.0);
        for (uint32_t i = 0; i < shape->features + shape->twice; i++)
            fprintf(f, "\t%u", 1000 * n + i);
        if (shape->weight)
            fprintf(f, "\t%g", n / 8.0);
        if (shape->group)
            fprintf(f, "\t%u", 7 * n);
        fprintf(f, "\n");
    }
    fclose(f);
}

static const void *take(struct rt_segments *seg, size_t n, size_t size)
{
    const void *data = NULL;

    assert_int_equal(rt_segment_take(seg, n, size, &data), 0);
    return data;
}

static void check_ids(const struct shape *shape, const struct dc_batch *b, const uint32_t *row)
{
    struct rt_segments seg = rt_segments_of(b->ids);

    for (uint32_t f = 0; f < shape->features; f++) {
        uint32_t count = shape->twice && f == 1 ? 2 : 1;

        if (count > 1)
            take(&seg, b->samples, sizeof(uint32_t));
        const uint64_t *id = take(&seg, (size_t)b->samples * count, sizeof(*id));
        for (uint32_t s = 0; s < b->samples; s++) {
            uint64_t first = id[(size_t)s * count], want = 1000ull * row[s] + f;

            if (first != want)
                fail_msg("%s: id %u of row %u: %llu, expected %llu", shape->name, f, row[s],
                         (unsigned long long)first, (unsigned long long)want);
            if (count > 1)
                assert_int_equal(id[2 * s + 1], 1000ull * row[s] + shape->features);
        }
    }
    assert_int_equal(rt_segments_end(&seg), 0);
}

static void check_batch(const struct shape *shape, const struct dc_batch *b, uint32_t *seen)
{
    struct rt_segments seg = rt_segments_of(b->samples_payload);
    const float *dense = take(&seg, (size_t)b->samples * shape->dense, sizeof(*dense));
    const float *label = take(&seg, b->samples, sizeof(*label));
    const float *weight = shape->weight ? take(&seg, b->samples, sizeof(*weight)) : NULL;
    const uint64_t *group = shape->group ? take(&seg, b->samples, sizeof(*group)) : NULL;
    uint32_t row[64];

    assert_int_equal(rt_segments_end(&seg), 0);
    for (uint32_t s = 0; s < b->samples; s++, dense += shape->dense) {
        uint32_t n = (uint32_t)dense[0];

        row[s] = n;
        seen[n]++;
        for (uint32_t d = 0; d < shape->dense; d++)
            if (dense[d] != (float)n + (float)d / 64)
                fail_msg("%s: dense value %u of row %u: %g", shape->name, d, n, (double)dense[d]);
        assert_true(label[s] == (float)(n % 2));
        assert_true(!weight || weight[s] == (float)n / 8);
        assert_true(!group || group[s] == 7ull * n);
    }
    check_ids(shape, b, row);
}

static void pass(const struct shape *shape, struct data_job *dj)
{
    struct dc_batcher_conf conf = {.feed = {.io = io, .job = &dj->job}, .size = 1};
    uint32_t seen[ROWS] = {0};
    struct dc_batcher *batcher;
    struct dc_batch *batch;
    int rc;

    assert_int_equal(dc_parser_create(&dj->job, &conf.feed.parser), 0);
    assert_int_equal(dc_batcher_create(&conf, &batcher), 0);
    while ((rc = dc_batcher_turn(batcher, &batch)) > 0) {
        if (batch)
            check_batch(shape, batch, seen);
        dc_batch_destroy(batch);
    }
    assert_int_equal(rc, 0);
    dc_batcher_destroy(batcher);
    dc_parser_destroy(conf.feed.parser);
    for (uint32_t n = 0; n < ROWS; n++)
        if (seen[n] != 1)
            fail_msg("%s: row %u is in %u batches", shape->name, n, seen[n]);
}

static void every_value(void **state)
{
    static const struct shape row[] = {
        {"less than a plane", 3, 1, false, false, false},
        {"a plane, and the group in another", 8, 3, false, true, true},
        {"two ids of one feature", 7, 4, true, false, true},
        {"two planes and one id", 17, 5, false, true, false},
        {"the shape of Criteo's", 26, 13, false, false, false},
        {"floats of one line and more", 9, 16, true, true, true},
        {"one id, many floats", 1, 33, false, false, false},
    };
    enum rt_isa own = rt_cpu_isa();

    (void)state;
    for (uint32_t i = 0; i < ARRAY_LEN(row); i++) {
        struct data_job dj;

        write_rows(&row[i]);
        for (uint32_t isa = 0; isa <= (uint32_t)own; isa++) {
            rt_cpu_set_isa((enum rt_isa)isa);
            for (uint32_t chunk = 32; chunk <= 256; chunk *= 8) { /* 256: the store must grow */
                describe(&dj, &row[i]);
                dj.job.data.block_rows = dj.job.data.shuffle_rows = chunk;
                pass(&row[i], &dj);
            }
        }
        rt_cpu_set_isa(own);
    }
}

static int setup(void **state)
{
    (void)state;
    temp_folder(dir);
    path = rt_path_join(dir, "rows.tsv");
    io = plain_io_create(4u << 20);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    plain_io_destroy(io);
    unlink(path);
    rmdir(dir);
    rt_free(path);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_value)};

    return cmocka_run_group_tests(tests, setup, teardown);
}
