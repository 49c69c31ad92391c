/* tests/unit/test_batch.c -- batches are pure functions of their ids; each row of a set is in one. What they carry for a row:
 * test_batch_columns.c. */
#include "data_compose/parse_binary.h"
#include "data_compose/quarantine.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/hash.h"
#include "runtime/base/map.h"
#include "runtime/base/mem.h"
#include "runtime/job/batch_id.h"
#include "runtime/wire/batch.h"
#include "tests/lib/plain_io.h"
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
#include <cmocka.h>

#define ROWS    1000 /* in three files */
#define COLUMNS "label=label n=dense a=feature b=feature:a c=feature"

static char *path[5]; /* three of text; libsvm; binary, the rows of the three */

/* What one or more passes gave. */
struct passes {
    struct rt_map print; /* batch id -> hash of all its bytes */
    uint32_t seen[ROWS]; /* by row number */
    uint64_t order;      /* hash over row numbers by batch, for comparing permutations */
    uint64_t rows_read;
    uint32_t batches, short_batches;
    uint64_t end[64]; /* end_sequence by split */
};

struct want {
    struct data_job *dj;
    uint32_t index, size;
    uint64_t epoch, first;
    bool evaluate;
    bool (*skip)(void *ctx, uint64_t id);
    struct dc_batcher **last; /* what the pass takes over, and leaves for the next; NULL: nothing */
};

struct looks {
    struct passes *passes;
    const struct rt_data_conf *data;
};

static void look_at(void *arg, const struct dc_batch *b)
{
    struct passes *p = ((struct looks *)arg)->passes;
    const struct rt_data_conf *data = ((struct looks *)arg)->data;
    uint64_t print =
        rt_hash_bytes_seed(b->samples_payload->data, b->samples_payload->size, b->digest);

    assert_true(b->digest == rt_hash_bytes(b->ids->data, b->ids->size));
    assert_false(rt_map_get(&p->print, b->id, NULL));
    rt_map_put(&p->print, b->id, print);
    p->batches++;
    p->short_batches += b->samples < data->batch_size;
    if (data->format == RT_FORMAT_LIBSVM)
        return;
    struct rt_segments seg = rt_segments_of(b->samples_payload);
    const void *dense, *label, *a, *c;
    assert_int_equal(rt_segment_take(&seg, b->samples, 4, &dense), 0);
    assert_int_equal(rt_segment_take(&seg, b->samples, 4, &label), 0);
    assert_int_equal(rt_segments_end(&seg), 0);
    seg = rt_segments_of(b->ids);
    assert_true(b->layout[0] == WIRE_LAYOUT_LENGTHS && b->layout[1] == WIRE_LAYOUT_ONE);
    assert_true(b->n_ids[0] == 2 * b->samples && b->n_ids[1] == b->samples);
    assert_int_equal(rt_segment_take(&seg, b->samples, 4, &a), 0);
    for (uint32_t s = 0; s < b->samples; s++)
        assert_int_equal(((const uint32_t *)a)[s], 2);
    assert_int_equal(rt_segment_take(&seg, 2 * b->samples, 8, &a), 0);
    assert_int_equal(rt_segment_take(&seg, b->samples, 8, &c), 0);
    assert_int_equal(rt_segments_end(&seg), 0);
    for (uint32_t s = 0; s < b->samples; s++) { /* the parts of a sample belong together */
        uint32_t n = (uint32_t)((const float *)dense)[s];
        char text[32];

        p->seen[n]++;
        p->order = rt_hash_id(p->order ^ n);
        assert_true(((const float *)label)[s] == (float)(n % 2));
        snprintf(text, sizeof(text), "a%u", n);
        assert_true(((const uint64_t *)a)[2 * s] == rt_hash_bytes(text, strlen(text)));
        snprintf(text, sizeof(text), "b%u", n);
        assert_true(((const uint64_t *)a)[2 * s + 1] == rt_hash_bytes(text, strlen(text)));
        snprintf(text, sizeof(text), "c%u", n);
        assert_true(((const uint64_t *)c)[s] == rt_hash_bytes(text, strlen(text)));
    }
}

