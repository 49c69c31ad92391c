/* tests/unit/test_block.c -- the binary form: what was written comes back, a broken block says so, and batches of a
 * converted job are those of its text. */
#include "data_compose/batch.h"
#include "data_compose/block.h"
#include "data_compose/block_form.h"
#include "data_compose/convert.h"
#include "data_compose/frequency.h"
#include "data_compose/statistics.h"
#include "data_compose/synthetic.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/hash.h"
#include "runtime/base/map.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"
#include "runtime/job/job.h"
#include "runtime/wire/batch.h"
#include "tests/lib/plain_io.h"
#include "tests/lib/temp.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#define SEED 11

static char dir[TEMP_PATH_MAX];
static struct rt_io *io;

/* ---- blocks ---- */

enum { FEW, MANY, SMALL, WIDE, LENGTHS, COUNTED, KEY_LENGTHS, KEY, COLUMNS };

static const struct dc_block_column column[COLUMNS] = {
    [FEW] = {4, 0, 0},          [MANY] = {8, 0, 0},
    [SMALL] = {8, 0, 0},        [WIDE] = {8, 0, 0},
    [LENGTHS] = {4, 0, 5},      [COUNTED] = {8, 1 + LENGTHS, 0},
    [KEY_LENGTHS] = {4, 0, 40}, [KEY] = {1, 1 + KEY_LENGTHS, 0},
};
static const struct dc_block_shape shape = {77, COLUMNS, column};

/* Row i of the test's file: a pure function. */
struct row {
    uint32_t few, lengths, key_size;
    uint64_t many, small, wide, counted[5];
    char key[40];
};

static struct row row_of(uint64_t i)
{
    struct row r = {
        .few = (uint32_t)rt_below(rt_draw(SEED, 8 * i), 3),
        .many = rt_draw(SEED, rt_below(rt_draw(SEED, 8 * i + 1), 2000)),
        .small = rt_below(rt_draw(SEED, 8 * i + 2), UINT32_MAX),
        .wide = rt_draw(SEED, 8 * i + 3),
        .lengths = (uint32_t)rt_below(rt_draw(SEED, 8 * i + 4), 6),
        .key_size = (uint32_t)rt_below(rt_draw(SEED, 8 * i + 5), 41),
    };

    for (uint32_t k = 0; k < r.lengths; k++)
        r.counted[k] = rt_draw(SEED, i * 1000 + k) % 300;
    memset(r.key, 'a' + (int)(i % 26), sizeof(r.key));
    return r;
}

static void write_rows(const char *path, uint64_t rows, enum dc_block_packing packing)
{
    struct dc_block_writer *w;
    uint64_t bytes;

    assert_int_equal(dc_block_writer_create(path, &shape, packing, &w), 0);
    for (uint64_t i = 0; i < rows; i++) {
        struct row r = row_of(i);

        dc_block_put(w, FEW, &r.few, 1);
        dc_block_put(w, MANY, &r.many, 1);
        dc_block_put(w, SMALL, &r.small, 1);
        dc_block_put(w, WIDE, &r.wide, 1);
        dc_block_put(w, LENGTHS, &r.lengths, 1);
        dc_block_put(w, COUNTED, r.counted, r.lengths);
        dc_block_put(w, KEY_LENGTHS, &r.key_size, 1);
        dc_block_put(w, KEY, r.key, r.key_size);
        assert_int_equal(dc_block_end_row(w), 0);
    }
    assert_int_equal(dc_block_writer_finish(w, &bytes), 0);
    dc_block_writer_destroy(w);
}

