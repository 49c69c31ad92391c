/* tests/unit/test_batch_columns.c -- all that a batch carries for a row: lists, weights of ids and of samples, groups, keys. Each
 * row's number says what must be there. */
#include "data_compose/quarantine.h"
#include "runtime/base/assert.h"
#include "runtime/base/file.h"
#include "runtime/base/hash.h"
#include "runtime/base/mem.h"
#include "runtime/net/frame.h"
#include "runtime/net/io.h"
#include "runtime/wire/batch.h"
#include "tests/unit/batch_bed.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>
#include <cmocka.h>

#define CARRIED "label=label n=dense tags=feature:list one=feature:int w=weight g=group:int k=key"

/* Row n has n % 4 tags, weight n / 4, group -n, and a key unless n % 3 is 0. */
static void write_some(const char *file, uint32_t from, uint32_t end)
{
    FILE *f = fopen(file, "w");

    for (uint32_t n = from; n < end; n++) {
        fprintf(f, "%u\t%u\t", n % 2, n);
        for (uint32_t k = 0; k < n % 4; k++)
            fprintf(f, "%st%u.%u", k ? "|" : "", n, k);
        fprintf(f, "\t%u\t%g\t-%u\t", n, n / 4.0, n);
        fprintf(f, n % 3 ? "key %u\n" : "\n", n);
    }
    fclose(f);
}

static void write_carried(const char *file, uint32_t rows)
{
    write_some(file, 0, rows);
}

static const void *take(struct rt_segments *seg, size_t n, size_t size)
{
    const void *data = NULL;

    assert_int_equal(rt_segment_take(seg, n, size, &data), 0);
    return data;
}

static void check_ids(const struct dc_batch *b, const float *dense)
{
    struct rt_segments seg = rt_segments_of(b->ids);
    const uint32_t *length =
        b->layout[0] == WIRE_LAYOUT_LENGTHS ? take(&seg, b->samples, sizeof(*length)) : NULL;
    const uint64_t *tag = take(&seg, b->n_ids[0], sizeof(*tag));
    const uint64_t *one = take(&seg, b->samples, sizeof(*one));
    char text[32];

    assert_int_equal(rt_segments_end(&seg), 0);
    for (uint32_t s = 0; s < b->samples; s++) {
        uint32_t n = (uint32_t)dense[s];

        assert_int_equal(length ? length[s] : 1, n % 4);
        for (uint32_t k = 0; k < n % 4; k++) {
            snprintf(text, sizeof(text), "t%u.%u", n, k);
            assert_true(*tag++ == rt_hash_bytes(text, strlen(text)));
        }
        assert_true(one[s] == n);
    }
}

static void check_carried(void *seen, const struct dc_batch *b)
{
    struct rt_segments seg = rt_segments_of(b->samples_payload);
    const float *dense = take(&seg, b->samples, sizeof(*dense));
    const float *label = take(&seg, b->samples, sizeof(*label));
    const float *weight = take(&seg, b->samples, sizeof(*weight));
    const uint64_t *group = take(&seg, b->samples, sizeof(*group));
    const uint32_t *length = b->key_bytes ? take(&seg, b->samples, sizeof(*length)) : NULL;
    const char *key = b->key_bytes ? take(&seg, b->key_bytes, 1) : NULL;
    char text[32];

    assert_int_equal(rt_segments_end(&seg), 0);
    check_ids(b, dense);
    for (uint32_t s = 0; s < b->samples; s++) {
        uint32_t n = (uint32_t)dense[s];

        assert_true(label[s] == (float)(n % 2) && weight[s] == (float)n / 4);
        assert_true(group[s] == (uint64_t) - (int64_t)n);
        snprintf(text, sizeof(text), n % 3 ? "key %u" : "", n);
        assert_int_equal(length ? length[s] : 0, strlen(text));
        if (length)
            assert_memory_equal(key, text, length[s]);
        key += length ? length[s] : 0;
    }
    *(uint32_t *)seen += b->samples;
}

static void carried(void **state)
{
    char *file = rt_path_join(batch_bed.dir, "carried.tsv");
    const char *list[] = {file};
    struct data_job dj;

    (void)state;
    for (uint32_t rows = 1; rows <= 401; rows += 80) { /* 1: a batch without any key */
        uint32_t seen = 0;

        write_carried(file, rows);
        data_job_init(&dj, RT_FORMAT_TSV, false, CARRIED);
        dj.job.data.train = list;
        dj.job.data.n_train = 1;
        for (uint32_t index = 0; index < 2; index++) {
            struct dc_batcher_conf conf = {
                .feed = {.io = batch_bed.io, .job = &dj.job}, .index = index, .size = 2};
            struct dc_batcher *batcher = batch_bed_open(&conf);

            assert_int_equal(batch_bed_pass(batcher, check_carried, &seen), 0);
            batch_bed_close(batcher, &conf);
        }
        assert_int_equal(seen, rows);
    }
    unlink(file);
    rt_free(file);
}