static void pass(struct passes *p, const struct want *w)
{
    uint64_t first[64];
    struct dc_batcher_conf conf = {
        .feed = {.io = batch_bed.io, .job = &w->dj->job, .evaluate = w->evaluate},
        .index = w->index,
        .size = w->size,
        .epoch = w->epoch,
        .first_sequence = first,
        .skip = w->skip,
        .last = w->last ? *w->last : NULL,
    };
    struct dc_batcher *batcher;
    uint64_t read, bad;

    for (size_t i = 0; i < ARRAY_LEN(first); i++)
        first[i] = w->first;
    batcher = batch_bed_open(&conf);
    if (batch_bed_pass(batcher, look_at, &(struct looks){p, &w->dj->job.data}) != 0)
        fail_msg("%s", rt_err_text());
    dc_batcher_rows(batcher, &read, &bad);
    p->rows_read += read;
    for (uint32_t s = w->index; s < w->dj->job.data.splits; s += w->size) {
        struct dc_split_end end;

        dc_batcher_split(batcher, s, &end);
        p->end[s] = end.end_sequence;
    }
    if (w->last)
        *w->last = batcher;
    else
        dc_batcher_destroy(batcher);
    dc_parser_destroy(conf.feed.parser);
}

static void init(struct data_job *dj, enum rt_format format)
{
    static const uint32_t at[] = {
        [RT_FORMAT_TSV] = 0, [RT_FORMAT_LIBSVM] = 3, [RT_FORMAT_BINARY] = 4};
    bool libsvm = format == RT_FORMAT_LIBSVM;

    data_job_init(dj, format, !libsvm, libsvm ? "0=feature:u 1=feature:v 2=feature:u" : COLUMNS);
    dj->job.data.train = dj->job.data.test = (const char *const *)(path + at[format]);
    dj->job.data.n_train = dj->job.data.n_test = format == RT_FORMAT_TSV ? 3 : 1;
}

static void expect_same(const struct passes *a, const struct passes *b, const char *name)
{
    uint64_t id, print, other;

    if (a->print.count != b->print.count)
        fail_msg("%s: %zu batches, not %zu", name, b->print.count, a->print.count);
    for (size_t i = 0; rt_map_next(&a->print, &i, &id, &print);)
        if (!rt_map_get(&b->print, id, &other) || other != print)
            fail_msg("%s: batch %llx differs", name, (unsigned long long)id);
}

static bool skip_most(void *ctx, uint64_t id)
{
    (void)ctx;
    return rt_batch_sequence(id) % 3 != 1;
}

/* Allocations of a pass that gives what `one` has. */
static uint64_t pass_again(const struct passes *one, const struct want *want, const char *name)
{
    static struct passes p;
    uint64_t begin = rt_mem_count();

    memset(&p, 0, sizeof(p));
    pass(&p, want);
    begin = rt_mem_count() - begin;
    expect_same(one, &p, name);
    assert_memory_equal(one->end, p.end, sizeof(one->end));
    assert_int_equal(one->rows_read, p.rows_read);
    rt_map_release(&p.print);
    return begin;
}

/* The same bytes from a batcher that has the memory of one before it, which it need not ask for then: a store of rows and the
 * order of them; of text the source with its read-ahead, three, of the binary form a block's columns and what they are
 * unpacked into. The same pass does the same otherwise, to the last allocation. */
static void expect_same_after_another(const struct passes *one, const struct want *want,
                                      const char *name)
{
    static struct passes other;
    struct dc_batcher *last = NULL;
    struct want next = *want;
    uint64_t saved = pass_again(one, want, name);
    uint64_t least = want->dj->job.data.format == RT_FORMAT_BINARY ? 4 : 5;

    memset(&other, 0, sizeof(other));
    next.last = &last;
    next.epoch = want->epoch + 1;
    pass(&other, &next);
    next.epoch = want->epoch;
    saved -= pass_again(one, &next, name);
    if ((int64_t)saved < (int64_t)least)
        fail_msg("%s: it takes %lld allocations less, expected %llu at least", name,
                 (long long)saved, (unsigned long long)least);
    dc_batcher_destroy(last);
    rt_map_release(&other.print);
}