static void expect_block(const struct dc_block_view *v, struct dc_block_place place)
{
    const struct dc_vector *c = v->column;
    uint32_t ids = 0, keys = 0;

    assert_int_equal(v->rows, place.rows);
    for (uint32_t i = 0; i < v->rows; i++) {
        struct row r = row_of(place.first + i);

        assert_int_equal(dc_vector_u32(&c[FEW], i), r.few);
        assert_true(dc_vector_u64(&c[MANY], i) == r.many);
        assert_true(dc_vector_u64(&c[SMALL], i) == r.small);
        assert_true(dc_vector_u64(&c[WIDE], i) == r.wide);
        assert_int_equal(dc_vector_u32(&c[LENGTHS], i), r.lengths);
        for (uint32_t k = 0; k < r.lengths; k++)
            assert_true(dc_vector_u64(&c[COUNTED], ids++) == r.counted[k]);
        assert_int_equal(dc_vector_u32(&c[KEY_LENGTHS], i), r.key_size);
        assert_memory_equal((const char *)c[KEY].plain + keys, r.key, r.key_size);
        keys += r.key_size;
    }
    assert_true(c[COUNTED].n == ids && c[KEY].n == keys);
}

/* Any number of rows, in any packing; blocks in any order. */
static void round_trip(void **state)
{
    static const uint64_t rows[] = {0, 1, 2, 1000, 8192, 8193, 20000};

    (void)state;
    for (size_t k = 0; k < ARRAY_LEN(rows); k++)
        for (int packing = DC_BLOCK_RAW; packing <= DC_BLOCK_ZSTD; packing++) {
            char *path = rt_path_join(dir, "round.sfb");
            struct dc_block_file *f;
            struct dc_block_view v = {0};

            write_rows(path, rows[k], (enum dc_block_packing)packing);
            assert_int_equal(dc_block_open(path, &shape, &f), 0);
            assert_true(dc_block_file_rows(f) == rows[k]);
            assert_int_equal(dc_block_count(f), (rows[k] + 8191) / 8192);
            for (uint32_t b = dc_block_count(f); b-- > 0;) {
                assert_int_equal(dc_block_read(f, b, &v), 0);
                expect_block(&v, dc_block_at(f, b));
                assert_int_equal(v.column[WIDE].encoding, DC_PLAIN);
                if (v.rows > 5000) {
                    assert_int_equal(v.column[FEW].encoding, DC_DICT8);
                    assert_int_equal(v.column[MANY].encoding, DC_DICT16);
                    assert_int_equal(v.column[SMALL].encoding, DC_NARROW);
                }
            }
            dc_block_view_release(&v);
            dc_block_close(f);
            unlink(path);
            rt_free(path);
        }
}

/* A row of many bytes ends its block early; a reader sees no difference. */
static void large_rows(void **state)
{
    static const struct dc_block_column wide[] = {{4, 0, 1u << 20}, {8, 1, 0}};
    const struct dc_block_shape large = {5, 2, wide};
    char *path = rt_path_join(dir, "large.sfb");
    uint32_t n = 1u << 20;
    uint64_t *id = rt_xmalloc(n * sizeof(*id)), bytes;
    struct dc_block_writer *w;
    struct dc_block_view v = {0};
    struct dc_block_file *f;

    (void)state;
    for (uint32_t i = 0; i < n; i++)
        id[i] = rt_draw(SEED, i);
    assert_int_equal(dc_block_writer_create(path, &large, DC_BLOCK_LZ4, &w), 0);
    for (int i = 0; i < 20; i++) {
        dc_block_put(w, 0, &n, 1);
        dc_block_put(w, 1, id, n);
        assert_int_equal(dc_block_end_row(w), 0);
    }
    assert_int_equal(dc_block_writer_finish(w, &bytes), 0);
    dc_block_writer_destroy(w);
    assert_int_equal(dc_block_open(path, &large, &f), 0);
    assert_int_equal(dc_block_file_rows(f), 20);
    assert_true(dc_block_count(f) > 1);
    for (uint32_t b = 0; b < dc_block_count(f); b++) {
        assert_int_equal(dc_block_read(f, b, &v), 0);
        assert_int_equal(v.column[1].n, v.rows * n);
        assert_true(dc_vector_u64(&v.column[1], n - 1) == id[n - 1]);
    }
    dc_block_view_release(&v);
    dc_block_close(f);
    assert_int_equal(dc_block_writer_create(path, &large, DC_BLOCK_LZ4, &w), 0);
    for (int i = 0; i < 4; i++)
        dc_block_put(w, 1, id, n);
    assert_int_equal(dc_block_end_row(w), RT_ELIMIT);
    dc_block_writer_destroy(w);
    unlink(path);
    rt_free(path);
    rt_free(id);
}

