/* tests/unit/test_comeback.c -- a restore while the folder changes, and an owner after it: checkpoints that go while they are read, an
 * increment to the one that it came back from, no more memory than it had. */
#include "embedding_server/cut_write.h"
#include "embedding_server/serve.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"
#include "runtime/checkpoint/store.h"
#include "tests/unit/restore_bed.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#define IDS 1500u

enum { PLAIN, AGED, TABLES };

static struct rt_table_conf tables[TABLES] = {
    [PLAIN] = {.name = "plain",
               .dim = 7,
               .optimizer = {.kind = RT_OPT_ADAGRAD, .learning_rate = 1.0, .eps = 1e-8}},
    [AGED] = {.name = "aged",
              .dim = 3,
              .dtype = WIRE_BF16,
              .optimizer = {.kind = RT_OPT_ROWWISE_ADAGRAD, .learning_rate = 0.1, .eps = 1e-8},
              .admission = {.kind = RT_ADMIT_COUNT, .count = 2, .sketch_bytes = 1 << 16},
              .eviction = {.kind = RT_EVICT_LFU, .rows = 4 * IDS, .half_life = 50},
              .ttl_seconds = 3600},
};

static struct rt_job job = {.name = "test",
                            .n_tables = TABLES,
                            .table = tables,
                            .global = {.seed = 9, .heartbeat_ms = 1000, .dead_ms = 5000}};
static struct restore_bed bed;

static int begin(void **state)
{
    (void)state;
    restore_bed_begin(&bed, &job);
    return 0;
}

static int end(void **state)
{
    (void)state;
    restore_bed_end(&bed);
    return 0;
}

/* Some ids of all tables, two of three of them again and again. */
static void train(uint64_t round)
{
    uint64_t id[IDS / 3];

    for (uint32_t t = 0; t < TABLES; t++) {
        for (size_t i = 0; i < ARRAY_LEN(id); i++)
            id[i] = rt_draw(77, rt_below(rt_draw(round + 100 * t, i), i % 3 ? IDS / 4 : IDS));
        restore_bed_update(&bed, t, id, ARRAY_LEN(id), round);
    }
}

static void remove_some(uint64_t seed, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        uint64_t id = rt_draw(77, rt_below(rt_draw(seed, i), IDS));

        for (uint32_t t = 0; t < TABLES; t++)
            ebs_table_remove(restore_bed_table(&bed, t, id), id);
    }
}

static void restored(const char *name)
{
    struct ebs_restored out;

    if (restore_bed_restore(&bed, 0, bed.owners, &out) != 0)
        fail_msg("%s", rt_err_text());
    assert_string_equal(out.name, name);
    assert_int_equal(out.rows, restore_bed_rows(&bed));
}

/* ---- it goes while it is read ---- */

static struct {
    char name[32][16]; /* the next to go, from the last on */
    int n;
    bool files_only; /* its manifest stays */
} going;

/* When it has been chosen, and before a file of it is opened. */
static void take_away(void *ctx, uint32_t owner)
{
    const char *name;

    (void)ctx, (void)owner;
    if (going.n == 0)
        return;
    name = going.name[--going.n];
    if (going.files_only) {
        char *path = rt_xasprintf("%s/%s/rows.00000", bed.dir, name);

        assert_int_equal(unlink(path), 0);
        rt_free(path);
    } else {
        assert_int_equal(rt_store_remove(bed.dir, name), 0);
    }
}

static int restore_going(struct ebs_restored *out)
{
    return ebs_restore(
        &(struct ebs_restore){
            .dir = bed.dir, .job = &job, .owner = bed.owner, .n = bed.owners, .begin = take_away},
        out);
}

static uint64_t write_some(int n)
{
    uint64_t digest = 0;

    restore_bed_open(&bed, 1);
    going.n = 0;
    going.files_only = false;
    for (int k = 0; k < n; k++) {
        char name[16];

        snprintf(name, sizeof(name), "c%d", k);
        train((uint64_t)k + 1);
        restore_bed_write(&bed, name, true, 10, NULL, 0);
        if (k == 0)
            digest = restore_bed_digest(&bed);
        else
            snprintf(going.name[going.n++], sizeof(going.name[0]), "c%d", k);
    }
    restore_bed_open(&bed, 1);
    return digest;
}

static void one_that_goes_is_not_the_end(void **state)
{
    struct ebs_restored out;
    uint64_t digest = write_some(4);

    (void)state;
    if (restore_going(&out) != 0)
        fail_msg("%s", rt_err_text());
    assert_string_equal(out.name, "c0");
    assert_int_equal(out.skipped, 0); /* what is there now was not passed over */
    assert_int_equal(restore_bed_digest(&bed), digest);
}

/* What it goes on from went, and a newer one is there by then. */
static void what_is_there_then_is_taken(void **state)
{
    struct ebs_restored out;
    uint64_t digest = write_some(1);

    (void)state;
    restore_bed_open(&bed, 1);
    restored("c0");
    train(2);
    restore_bed_write(&bed, "inc", false, 10, NULL, 0);
    snprintf(going.name[going.n++], sizeof(going.name[0]), "inc");
    restore_bed_open(&bed, 1);
    assert_int_equal(restore_going(&out), 0);
    assert_string_equal(out.name, "c0");
    assert_int_equal(restore_bed_digest(&bed), digest);
}