/* For many shapes of the plan: alone, by three composers, and with others skipped: the same bytes. */
static void purity(void **state)
{
    static const struct {
        const char *name;
        uint32_t batch, block, chunk, splits;
        bool shuffle, evaluate;
        enum rt_format format;
    } row[] = {
        {"chunk is a block", 16, 32, 32, 8, true, false, RT_FORMAT_TSV},
        {"chunk over blocks", 16, 32, 100, 4, true, false, RT_FORMAT_TSV},
        {"chunk in a block", 16, 128, 20, 3, true, false, RT_FORMAT_TSV},
        {"batch over chunk", 50, 32, 8, 5, true, false, RT_FORMAT_TSV},
        {"one split", 7, 10, 1000, 1, true, false, RT_FORMAT_TSV},
        {"more splits than blocks", 16, 100, 64, 64, true, false, RT_FORMAT_TSV},
        {"one batch", 5000, 10000, 5000, 8, true, false, RT_FORMAT_TSV},
        {"no shuffle", 16, 32, 32, 8, false, false, RT_FORMAT_TSV},
        {"evaluation", 16, 32, 32, 8, true, true, RT_FORMAT_TSV},
        {"libsvm", 16, 32, 32, 8, true, false, RT_FORMAT_LIBSVM},
        {"binary, row by row", 16, 32, 32, 8, true, false, RT_FORMAT_BINARY},
        {"binary, by columns", 16, 8192, 8192, 8, true, false, RT_FORMAT_BINARY},
        {"binary evaluation", 16, 32, 32, 8, true, true, RT_FORMAT_BINARY},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct data_job dj;
        static struct passes one, three, some;
        uint64_t id, print, other;

        memset(&one, 0, sizeof(one));
        memset(&three, 0, sizeof(three));
        memset(&some, 0, sizeof(some));
        init(&dj, row[i].format);
        dj.job.data.batch_size = row[i].batch;
        dj.job.data.block_rows = row[i].block;
        dj.job.data.shuffle_rows = row[i].chunk;
        dj.job.data.splits = row[i].splits;
        dj.job.data.shuffle = row[i].shuffle;
        struct want want = {&dj, 0, 1, 5, 0, row[i].evaluate, NULL, NULL};
        pass(&one, &want);
        for (uint32_t k = 0; k < ROWS && row[i].format != RT_FORMAT_LIBSVM; k++)
            if (one.seen[k] != 1)
                fail_msg("%s: row %u was seen %u times", row[i].name, k, one.seen[k]);
        assert_int_equal(one.rows_read, ROWS);
        expect_same_after_another(&one, &want, row[i].name);
        for (want.index = 0, want.size = 3; want.index < 3; want.index++)
            pass(&three, &want);
        expect_same(&one, &three, row[i].name);
        assert_memory_equal(one.end, three.end, sizeof(one.end));
        want = (struct want){&dj, 0, 1, 5, 0, row[i].evaluate, skip_most, NULL};
        pass(&some, &want);
        assert_memory_equal(one.end, some.end, sizeof(one.end));
        for (size_t k = 0; rt_map_next(&one.print, &k, &id, &print);) {
            bool there = rt_map_get(&some.print, id, &other);
            if (there == skip_most(NULL, id) || (there && other != print))
                fail_msg("%s: batch %llx, alone", row[i].name, (unsigned long long)id);
            assert_int_equal(rt_batch_split(id) >= RT_SPLIT_EVALUATE, row[i].evaluate);
        }
        rt_map_release(&one.print);
        rt_map_release(&three.print);
        rt_map_release(&some.print);
    }
}