/* What a file says of itself in any state: each block is as it was written, or RT_EDATA that names file and block. Returns
 * how many blocks are good; -1: the file does not open. */
static int look_at(const void *data, size_t size)
{
    struct dc_block_view v = {0};
    struct dc_block_file *f;
    int good = 0, err = dc_block_open_bytes("x.sfb", data, size, &shape, &f);

    if (err) {
        assert_true(err == RT_EDATA || err == RT_EUSAGE);
        assert_non_null(strstr(rt_err_text(), "x.sfb"));
        return -1;
    }
    for (uint32_t b = 0; b < dc_block_count(f); b++) {
        char words[64];

        err = dc_block_read(f, b, &v);
        snprintf(words, sizeof(words), "x.sfb: block %u (rows ", b);
        if (err && (err != RT_EDATA || !strstr(rt_err_text(), words)))
            fail_msg("%d, %s", err, rt_err_text());
        if (err)
            assert_int_equal(v.rows, 0);
        else
            expect_block(&v, dc_block_at(f, b));
        good += !err;
    }
    dc_block_view_release(&v);
    dc_block_close(f);
    return good;
}

/* Cut anywhere it does not open; a byte changed anywhere costs one block at most, or the file, never a wrong value. */
static void broken_files(void **state)
{
    enum { BLOCKS = 3 };
    uint64_t seen[BLOCKS + 2] = {0};

    (void)state;
    for (int packing = DC_BLOCK_RAW; packing <= DC_BLOCK_ZSTD; packing++) {
        char *path = rt_path_join(dir, "broken.sfb"), *text;
        size_t size;

        write_rows(path, 2 * 8192 + 100, (enum dc_block_packing)packing);
        assert_int_equal(rt_file_read(path, 4u << 20, &text, &size), 0);
        assert_int_equal(look_at(text, size), BLOCKS);
        for (uint64_t k = 0; k < 60; k++) {
            char *part = rt_xmalloc(size);
            size_t at = rt_below(rt_draw(SEED, k), size);

            memcpy(part, text, at);
            assert_int_equal(look_at(part, at), -1);
            rt_free(part);
            if (k % 4 == 0) /* the heads are a small part of the file */
                at %= 64 + 32 * (COLUMNS + 1);
            else if (k % 4 == 1)
                at = size - 1 - at % 128;
            text[at] = (char)(text[at] ^ (1 << k % 8));
            int good = look_at(text, size);
            assert_in_range(good + 1, 0, BLOCKS + 1);
            assert_true(good == -1 || good >= BLOCKS - 1);
            seen[good + 1]++;
            text[at] = (char)(text[at] ^ (1 << k % 8));
        }
        rt_free(text);
        unlink(path);
        rt_free(path);
    }
    assert_true(seen[0] > 0 && seen[BLOCKS] > 0 && seen[BLOCKS + 1] > 0);
}

/* Files of somebody else: one message each. */
static void other_files(void **state)
{
    static const struct dc_block_shape other = {78, COLUMNS, column};
    static const struct {
        const char *text, *want;
        int err;
    } row[] = {
        {"", "expected a file of `saffron-data-compose convert`", RT_EDATA},
        {"1\t2\t3\n", "expected a file of `saffron-data-compose convert`", RT_EDATA},
        {NULL, "made for other columns than data.yml and embedding.yml have now", RT_EUSAGE},
    };
    char *path = rt_path_join(dir, "other.sfb");
    struct dc_block_file *f;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        if (row[i].text)
            assert_int_equal(rt_file_write(path, row[i].text, strlen(row[i].text)), 0);
        else
            write_rows(path, 10, DC_BLOCK_LZ4);
        assert_int_equal(dc_block_open(path, row[i].text ? &shape : &other, &f), row[i].err);
        if (!strstr(rt_err_text(), row[i].want))
            fail_msg("%s", rt_err_text());
    }
    unlink(path);
    assert_int_equal(dc_block_open(path, &shape, &f), RT_EFILE);
    rt_free(path);
}