/* Weights of ids, between ids that have none; row n has n % 7 ids, of which its feature keeps the last four. */
static void check_weighted(void *seen, const struct dc_batch *b)
{
    struct rt_segments seg = rt_segments_of(b->samples_payload);
    const float *dense = take(&seg, b->samples, sizeof(*dense));

    seg = rt_segments_of(b->ids);
    const uint64_t *one = take(&seg, b->samples, sizeof(*one));
    const uint32_t *length =
        b->layout[1] == WIRE_LAYOUT_LENGTHS ? take(&seg, b->samples, sizeof(*length)) : NULL;
    const uint64_t *id = take(&seg, b->n_ids[1], sizeof(*id));
    const float *weight = take(&seg, b->n_ids[1], sizeof(*weight));
    const uint64_t *last = take(&seg, b->samples, sizeof(*last));
    const float *last_weight = take(&seg, b->samples, sizeof(*last_weight));

    assert_int_equal(rt_segments_end(&seg), 0);
    assert_true(b->digest == rt_hash_bytes(b->ids->data, b->ids->size));
    assert_true(!b->weighted[0] && b->weighted[1] && b->weighted[2]);
    for (uint32_t s = 0; s < b->samples; s++) {
        uint32_t n = (uint32_t)dense[s], all = n % 7, first = all > 4 ? all - 4 : 0;

        assert_int_equal(length ? length[s] : 1, all - first);
        for (uint32_t k = first; k < all; k++)
            assert_true(*id++ == n + k && *weight++ == (k % 2 ? (float)n / 8 : 1));
        assert_true(one[s] == n && last[s] == n + 1 && last_weight[s] == -(float)n);
    }
    *(uint32_t *)seen += b->samples;
}

static void weighted(void **state)
{
    char *file = rt_path_join(batch_bed.dir, "weighted.tsv");
    FILE *f = fopen(file, "w");
    const char *list[] = {file};
    struct data_job dj;
    struct dc_batch_pool pool = {0};
    uint32_t seen = 0;

    (void)state;
    for (uint32_t n = 0; n < 500; n++) {
        fprintf(f, "1\t%u\t%u\t", n, n);
        for (uint32_t k = 0; k < n % 7; k++)
            fprintf(f, k % 2 ? "%s%u:%g" : "%s%u", k ? "|" : "", n + k, n / 8.0);
        fprintf(f, "\t%u:-%u\n", n + 1, n);
    }
    fclose(f);
    data_job_init(&dj, RT_FORMAT_TSV, false,
                  "label=label n=dense one=feature:int list=feature:list,int,weights,head "
                  "last=feature:int,weights");
    dj.job.data.train = list;
    dj.job.data.n_train = 1;
    struct dc_batcher_conf conf = {
        .feed = {.io = batch_bed.io, .job = &dj.job}, .size = 1, .pool = &pool};
    struct dc_batcher *batcher = batch_bed_open(&conf);
    assert_int_equal(batch_bed_pass(batcher, check_weighted, &seen), 0);
    assert_int_equal(seen, 500);
    batch_bed_close(batcher, &conf);
    dc_batch_pool_release(&pool);
    unlink(file);
    rt_free(file);
}