static void epochs(void **state)
{
    static struct passes p[4];
    struct data_job dj;

    (void)state;
    init(&dj, RT_FORMAT_TSV);
    pass(&p[0], &(struct want){&dj, 0, 1, 0, 0, false, NULL, NULL});
    pass(&p[1], &(struct want){&dj, 0, 1, 0, 0, false, NULL, NULL});
    pass(&p[2], &(struct want){&dj, 0, 1, 1, 10, false, NULL, NULL});
    dj.job.data.shuffle = false;
    pass(&p[3], &(struct want){&dj, 0, 1, 0, 0, false, NULL, NULL});
    assert_true(p[0].order == p[1].order);
    assert_true(p[0].order != p[2].order && p[0].order != p[3].order);
    for (uint32_t s = 0; s < dj.job.data.splits; s++)
        assert_true(p[2].end[s] == p[0].end[s] + 10);
    for (size_t i = 0; i < ARRAY_LEN(p); i++)
        rt_map_release(&p[i].print);
}

/* Bad rows are counted and written down; over the ratio the pass ends with one error. */
static void bad_rows(void **state)
{
    struct data_job dj;
    char *text;
    size_t size;

    (void)state;
    init(&dj, RT_FORMAT_TSV);
    for (int strict = 0; strict < 2; strict++) {
        char *bad = rt_path_join(batch_bed.dir, "bad.tsv"),
             *out = rt_path_join(batch_bed.dir, "quarantine/data_compose-2.tsv");
        const char *list[] = {path[0], bad, path[1]};
        FILE *f = fopen(bad, "w");

        fprintf(f, "label\tn\ta\tb\tc\n3\t1\ta\tb\tc\nx\ty\n");
        fclose(f);
        dj.job.data.train = list;
        dj.job.data.n_train = 3;
        struct dc_batcher_conf conf = {.feed = {.io = batch_bed.io, .job = &dj.job}, .size = 1};
        struct dc_batcher *batcher;
        uint64_t read, quarantined;
        conf.quarantine = dc_quarantine_create(batch_bed.dir, 2, strict ? 0.0025 : 0.0035);
        conf.record_bad = true;
        batcher = batch_bed_open(&conf);
        assert_int_equal(batch_bed_pass(batcher, NULL, NULL), strict ? RT_EDATA : 0);
        if (strict)
            assert_non_null(
                strstr(rt_err_text(),
                       "2 of 670 training rows are bad (0.00299), more than data.max_bad_ratio "
                       "0.0025 allows ("));
        dc_batcher_rows(batcher, &read, &quarantined);
        assert_int_equal(read, 670);
        assert_int_equal(quarantined, 2);
        batch_bed_close(batcher, &conf);
        dc_quarantine_destroy(conf.quarantine);
        struct stat st;
        assert_int_equal(stat(out, &st), 0);
        assert_int_equal(st.st_mode & 0777, 0600);
        assert_int_equal(rt_file_read(out, 4096, &text, &size), 0);
        assert_non_null(
            strstr(text, "bad.tsv\t2\tlabel: expected 0 or 1, got '3'\t3\\t1\\ta\\tb\\tc\n"));
        assert_non_null(strstr(text, "bad.tsv\t3\t"));
        rt_free(text);
        unlink(out);
        unlink(bad);
        rt_free(out);
        rt_free(bad);
    }
}

/* Out of memory at any place is an error, and nothing leaks; a full pool only waits. */
static void no_memory(void **state)
{
    struct data_job dj;
    int rc = RT_ENOMEM;

    (void)state;
    init(&dj, RT_FORMAT_TSV);
    for (int64_t nth = 0; rc == RT_ENOMEM && nth < 10000; nth++) {
        struct dc_batcher_conf conf = {.feed = {.io = batch_bed.io, .job = &dj.job}, .size = 1};
        struct dc_batcher *batcher = batch_bed_open(&conf);

        rt_fault_alloc(nth);
        rc = batch_bed_pass(batcher, NULL, NULL);
        rt_fault_alloc(-1);
        assert_true(rc == 0 || rc == RT_ENOMEM);
        batch_bed_close(batcher, &conf);
    }
    assert_int_equal(rc, 0);
}