static void every_allocation_may_fail(void **state)
{
    char *path = rt_path_join(dir, "memory.sfb");
    struct dc_block_file *f;
    int err = RT_ENOMEM;

    (void)state;
    write_rows(path, 8192, DC_BLOCK_LZ4);
    assert_int_equal(dc_block_open(path, &shape, &f), 0);
    for (int nth = 0; err; nth++) {
        struct dc_block_view v = {0};

        rt_fault_alloc(nth);
        err = dc_block_read(f, 0, &v);
        bool hit = rt_fault_hit();
        rt_fault_alloc(-1);
        assert_int_equal(err, hit ? RT_ENOMEM : 0);
        assert_true(nth < 10);
        dc_block_view_release(&v);
    }
    dc_block_close(f);
    unlink(path);
    rt_free(path);
}

/* ---- converted jobs ---- */

static void put_file(const char *folder, const char *name, const char *text)
{
    char *path = rt_path_join(folder, name);

    assert_int_equal(rt_file_write(path, text, strlen(text)), 0);
    rt_free(path);
}

static struct rt_job *load(const char *folder)
{
    struct rt_job_source source = {.folder = folder};
    struct rt_job *job;

    if (rt_job_load(&source, &job) != 0)
        fail_msg("%s", rt_err_text());
    return job;
}

/* What training does before its first batch: counts of ids, mean and deviation. */
static struct dc_frequency *prepare(const struct dc_feed_conf *feed)
{
    const struct rt_job *job = feed->job;
    struct dc_feed_conf conf = *feed;
    struct dc_statistics *s;
    uint32_t n;
    int rc;

    conf.synthetic_rows = 3000;
    assert_int_equal(dc_statistics_create(&conf, &s), 0);
    dc_statistics_count_ids(s);
    while ((rc = dc_statistics_turn(s)) > 0)
        ;
    assert_int_equal(rc, 0);
    const struct wire_statistics *columns = dc_statistics_columns(s, &n);
    assert_int_equal(dc_statistics_apply(job, columns, n, feed->parser), 0);
    struct dc_frequency *frequent = dc_statistics_take_frequent(s);
    dc_parser_frequent(feed->parser, frequent);
    dc_statistics_destroy(s);
    return frequent;
}

/* batch id -> hash of all its bytes, of the composers 0 .. size-1 one after another. */
static uint32_t passes(const struct rt_job *job, bool evaluate, uint32_t size, struct rt_map *print)
{
    struct dc_synthetic *synthetic =
        job->data.format == RT_FORMAT_SYNTHETIC ? dc_synthetic_create(1) : NULL;
    uint32_t n = 0;

    for (uint32_t index = 0; index < size; index++) {
        struct dc_batcher_conf conf = {.feed = {.io = io,
                                                .job = job,
                                                .evaluate = evaluate,
                                                .synthetic = synthetic,
                                                .synthetic_rows = evaluate ? 700 : 3000},
                                       .index = index,
                                       .size = size,
                                       .epoch = 3};
        struct dc_batcher *batcher;
        struct dc_batch *batch;
        int rc;

        assert_int_equal(dc_parser_create(job, &conf.feed.parser), 0);
        struct dc_frequency *frequent = prepare(&conf.feed);
        assert_int_equal(dc_batcher_create(&conf, &batcher), 0);
        while ((rc = dc_batcher_turn(batcher, &batch)) > 0) {
            if (!batch)
                continue;
            assert_true(batch->digest == rt_hash_bytes(batch->ids->data, batch->ids->size));
            uint64_t hash = rt_hash_bytes_seed(batch->samples_payload->data,
                                               batch->samples_payload->size, batch->digest);
            hash = rt_hash_bytes_seed(batch->layout, 4 * job->n_features, hash);
            hash = rt_hash_bytes_seed(batch->n_ids, 4 * job->n_features, hash);
            rt_map_put(print, batch->id, hash ^ batch->samples ^ batch->key_bytes << 32);
            dc_batch_destroy(batch);
            n++;
        }
        if (rc)
            fail_msg("%s", rt_err_text());
        dc_batcher_destroy(batcher);
        dc_parser_destroy(conf.feed.parser);
        dc_frequency_destroy(frequent);
    }
    dc_synthetic_destroy(synthetic);
    return n;
}