static void all_of_them_go(void **state)
{
    struct ebs_restored out;

    (void)state;
    (void)write_some(12);
    assert_int_equal(restore_going(&out), RT_EFILE);
    assert_non_null(strstr(rt_err_text(), "8 checkpoints went one after the other"));
    assert_int_equal(restore_bed_rows(&bed), 0);
}

/* A file is missing, and its manifest is not: nobody has removed the checkpoint. */
static void a_file_that_is_lost_is_an_error(void **state)
{
    struct ebs_restored out;

    (void)state;
    (void)write_some(2);
    going.files_only = true;
    assert_int_equal(restore_going(&out), RT_EFILE);
    assert_non_null(strstr(rt_err_text(), "/c1/rows.00000"));
}

/* ---- after it ---- */

static int cut_alone(uint64_t base)
{
    return ebs_cut_make(
        bed.owner[0], &(struct wire_cut){.attempt = bed.attempt + 1, .name = "none", .base = base});
}

static void an_increment_from_there_on(void **state)
{
    uint64_t digest, sum;

    (void)state;
    restore_bed_open(&bed, 3);
    for (uint64_t round = 1; round < 8; round++)
        train(round);
    restore_bed_cut(&bed, "full", true);
    train(20);
    remove_some(1, 100);
    restore_bed_cut(&bed, "inc0", false);
    train(30); /* lost */
    restore_bed_open(&bed, 3);
    restored("inc0");
    assert_int_equal(ebs_table_changed(bed.owner[0]->table[PLAIN]), 0);
    restore_bed_cut(&bed, "inc1", false); /* nothing has changed */
    for (uint32_t o = 0; o < 3; o++)
        assert_int_equal(bed.owner[o]->cutter.cut->rows, 0);
    train(40);
    remove_some(2, 200);
    restore_bed_cut(&bed, "inc2", false);
    for (uint32_t o = 0; o < 3; o++)
        assert_true(bed.owner[o]->cutter.cut->rows > 0);
    digest = restore_bed_digest(&bed);
    sum = restore_bed_sum(&bed);
    restore_bed_open(&bed, 3);
    restored("inc2");
    assert_int_equal(restore_bed_digest(&bed), digest);
    assert_int_equal(restore_bed_sum(&bed), sum);
    restore_bed_open(&bed, 2);
    restored("inc2");
    assert_int_equal(restore_bed_digest(&bed), digest);
    assert_int_equal(cut_alone(bed.attempt), RT_ESTALE); /* the files are other owners' */
    assert_non_null(strstr(rt_err_text(), "since attempt 0 (0: none)"));
}

static void not_from_another_one(void **state)
{
    uint64_t newest;

    (void)state;
    restore_bed_open(&bed, 1);
    train(1);
    restore_bed_cut(&bed, "a", true);
    train(2);
    restore_bed_cut(&bed, "b", true);
    newest = bed.attempt;
    restore_bed_damage(&bed, "b", "rows.00000", 5000);
    restore_bed_open(&bed, 1);
    restored("a");
    assert_int_equal(cut_alone(newest), RT_ESTALE);
}

/* ---- memory ---- */

/* Rows that come back take what they took before they went. */
static void memory_is_as_before(void **state)
{
    static const uint32_t counts[] = {10, 1000, 30000, 120000};
    static struct rt_table_conf conf = {
        .name = "t",
        .dim = 8,
        .optimizer = {.kind = RT_OPT_ADAGRAD, .learning_rate = 0.1, .eps = 1e-8}};
    static struct rt_job of;
    uint64_t id[1000];

    (void)state;
    of = job;
    of.n_tables = 1;
    of.table = &conf;
    for (size_t c = 0; c < ARRAY_LEN(counts); c++) {
        struct ebs_table_bytes before, after;
        uint32_t n = counts[c];

        restore_bed_end(&bed);
        restore_bed_begin(&bed, &of);
        restore_bed_open(&bed, 1);
        for (uint32_t at = 0; at < n; at += (uint32_t)ARRAY_LEN(id)) {
            for (uint32_t i = 0; i < ARRAY_LEN(id); i++)
                id[i] = rt_draw(5, at + i);
            restore_bed_update(&bed, 0, id, n - at < ARRAY_LEN(id) ? n - at : ARRAY_LEN(id), 1);
        }
        before = ebs_table_bytes(bed.owner[0]->table[0]);
        restore_bed_write(&bed, "a", true, 1, NULL, 0);
        restore_bed_open(&bed, 1);
        restored("a");
        after = ebs_table_bytes(bed.owner[0]->table[0]);
        print_message("%u rows: %zu + %zu + %zu + %zu bytes, were %zu + %zu + %zu + %zu\n", n,
                      after.rows, after.index, after.slack, after.allocator, before.rows,
                      before.index, before.slack, before.allocator);
        assert_int_equal(after.rows, before.rows);
        assert_true(after.index <= before.index);
        assert_true(after.slack <= before.slack);
        assert_true(after.allocator <= before.allocator + (128u << 10));
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(one_that_goes_is_not_the_end),
        TEST(what_is_there_then_is_taken),
        TEST(all_of_them_go),
        TEST(a_file_that_is_lost_is_an_error),
        TEST(an_increment_from_there_on),
        TEST(not_from_another_one),
        TEST(memory_is_as_before),
    };

    return cmocka_run_group_tests_name("comeback", tests, NULL, NULL);
}