static void full_pool(void **state)
{
    struct rt_io *small = plain_io_create(8192);
    struct data_job dj;
    struct dc_batch *held[64], *batch;
    uint32_t n_held = 0, full = 0, batches = 0;
    int rc;

    (void)state;
    init(&dj, RT_FORMAT_TSV);
    struct dc_batcher_conf conf = {.feed = {.io = small, .job = &dj.job}, .size = 1};
    struct dc_batcher *batcher = batch_bed_open(&conf);
    while ((rc = dc_batcher_turn(batcher, &batch)) > 0) {
        if (rc == DC_TURN_BATCH) {
            held[n_held++] = batch;
            batches++;
        }
        if (rc == DC_TURN_FULL) {
            full++;
            assert_true(n_held > 0);
            dc_batch_destroy(held[--n_held]);
        }
    }
    assert_int_equal(rc, 0);
    assert_true(full > 0 && batches == 63); /* 31 blocks of two, and a short one */
    while (n_held)
        dc_batch_destroy(held[--n_held]);
    batch_bed_close(batcher, &conf);
    plain_io_destroy(small);
}

/* path[4], of what the files of text hold. */
static void write_binary(void)
{
    struct dc_feed_conf conf = {.io = batch_bed.io};
    struct dc_block_writer *writer;
    struct data_job dj;
    uint64_t bytes;
    int rc;

    init(&dj, RT_FORMAT_TSV);
    conf.job = &dj.job;
    assert_int_equal(dc_parser_create(&dj.job, &conf.parser), 0);
    struct dc_binary *binary = dc_binary_create(conf.parser);
    struct dc_feed *feed = dc_feed_create(&conf);
    assert_int_equal(
        dc_block_writer_create(path[4], dc_binary_shape(binary), DC_BLOCK_LZ4, &writer), 0);
    while ((rc = dc_feed_next(feed)) > 0) {
        assert_int_equal(dc_feed_parse(feed), 0);
        dc_binary_put(binary, writer);
        assert_int_equal(dc_block_end_row(writer), 0);
    }
    assert_int_equal(rc, 0);
    assert_int_equal(dc_block_writer_finish(writer, &bytes), 0);
    dc_block_writer_destroy(writer);
    dc_feed_destroy(feed);
    dc_binary_destroy(binary);
    dc_parser_destroy(conf.parser);
}

static int setup(void **state)
{
    static const char *const name[] = {"0.tsv", "1.tsv", "2.tsv", "all.libsvm", "all.sfb"};
    static const uint32_t from[] = {0, 333, 668, ROWS};

    (void)batch_bed_set_up(state);
    for (uint32_t i = 0; i < ARRAY_LEN(path); i++)
        path[i] = rt_path_join(batch_bed.dir, name[i]);
    for (uint32_t i = 0; i < 4; i++) {
        FILE *f = fopen(path[i], "w");
        if (i < 3)
            fprintf(f, "label\tn\ta\tb\tc\n");
        for (uint32_t n = from[i % 3]; i < 3 && n < from[i + 1]; n++)
            fprintf(f, "%u\t%u\ta%u\tb%u\tc%u\n", n % 2, n, n, n, n);
        for (uint32_t n = 0; i == 3 && n < ROWS; n++)
            fprintf(f, "%u %u:%d %u:1 %u:1\n", n % 2, n, n % 5 != 0, n + 1, n + 2);
        fclose(f);
    }
    write_binary();
    return 0;
}

static int teardown(void **state)
{
    for (uint32_t i = 0; i < ARRAY_LEN(path); i++) {
        unlink(path[i]);
        rt_free(path[i]);
    }
    return batch_bed_tear_down(state);
}

int main(void)
{
    const struct CMUnitTest test[] = {
        cmocka_unit_test(purity),    cmocka_unit_test(epochs),    cmocka_unit_test(bad_rows),
        cmocka_unit_test(no_memory), cmocka_unit_test(full_pool),
    };

    return cmocka_run_group_tests(test, setup, teardown);
}