static void expect_same(const struct rt_map *a, const struct rt_map *b, const char *name)
{
    uint64_t id, print, other;

    if (a->count != b->count)
        fail_msg("%s: %zu batches, not %zu", name, b->count, a->count);
    for (size_t i = 0; rt_map_next(a, &i, &id, &print);)
        if (!rt_map_get(b, id, &other) || other != print)
            fail_msg("%s: batch %llx differs", name, (unsigned long long)id);
}

#define TABLES "defaults: {dim: 4, optimizer: {type: sgd, learning_rate: 0.1}}\ntables: {u: {}}\n"
/* Where no list is cut, blocks are gathered column by column (columns.h). */
#define WHOLE TABLES "features: {u: {table: u, max_length: 6}, v: {table: u, max_length: 3}}\n"
#define TAIL                                                                                       \
    TABLES                                                                                         \
    "features: {u: {table: u, max_length: 6}, v: {table: u, max_length: 3, truncate: tail}}\n"
#define HEAD                                                                                       \
    TABLES                                                                                         \
    "features: {u: {table: u, max_length: 6}, v: {table: u, max_length: 3, truncate: head}}\n"
#define MODEL                                                                                      \
    "layers:\n  - {name: top, type: mlp, inputs: [features], sizes: [1]}\n"                        \
    "  - {name: loss, type: bce, inputs: [top]}\noptimizer: {type: sgd, learning_rate: 0.1}\n"
#define SMALL_PLAN "batch_size: 100\nblock_rows: 512\nshuffle_rows: 512\nsplits: 7\n"

static void plain_row(FILE *f, uint32_t i)
{
    fprintf(f, "%u\t%u\tx%u\ty%u\n", i % 2, i, i % 97, i % 1201);
}

static void list_row(FILE *f, uint32_t i)
{
    fprintf(f, "%u\t%u\t", i % 2, i);
    for (uint32_t k = 0; k < i % 6; k++)
        fprintf(f, "%st%u", k ? "|" : "", (i + k * k) % 41);
    fprintf(f, "\ty%u\tz%u\n", i % 1201, i % 7);
}

/* Weights of a list's ids, one in three without; a column of one id that has one, or none. */
static void weighted_row(FILE *f, uint32_t i)
{
    fprintf(f, "%u\t%u\t", i % 2, i);
    for (uint32_t k = 0; k < i % 6; k++)
        fprintf(f, k % 3 ? "%st%u:-%u.25" : "%st%u", k ? "|" : "", (i + k * k) % 41, i + k);
    fprintf(f, i % 5 ? "\ty%u\tz%u=0.5\n" : "\ty%u\tz%u\n", i % 1201, i % 7);
}

static void libsvm_weighted_row(FILE *f, uint32_t i)
{
    fprintf(f, "%u %u:1 %u:%g %u:1\n", i % 2, i % 31, i, i % 3 * 0.375, 7 + i % 5);
}

/* Lists, integers, empty fields, rare ids, clip, log1p, standardizing, weights, groups, keys. */
static void rich_row(FILE *f, uint32_t i)
{
    fprintf(f, "%u\t%u.%u\t%u\t", i % 2, i % 3, i % 7, i % 50 ? i % 11 : 1000000 + i);
    for (uint32_t k = 0; k < i % 5; k++)
        fprintf(f, "%st%u", k ? "|" : "", (i + k * k) % 41);
    fprintf(f, "\t%.3f\t%s%u\t%u\tkey%u\n", (double)i / 7 - 100, i % 6 ? "" : "-", i, i / 10,
            i * i);
}