/* Lines are counted through the members of a gzip file, and shuffling does not move them. */
static void bad_rows_gzip(void **state)
{
    static const struct {
        uint32_t line;
        const char *text, *reason;
    } bad[] = {
        {7, "1\t7\ta|b\tx\t1\t1\tk", "one: expected an integer of 64 bits, got 'x'"},
        {40, "1\t7\ta|b|c|d|e\t1\t1\t1\tk",
         "tags: expected at most 4 ids (max_length of feature tags), got 5"},
        {41, "1\tnan\ta\t1\t1\t1\tk", "n: expected a finite number, got 'nan'"},
        {99, "1\t1\ta\t1\t-1\t1\tk", "w: expected a finite weight of at least 0, got '-1'"},
        {100, "2\t1\ta\t1\t1\t1\tk", "label: expected 0 or 1, got '2'"},
        {180, "1\t1\ta", "expected 7 fields, got 3"},
    };
    char *file = rt_path_join(batch_bed.dir, "bad.tsv.gz"), *text;
    const char *list[] = {file};
    struct data_job dj;
    uint32_t next = 0;

    (void)state;
    for (uint32_t n = 1; n <= 200; n++) { /* members of 60 lines */
        gzFile out = gzopen(file, n == 1 ? "wb" : "ab");

        for (uint32_t end = n + 59 < 200 ? n + 59 : 200;; n++) {
            bool is_bad = next < ARRAY_LEN(bad) && bad[next].line == n;
            gzprintf(out, "%s\n", is_bad ? bad[next].text : "1\t1\ta|b\t5\t1\t-1\tk");
            next += is_bad;
            if (n == end)
                break;
        }
        gzclose(out);
    }
    data_job_init(&dj, RT_FORMAT_TSV, false, CARRIED);
    dj.job.data.train = list;
    dj.job.data.n_train = 1;
    uint64_t found = 0;
    for (uint32_t index = 0; index < 2; index++) {
        struct dc_batcher_conf conf = {
            .feed = {.io = batch_bed.io, .job = &dj.job}, .index = index, .size = 2};
        struct dc_batcher *batcher;

        conf.quarantine = dc_quarantine_create(batch_bed.dir, index, 1);
        conf.record_bad = true;
        batcher = batch_bed_open(&conf);
        assert_int_equal(batch_bed_pass(batcher, NULL, NULL), 0);
        batch_bed_close(batcher, &conf);
        dc_quarantine_destroy(conf.quarantine);
        char *name = rt_xasprintf("%s/quarantine/data_compose-%u.tsv", batch_bed.dir, index);
        size_t size;
        assert_int_equal(rt_file_read(name, 1 << 16, &text, &size), 0);
        for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
            char want[256];

            snprintf(want, sizeof(want), "bad.tsv.gz\t%u\t%s", bad[i].line, bad[i].reason);
            found += strstr(text, want) != NULL;
        }
        unlink(name);
        rt_free(name);
        rt_free(text);
    }
    assert_int_equal(found, ARRAY_LEN(bad));
    unlink(file);
    rt_free(file);
}

/* So far, but for the payload buffers: their pool has a size class for each size, which may come late. */
static uint64_t allocations(void)
{
    return rt_mem_count() - rt_pool_fresh(batch_bed.io->ops->pool(batch_bed.io));
}

/* Once as many batches were out at a time as ever are, and each store has met its largest, making one allocates nothing. */
static void steady(void **state)
{
    static const struct {
        const char *name;
        uint32_t batch, chunk, splits;
    } row[] = {{"chunks of whole batches", 16, 32, 8}, {"rows are kept", 24, 128, 8}};
    enum { WARM = 2000, OUT = 4 };
    char *file = rt_path_join(batch_bed.dir, "carried.tsv");
    const char *list[] = {file};

    (void)state;
    write_some(file, 10000, 70000); /* keys of one length */
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct dc_batch *out[OUT] = {0}, *batch;
        struct dc_batch_pool pool = {0};
        uint64_t counts = 0, batches = 0, first = 0;
        struct data_job dj;
        struct dc_batcher *batcher;

        data_job_init(&dj, RT_FORMAT_TSV, false, CARRIED);
        dj.job.data.train = list;
        dj.job.data.n_train = 1;
        dj.job.data.batch_size = row[i].batch;
        dj.job.data.shuffle_rows = dj.job.data.block_rows = row[i].chunk;
        dj.job.data.splits = row[i].splits;
        struct dc_batcher_conf conf = {
            .feed = {.io = batch_bed.io, .job = &dj.job}, .size = 1, .pool = &pool};
        batcher = batch_bed_open(&conf);
        for (uint32_t turn = 0; dc_batcher_turn(batcher, &batch) > 0; turn++) {
            if (turn == WARM) {
                counts = allocations();
                first = batches;
            }
            if (!batch)
                continue;
            batches++;
            dc_batch_destroy(out[batches % OUT]);
            out[batches % OUT] = batch;
        }
        if (allocations() != counts || batches < first + 200)
            fail_msg("%s: %llu allocations for %llu batches", row[i].name,
                     (unsigned long long)(allocations() - counts),
                     (unsigned long long)(batches - first));
        for (uint32_t k = 0; k < OUT; k++)
            dc_batch_destroy(out[k]);
        batch_bed_close(batcher, &conf);
        dc_batch_pool_release(&pool);
    }
    unlink(file);
    rt_free(file);
}

int main(void)
{
    const struct CMUnitTest test[] = {
        cmocka_unit_test(carried),
        cmocka_unit_test(weighted),
        cmocka_unit_test(bad_rows_gzip),
        cmocka_unit_test(steady),
    };

    return cmocka_run_group_tests(test, batch_bed_set_up, batch_bed_tear_down);
}