/* One id or number in each column; some blocks have few distinct ones, some many. */
static void wide_row(FILE *f, uint32_t i)
{
    uint32_t few = i % 16384 < 8192 ? 100 : 100000;

    fprintf(f, "%u\t%u.5\tu%u\tx\t%llu\tz%u\t%d\t%u\t%u\n", i % 2, i % 3, i * 7 % few,
            i % 3 * 5000000000ull + i, i * 11 % few, (int)(i % 997) - 100, i % few, i / 10);
}

static void libsvm_row(FILE *f, uint32_t i)
{
    fprintf(f, "%u %u:1 %u:%u %u:1\n", i % 2, i % 31, i, i % 3 != 0, 7 + i % 5);
}

struct job_row {
    const char *name, *embedding, *data;
    uint32_t rows; /* of the training set, half as many in the other; 0: no files */
    void (*print_row)(FILE *f, uint32_t i);
};

static void write_text(const char *folder, const struct job_row *row)
{
    char *data =
        rt_xasprintf("%s%s", row->data, row->rows ? "train: [train.txt]\ntest: [test.txt]\n" : "");

    assert_int_equal(rt_mkdir_all(folder), 0);
    put_file(folder, "global.yml", "seed: 5\n");
    put_file(folder, "embedding.yml", row->embedding);
    put_file(folder, "model.yml", MODEL);
    put_file(folder, "data.yml", data);
    for (uint32_t set = 0; set < 2 && row->rows; set++) {
        char *path = rt_path_join(folder, set ? "test.txt" : "train.txt");
        FILE *f = fopen(path, "w");

        for (uint32_t k = 0; k < row->rows / (1 + set); k++)
            row->print_row(f, k * (1 + set) + set);
        fclose(f);
        rt_free(path);
    }
    rt_free(data);
}

static void compare(const char *text, const char *binary, const char *name)
{
    struct rt_job *was = load(text), *is = load(binary);

    assert_int_equal(is->data.format, RT_FORMAT_BINARY);
    for (int evaluate = 0; evaluate < 2; evaluate++) {
        struct rt_map of_text = {0}, one = {0}, three = {0};

        if (passes(was, evaluate, 1, &of_text) < 3)
            fail_msg("%s: too few batches", name);
        passes(is, evaluate, 1, &one);
        passes(is, evaluate, 3, &three);
        expect_same(&of_text, &one, name);
        expect_same(&of_text, &three, name);
        rt_map_release(&of_text);
        rt_map_release(&one);
        rt_map_release(&three);
    }
    rt_job_destroy(was);
    rt_job_destroy(is);
}

/* Jobs whose batches are the same of the text and of what convert makes of it. */
static const struct job_row whole[] = {
    {"plain", WHOLE,
     SMALL_PLAN "header: false\ncolumns: {y: label, n: dense, u: feature, v: feature}\n", 2100,
     plain_row},
    {"default plan", WHOLE,
     "batch_size: 1000\nheader: false\ncolumns: {y: label, n: dense, u: feature, v: feature}\n",
     20000, plain_row},
    {"blocks of two chunks, every kind of a column that is gathered", WHOLE,
     "batch_size: 300\nblock_rows: 16384\nsplits: 2\nheader: false\ncolumns:\n  y: label\n"
     "  w: weight\n  a: {feature: u}\n  i: ignore\n  b: {feature: v, integer: true}\n  c: "
     "{feature: u}\n"
     "  d: {kind: dense, transform: log1p, clip: [-5, 1000]}\n  e: dense\n  g: {kind: group}\n",
     40000, wide_row},
    {"batches over blocks", WHOLE,
     "batch_size: 9000\nsplits: 1\nheader: false\ncolumns: {y: label, n: dense, u: feature, v: "
     "feature}\n",
     40000, plain_row},
    {"no shuffle", WHOLE,
     "batch_size: 700\nshuffle: false\nheader: false\ncolumns: {y: label, n: dense, u: "
     "feature, "
     "v: feature}\n",
     20000, plain_row},
    {"rich", TAIL,
     SMALL_PLAN "header: false\ncolumns:\n  y: label\n  w: weight\n"
                "  a: {kind: feature, feature: u, integer: true, min_frequency: 3}\n"
                "  t: {kind: feature, feature: v, separator: \"|\", min_frequency: 2}\n"
                "  d: {kind: dense, clip: [-50, 150], transform: log1p, standardize: true}\n"
                "  e: {kind: dense, transform: log1p, clip: [-5, 1000]}\n"
                "  g: {kind: group, integer: true}\n  k: key\n",
     2100, rich_row},
    {"two columns of a feature that is cut", TAIL,
     SMALL_PLAN "header: false\ncolumns:\n  y: label\n  n: dense\n"
                "  a: {kind: feature, feature: v, separator: \"|\"}\n  b: {feature: v}\n  c: "
                "{feature: u}\n",
     2100, list_row},
    {"libsvm", WHOLE,
     SMALL_PLAN "format: libsvm\ncolumns:\n  0: {feature: u, min_frequency: 2}\n"
                "  1: {feature: v}\n  2: {feature: u}\n",
     2100, libsvm_row},
    {"weights of ids, of which the last are cut", TAIL,
     SMALL_PLAN "header: false\ncolumns:\n  y: label\n  n: dense\n"
                "  a: {kind: feature, feature: v, separator: \"|\", weight_separator: \":\"}\n"
                "  b: {feature: v}\n  c: {feature: u, weight_separator: \"=\"}\n",
     2100, weighted_row},
    {"weights of ids, of which the first are cut", HEAD,
     SMALL_PLAN
     "header: false\ncolumns:\n  y: label\n  n: dense\n"
     "  a: {kind: feature, feature: v, separator: \"|\", weight_separator: \":\"}\n"
     "  b: {feature: v}\n  c: {feature: u, weight_separator: \"=\", min_frequency: 100}\n",
     2100, weighted_row},
    {"one id in each column, some with weights", WHOLE,
     SMALL_PLAN "header: false\ncolumns:\n  y: label\n  n: dense\n  a: ignore\n"
                "  b: {feature: v}\n  c: {feature: u, weight_separator: \"=\"}\n",
     2100, weighted_row},
    {"libsvm with weights", WHOLE,
     SMALL_PLAN "format: libsvm\ncolumns:\n  0: {feature: u}\n"
                "  1: {feature: v, weight_separator: \":\"}\n  2: {feature: u}\n",
     2100, libsvm_weighted_row},
    {"synthetic", WHOLE,
     SMALL_PLAN "format: synthetic\nsynthetic: {rows: 3000, test_rows: 700}\n"
                "columns: {label: label, x1: {kind: dense, standardize: true}, "
                "x3: {kind: dense, transform: log1p}, "
                "c1: {feature: u}, c2: {feature: v}, c3: {feature: v}}\n",
     0, NULL},
};

/* Every batch of every set, by one composer and by three, of the text and of what convert makes of it. */
static void same_batches(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(whole); i++) {
        char *text = rt_xasprintf("%s/text%zu", dir, i);

        write_text(text, &whole[i]);
        char *binary = rt_xasprintf("%s/binary%zu", dir, i);
        char *argv[] = {"convert", "--config", text, "--out", binary, "--zstd", NULL};

        assert_int_equal(dc_convert(5 + (int)(i % 2), argv), 0);
        compare(text, binary, whole[i].name);
        rt_free(binary);
        rt_free(text);
    }
}

/* A value that is over float32 before it is standardized is a bad row of the text and of `convert`; what an earlier run of
 * `convert` has left of its list is not there twice. */
static void bad_rows(void **state)
{
    static const struct job_row row = {
        "bad rows", WHOLE,
        SMALL_PLAN "header: false\nmax_bad_ratio: 0.5\ncolumns:\n  y: label\n"
                   "  n: {kind: dense, standardize: true}\n  u: feature\n  v: feature\n",
        1, plain_row};
    char *text = rt_path_join(dir, "over"), *out = rt_path_join(dir, "over-binary"), *list;
    char *argv[] = {"convert", "--config", text, "--out", out, NULL};
    size_t size;

    (void)state;
    write_text(text, &row);
    for (int set = 0; set < 2; set++)
        put_file(text, set ? "test.txt" : "train.txt", "0\t1\tx\ty\n1\t1e60\tx\ty\n1\t3\tx\ty\n");
    struct rt_job *job = load(text);
    struct dc_parser *parser;
    assert_int_equal(dc_parser_create(job, &parser), 0);
    dc_parser_standardize(parser, 0, 0, 1e30);
    assert_int_equal(dc_parser_row(parser, "0\t-1e30\tx\ty", 11), 0);
    assert_true(dc_parser_view(parser)->dense[0] == -1);
    assert_int_equal(dc_parser_row(parser, "1\t1e60\tx\ty", 10), RT_EDATA);
    assert_string_equal(rt_err_text(), "n: 1e+60 is out of the range of float32");
    dc_parser_destroy(parser);
    rt_job_destroy(job);
    for (int run = 0; run < 2; run++) {
        static const char *const job_file[] = {"global.yml", "embedding.yml", "data.yml",
                                               "model.yml"};

        for (size_t i = 0; i < ARRAY_LEN(job_file);
             i++) { /* as if the run before had failed late */
            char *made = rt_path_join(out, job_file[i]);
            unlink(made);
            rt_free(made);
        }
        assert_int_equal(dc_convert(5, argv), 0);
        char *made = rt_path_join(out, "quarantine/data_compose-0.tsv");
        assert_int_equal(rt_file_read(made, 1u << 20, &list, &size), 0);
        uint32_t lines = 0;
        for (size_t i = 0; i < size; i++)
            lines += list[i] == '\n';
        assert_int_equal(lines, 2); /* one of each set */
        rt_free(list);
        rt_free(made);
    }
    rt_free(out);
    rt_free(text);
}

/* How many rows a pass will have is known from its first block on, and not a block too many. */
static void expected_rows(void **state)
{
    static const struct job_row row = {
        "expected", WHOLE,
        "batch_size: 1000\nheader: false\ncolumns: {y: label, n: dense, u: feature, v: feature}\n",
        40000, plain_row};
    char *text = rt_path_join(dir, "many"), *out = rt_path_join(dir, "many-binary");
    char *argv[] = {"convert", "--config", text, "--out", out, NULL};
    struct dc_batcher_conf conf = {.size = 1};
    struct dc_batcher *batcher;
    struct dc_batch *batch;

    (void)state;
    write_text(text, &row);
    assert_int_equal(dc_convert(5, argv), 0);
    struct rt_job *job = load(out);
    conf.feed = (struct dc_feed_conf){.io = io, .job = job};
    assert_int_equal(dc_parser_create(job, &conf.feed.parser), 0);
    assert_int_equal(dc_batcher_create(&conf, &batcher), 0);
    while (dc_batcher_turn(batcher, &batch) > 0) {
        double expected = dc_batcher_expected(batcher);

        if (batch && (expected < 36000 || expected > 44000))
            fail_msg("%g rows are expected", expected);
        dc_batch_destroy(batch);
    }
    dc_batcher_destroy(batcher);
    dc_parser_destroy(conf.feed.parser);
    rt_job_destroy(job);
    rt_free(out);
    rt_free(text);
}

static int set_up(void **state)
{
    (void)state;
    io = plain_io_create(64u << 20);
    temp_folder(dir);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    plain_io_destroy(io);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip),
        cmocka_unit_test(large_rows),
        cmocka_unit_test(broken_files),
        cmocka_unit_test(other_files),
        cmocka_unit_test(every_allocation_may_fail),
        cmocka_unit_test(same_batches),
        cmocka_unit_test(bad_rows),
        cmocka_unit_test(expected_rows),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
