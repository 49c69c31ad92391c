/* tests/unit/test_restore.c -- owners that come back: the rows of any checkpoint on any number of owners, bit for bit, or a reason. */
#include "embedding_server/chain.h"
#include "embedding_server/serve.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"
#include "runtime/checkpoint/store.h"
#include "runtime/job/batch_id.h"
#include "tests/unit/restore_bed.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#define IDS 1500u

enum { WIDE, HALF, AGED, COUNTED, TABLES };

static struct rt_table_conf tables[TABLES] = {
    [WIDE] = {.name = "user/\xc3\xa4.x",
              .dim = 7,
              .init = {.kind = RT_INIT_CONSTANT, .value = 0.5},
              .optimizer = {.kind = RT_OPT_ADAGRAD, .learning_rate = 1.0, .eps = 1e-8}},
    [HALF] = {.name = "item",
              .dim = 5,
              .dtype = WIRE_BF16,
              .optimizer = {.kind = RT_OPT_SGD, .learning_rate = 1.0}},
    [AGED] = {.name = "aged",
              .dim = 2,
              .optimizer = {.kind = RT_OPT_ADAM, .learning_rate = 0.1, .eps = 1e-8},
              .eviction = {.kind = RT_EVICT_LFU, .rows = 4 * IDS, .half_life = 50}},
    [COUNTED] = {.name = "counted",
                 .dim = 3,
                 .optimizer = {.kind = RT_OPT_ROWWISE_ADAGRAD, .learning_rate = 0.1, .eps = 1e-8},
                 .admission = {.kind = RT_ADMIT_COUNT, .count = 2, .sketch_bytes = 1 << 18},
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
    job.name = "test";
    job.global.embedding_server_memory = 0;
    return 0;
}

/* Some ids of all tables, two of three of them again and again. */
static void train(uint64_t round)
{
    uint64_t id[IDS / 3];

    for (uint32_t t = 0; t < TABLES; t++) {
        for (size_t i = 0; i < ARRAY_LEN(id); i++) {
            uint64_t at = rt_below(rt_draw(round + 100 * t, i), i % 3 ? IDS / 4 : IDS);

            id[i] = at < 2 ? (uint64_t)0 - at : rt_draw(77, at); /* 0 and the largest too */
        }
        restore_bed_update(&bed, t, id, ARRAY_LEN(id), round);
    }
}

static void restored(const char *name, uint32_t skipped)
{
    struct ebs_restored out;

    if (restore_bed_restore(&bed, 0, bed.owners, &out) != 0)
        fail_msg("%s", rt_err_text());
    assert_string_equal(out.name, name);
    assert_int_equal(out.skipped, skipped);
    assert_int_equal(out.rows, restore_bed_rows(&bed));
    assert_int_equal(out.left_out, 0);
}

static void remove_some(uint64_t seed, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        uint64_t id = rt_draw(77, rt_below(rt_draw(seed, i), IDS));

        for (uint32_t t = 0; t < TABLES; t++)
            ebs_table_remove(restore_bed_table(&bed, t, id), id);
    }
}

/* ---- rows ---- */

static void any_number_of_owners(void **test)
{
    static const uint32_t owners[] = {3, 5, 2, 1, 8};
    uint64_t digest, rows;
    char name[32];

    (void)test;
    restore_bed_open(&bed, 1);
    for (uint64_t round = 1; round < 12; round++)
        train(round);
    digest = restore_bed_digest(&bed);
    rows = restore_bed_rows(&bed);
    assert_true(rows > IDS * 2);
    restore_bed_write(&bed, "first", true, 10, NULL, 0);
    snprintf(name, sizeof(name), "first");
    for (size_t i = 0; i < ARRAY_LEN(owners); i++) {
        restore_bed_open(&bed, owners[i]);
        restored(name, 0);
        assert_int_equal(restore_bed_digest(&bed), digest);
        assert_int_equal(restore_bed_rows(&bed), rows);
        for (uint32_t o = 0; o < bed.owners; o++)
            for (uint32_t t = 0; t < TABLES; t++) {
                struct ebs_row row;

                for (uint32_t at = 0; ebs_table_next(bed.owner[o]->table[t], &at, &row);)
                    assert_ptr_equal(restore_bed_table(&bed, t, row.id), bed.owner[o]->table[t]);
            }
        snprintf(name, sizeof(name), "of%u", owners[i]);
        restore_bed_write(&bed, name, true, 10, NULL, 0);
    }
}

/* One server of two, whose owners know nothing of the others'. */
static void a_server_takes_its_shards(void **test)
{
    struct ebs_restored out;
    uint64_t digest, rows;

    (void)test;
    restore_bed_open(&bed, 3);
    for (uint64_t round = 1; round < 5; round++)
        train(round);
    digest = restore_bed_digest(&bed);
    rows = restore_bed_rows(&bed);
    restore_bed_write(&bed, "a", true, 10, NULL, 0);
    restore_bed_open(&bed, 3);
    assert_int_equal(restore_bed_restore(&bed, 0, 3, &out), 0);
    assert_false(out.counts_left_out);
    restore_bed_open(&bed, 4);
    assert_int_equal(restore_bed_restore(&bed, 0, 2, &out), 0);
    assert_true(out.counts_left_out); /* a quarter of the sketch is no third of it */
    assert_int_equal(out.rows, restore_bed_rows(&bed));
    assert_true(out.rows < rows);
    assert_int_equal(ebs_table_rows(bed.owner[2]->table[WIDE]), 0);
    assert_int_equal(restore_bed_restore(&bed, 2, 2, &out), 0);
    assert_int_equal(restore_bed_rows(&bed), rows);
    assert_int_equal(restore_bed_digest(&bed), digest);
}

/* Ids that went, that came again, that went and came between two cuts. */
static void increments_are_the_last_table(void **test)
{
    uint64_t digest, sum, again[20];
    char name[16];

    (void)test;
    restore_bed_open(&bed, 3);
    for (uint64_t round = 1; round < 8; round++)
        train(round);
    restore_bed_write(&bed, "full", true, 3, NULL, 0);
    for (uint64_t k = 0; k < 3; k++) {
        remove_some(k, 200);
        train(20 + k);
        remove_some(k + 50, 100);
        for (uint32_t i = 0; i < ARRAY_LEN(again); i++)
            again[i] = rt_draw(77, rt_below(rt_draw(k, i), IDS));
        snprintf(name, sizeof(name), "inc%llu", (unsigned long long)k);
        restore_bed_write(&bed, name, false, 4 + k, again, ARRAY_LEN(again));
    }
    digest = restore_bed_digest(&bed);
    sum = restore_bed_sum(&bed);
    restore_bed_open(&bed, 3);
    restored("inc2", 0);
    assert_int_equal(restore_bed_digest(&bed), digest);
    assert_int_equal(restore_bed_sum(&bed), sum); /* ages and counts too */
    restore_bed_open(&bed, 5);
    restored("inc2", 0);
    assert_int_equal(restore_bed_digest(&bed), digest);
    restore_bed_open(&bed, 1);
    restored("inc2", 0);
    assert_int_equal(restore_bed_digest(&bed), digest);
}

/* What the owners write themselves: a full one, and increments with rows that went and came. */
static void what_a_cut_writes_comes_back(void **test)
{
    uint64_t digest, sum;

    (void)test;
    restore_bed_open(&bed, 3);
    for (uint64_t round = 1; round < 8; round++)
        train(round);
    restore_bed_cut(&bed, "full", true);
    for (uint64_t k = 0; k < 3; k++) {
        remove_some(k, 200);
        train(20 + k);
        remove_some(k + 50, 100);
        restore_bed_cut(&bed, k == 0 ? "inc0" : k == 1 ? "inc1" : "inc2", false);
    }
    restore_bed_pass(&bed, 1200); /* upkeep has come by, and no row was due to go */
    digest = restore_bed_digest(&bed);
    sum = restore_bed_sum(&bed);
    train(90); /* after the cut */
    restore_bed_open(&bed, 3);
    restored("inc2", 0);
    assert_int_equal(restore_bed_digest(&bed), digest);
    assert_int_equal(restore_bed_sum(&bed), sum);
    assert_int_equal(bed.owner[0]->cutter.latest, bed.attempt);
    restore_bed_open(&bed, 5);
    restored("inc2", 0);
    assert_int_equal(restore_bed_digest(&bed), digest);
    restore_bed_cut(&bed, "of5", true);
    restore_bed_open(&bed, 2);
    restored("of5", 0);
    assert_int_equal(restore_bed_digest(&bed), digest);
}

static void every_kind_of_row(void **test)
{
    static const uint32_t dims[] = {1, 5, 16};
    static struct rt_table_conf conf = {.name = "t",
                                        .optimizer = {.learning_rate = 0.1, .eps = 1e-8}};
    static struct rt_job of;

    (void)test;
    of = job;
    of.n_tables = 1;
    of.table = &conf;
    for (uint32_t k = 0; k < 5 * 3 * 4; k++) {
        uint64_t id[200], sum, digest;

        conf.optimizer.kind = k % 5;
        conf.dtype = k / 5 % 3;
        conf.dim = dims[k % 3];
        conf.eviction = (struct rt_eviction_conf){.kind = k / 15 % 3, .half_life = 10};
        conf.eviction.rows = conf.eviction.kind == RT_EVICT_NONE ? 0 : 1000;
        conf.ttl_seconds = k / 15 == 3 ? 1000 : 0;
        restore_bed_end(&bed);
        restore_bed_begin(&bed, &of);
        restore_bed_open(&bed, 2);
        for (uint64_t round = 1; round < 6; round++) {
            for (size_t i = 0; i < ARRAY_LEN(id); i++)
                id[i] = rt_draw(round % 2, i);
            restore_bed_update(&bed, 0, id, ARRAY_LEN(id), round);
        }
        restore_bed_write(&bed, "a", true, 1, NULL, 0);
        sum = restore_bed_sum(&bed);
        digest = restore_bed_digest(&bed);
        restore_bed_open(&bed, 2);
        restored("a", 0);
        assert_int_equal(restore_bed_sum(&bed), sum);
        restore_bed_open(&bed, 3);
        restored("a", 0);
        assert_int_equal(restore_bed_digest(&bed), digest);
    }
}

/* ---- policies ---- */

/* A table that is full goes on as if nothing had been: who goes first, who is let in, when rows expire. */
static void policies_go_on(void **test)
{
    enum { ROUNDS = 600 };
    static struct rt_table_conf conf[2] = {
        {.name = "lru",
         .dim = 1,
         .optimizer = {.kind = RT_OPT_SGD, .learning_rate = 0.1},
         .admission = {.kind = RT_ADMIT_COUNT, .count = 2, .sketch_bytes = 1 << 14},
         .eviction = {.kind = RT_EVICT_LRU, .rows = 40}},
        {.name = "lfu",
         .dim = 1,
         .optimizer = {.kind = RT_OPT_SGD, .learning_rate = 0.1},
         .eviction = {.kind = RT_EVICT_LFU, .rows = 40, .half_life = 100}},
    };
    static struct rt_job of;
    uint64_t sum[2], rows[2];

    (void)test;
    of = job;
    of.n_tables = 2;
    of.table = conf;
    restore_bed_end(&bed);
    restore_bed_begin(&bed, &of);
    for (int pass = 0; pass < 2; pass++) {
        if (pass == 0)
            restore_bed_open(&bed, 2);
        for (uint64_t round = 1; round <= ROUNDS; round++) {
            uint64_t id = rt_below(rt_draw(4, round), 1 + rt_below(rt_draw(5, round), 120));

            if (pass == 1 && round <= ROUNDS / 2)
                continue; /* as the checkpoint has them */
            for (uint32_t t = 0; t < 2; t++)
                restore_bed_update(&bed, t, &id, 1, round);
            if (pass == 0 && round == ROUNDS / 2)
                restore_bed_write(&bed, "a", true, 1, NULL, 0);
        }
        sum[pass] = restore_bed_sum(&bed);
        rows[pass] = restore_bed_rows(&bed);
        restore_bed_open(&bed, 2);
        restored("a", 0);
    }
    assert_int_equal(rows[0], 80); /* both are full */
    assert_int_equal(rows[1], rows[0]);
    assert_int_equal(sum[1], sum[0]);
}

/* Owners that become one keep the ages of their rows, by the clock of each. */
static void ages_are_kept(void **test)
{
    static struct rt_table_conf conf = {.name = "t",
                                        .dim = 1,
                                        .optimizer = {.kind = RT_OPT_SGD, .learning_rate = 0.1},
                                        .eviction = {.kind = RT_EVICT_LRU, .rows = 1000}};
    static struct rt_job of;
    uint64_t sum;

    (void)test;
    of = job;
    of.n_tables = 1;
    of.table = &conf;
    restore_bed_end(&bed);
    restore_bed_begin(&bed, &of);
    restore_bed_open(&bed, 3);
    for (uint64_t i = 0; i < 90; i++) {
        ebs_table_tick(bed.owner[i % 2]->table[0], i); /* they do not have as many ticks */
        restore_bed_update(&bed, 0, &(uint64_t){rt_draw(3, i)}, 1, i);
    }
    sum = restore_bed_sum(&bed);
    restore_bed_write(&bed, "a", true, 1, NULL, 0);
    restore_bed_open(&bed, 1);
    restored("a", 0);
    assert_int_equal(restore_bed_sum(&bed), sum);
    restore_bed_open(&bed, 4);
    restored("a", 0);
    assert_int_equal(restore_bed_sum(&bed), sum);
}

static void full_tables(void **test)
{
    static struct rt_table_conf conf = {
        .name = "t", .dim = 1, .optimizer = {.kind = RT_OPT_SGD, .learning_rate = 0.1}};
    static struct rt_job of;
    struct ebs_restored out;
    uint64_t id[300];

    (void)test;
    of = job;
    of.n_tables = 1;
    of.table = &conf;
    restore_bed_end(&bed);
    restore_bed_begin(&bed, &of);
    for (int lru = 0; lru < 2; lru++) {
        conf.eviction = (struct rt_eviction_conf){
            .kind = lru ? RT_EVICT_LRU : RT_EVICT_NONE, .rows = 300, .half_life = 1};
        restore_bed_open(&bed, 1);
        for (size_t i = 0; i < ARRAY_LEN(id); i++)
            id[i] = rt_draw(3, i);
        restore_bed_update(&bed, 0, id, ARRAY_LEN(id), 1);
        restore_bed_write(&bed, lru ? "b" : "a", true, 1, NULL, 0);
        restore_bed_open(&bed, 7); /* shares that are even, rows that are not */
        if (lru) {
            assert_int_equal(restore_bed_restore(&bed, 0, 7, &out), 0);
            assert_true(out.left_out > 0 && out.left_out < 60);
            assert_int_equal(out.rows + out.left_out, 300);
        } else {
            assert_int_equal(restore_bed_restore(&bed, 0, 7, &out), RT_ELIMIT);
            assert_non_null(strstr(rt_err_text(), "expected more workers"));
        }
        assert_int_equal(rt_store_remove(bed.dir, lru ? "b" : "a"), 0);
    }
}

static void the_filter_is_the_ledger(void **test)
{
    (void)test;
    restore_bed_open(&bed, 2);
    train(1);
    restore_bed_write(&bed, "full", true, 10, NULL, 0);
    train(2);
    restore_bed_write(&bed, "inc", false, 20, NULL, 0);
    restore_bed_open(&bed, 3);
    restored("inc", 0);
    for (uint32_t o = 0; o < 3; o++) {
        for (uint64_t i = 0; i < 100; i++)
            assert_int_equal(ebs_filter_seen(bed.owner[o]->filter, rt_batch_id(0, i)),
                             i < 20 || i == 22);
        assert_false(ebs_filter_seen(bed.owner[o]->filter, rt_batch_id(1, 0)));
        assert_int_equal(ebs_owner_stats(bed.owner[o])->step, 21);
        assert_int_equal(
            ebs_owner_stats(bed.owner[o])->rows,
            ebs_table_rows(bed.owner[o]->table[0]) + ebs_table_rows(bed.owner[o]->table[1]) +
                ebs_table_rows(bed.owner[o]->table[2]) + ebs_table_rows(bed.owner[o]->table[3]));
    }
}

/* ---- what is not whole ---- */

/* A full one, an increment, a full one, an increment; digests of each. */
static void write_four(uint64_t digest[4])
{
    static const char *const name[] = {"a", "b", "c", "d"};

    restore_bed_open(&bed, 2);
    for (uint64_t k = 0; k < 4; k++) {
        train(1 + 2 * k);
        remove_some(k, 50);
        train(2 + 2 * k);
        restore_bed_write(&bed, name[k], k % 2 == 0, 10 * (k + 1), NULL, 0);
        digest[k] = restore_bed_digest(&bed);
    }
    restore_bed_open(&bed, 3);
}

static void the_newest_that_is_whole(void **test)
{
    static const struct {
        const char *what, *name, *file;
        long at;
        size_t taken;
        uint32_t skipped;
    } row[] = {
        {"nothing", NULL, NULL, 0, 3, 0},
        {"a row", "d", "rows.00000", 5000, 2, 1},
        {"the end", "d", "rows.00001", -5, 2, 1},
        {"the head", "d", "rows.00001", 30, 2, 1},
        {"the manifest", "d", "manifest.json", 100, 2, 1},
        {"what it goes on from", "c", "rows.00001", 9000, 1, 2},
        {"the manifest of that", "c", "manifest.json", 100, 1, 2},
        {"an older one", "a", "rows.00000", 5000, 3, 0},
    };
    static const char *const name[] = {"a", "b", "c", "d"};

    (void)test;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        uint64_t digest[4];

        restore_bed_end(&bed);
        restore_bed_begin(&bed, &job);
        write_four(digest);
        if (row[i].name)
            restore_bed_damage(&bed, row[i].name, row[i].file, row[i].at);
        print_message("%s\n", row[i].what);
        restored(name[row[i].taken], row[i].skipped);
        assert_int_equal(restore_bed_digest(&bed), digest[row[i].taken]);
        for (uint64_t b = 0; b < 50; b++)
            assert_int_equal(ebs_filter_seen(bed.owner[2]->filter, rt_batch_id(0, b)),
                             b < 10 * (row[i].taken + 1) || b == 10 * (row[i].taken + 1) + 2);
    }
}

/* Only files of one's own shards are opened. */
static void others_files_are_not_read(void **test)
{
    struct ebs_restored out;
    uint64_t digest[4];

    (void)test;
    write_four(digest);
    restore_bed_damage(&bed, "d", "rows.00001", 5000);
    restore_bed_open(&bed, 4);
    assert_int_equal(restore_bed_restore(&bed, 0, 2, &out), 0);
    assert_string_equal(out.name, "d");
    assert_int_equal(restore_bed_restore(&bed, 2, 2, &out), 0);
    assert_string_equal(out.name, "c");
}

static void a_file_in_anothers_place(void **test)
{
    char from[TEMP_PATH_MAX + 64], to[TEMP_PATH_MAX + 64];
    uint64_t digest[4];

    (void)test;
    write_four(digest);
    snprintf(from, sizeof(from), "%s/b/rows.00000", bed.dir);
    snprintf(to, sizeof(to), "%s/d/rows.00000", bed.dir);
    assert_int_equal(rename(from, to), 0);
    restored("c", 1);
    assert_int_equal(restore_bed_digest(&bed), digest[2]);
}

static void none_can_be_used(void **test)
{
    struct ebs_restored out;
    uint64_t digest[4];

    (void)test;
    restore_bed_open(&bed, 2);
    assert_int_equal(restore_bed_restore(&bed, 0, 2, &out), 0); /* a new job */
    assert_string_equal(out.name, "");

    write_four(digest);
    restore_bed_damage(&bed, "a", "rows.00000", 5000);
    restore_bed_damage(&bed, "c", "rows.00000", 5000);
    assert_int_equal(restore_bed_restore(&bed, 0, 3, &out), RT_EUSAGE);
    assert_non_null(strstr(rt_err_text(), "none of its 4 checkpoints can be used"));
    assert_non_null(strstr(rt_err_text(), "another folder to begin anew in"));
    assert_int_equal(out.skipped, 4);
    assert_int_equal(restore_bed_rows(&bed), 0);
    assert_false(ebs_filter_seen(bed.owner[0]->filter, rt_batch_id(0, 0)));
}

static void of_another_job(void **test)
{
    struct ebs_restored out;
    uint64_t digest[4];

    (void)test;
    write_four(digest);
    job.name = "other";
    assert_int_equal(restore_bed_restore(&bed, 0, 3, &out), RT_EUSAGE);
    assert_non_null(strstr(rt_err_text(), "is of the job 'test', this is 'other'"));
    job.name = "test";
    job.config_hash++;
    assert_int_equal(restore_bed_restore(&bed, 0, 3, &out), RT_EUSAGE);
    job.config_hash--;
    assert_int_equal(restore_bed_rows(&bed), 0);
    restored("d", 0);
}

/* ---- memory ---- */

static void begin_of_thread(void *ctx, uint32_t owner)
{
    __atomic_fetch_or((uint32_t *)ctx, 1u << owner, __ATOMIC_RELAXED);
}

static void threads_are_told(void **test)
{
    struct ebs_restored out;
    uint32_t told = 0;

    (void)test;
    restore_bed_open(&bed, 3);
    train(1);
    restore_bed_write(&bed, "a", true, 1, NULL, 0);
    restore_bed_open(&bed, 3);
    assert_int_equal(ebs_restore(&(struct ebs_restore){.dir = bed.dir,
                                                       .job = &job,
                                                       .owner = bed.owner,
                                                       .n = 3,
                                                       .begin = begin_of_thread,
                                                       .ctx = &told},
                                 &out),
                     0);
    assert_int_equal(told, 7);
}

/* The list, the manifests, the filters: on this thread. */
static void memory_fails_before_and_after(void **test)
{
    uint64_t digest[4];
    bool failed = true;

    (void)test;
    write_four(digest);
    for (int64_t nth = 0; failed; nth++) {
        struct ebs_restored out;
        int err;

        restore_bed_open(&bed, 2);
        rt_fault_alloc(nth);
        err = restore_bed_restore(&bed, 0, 2, &out);
        failed = rt_fault_hit();
        rt_fault_alloc(-1);
        if (!err) /* a file that could not be read is passed over */
            assert_int_equal(restore_bed_digest(&bed),
                             digest[out.name[0] == '\0' ? 0 : out.name[0] - 'a']);
        else
            assert_true(failed && (err == RT_ENOMEM || err == RT_EUSAGE || err == RT_EFILE));
    }
    assert_int_equal(restore_bed_digest(&bed), digest[3]);
}

/* An owner's part: on threads of their own otherwise. */
static void memory_fails_while_rows_come(void **test)
{
    struct rt_store_list list;
    uint64_t digest[4];
    bool failed = true;
    size_t at[RT_STORE_CHAIN_MAX];
    const struct rt_manifest *manifest[2];
    struct ebs_chain chain = {.dir = bed.dir, .job = &job, .manifest = manifest, .n = 2};

    (void)test;
    write_four(digest);
    assert_int_equal(rt_store_list(bed.dir, &list), 0);
    assert_int_equal(rt_store_chain(&list, 0, at, &chain.n), 0);
    assert_int_equal(chain.n, 2);
    for (size_t i = 0; i < 2; i++)
        manifest[i] = list.at[at[i]].manifest;
    for (int64_t nth = 0; failed; nth++) {
        struct rt_rowfile_table sums[2][TABLES] = {0};
        struct ebs_chain_sum sum[2] = {{.table = sums[0]}, {.table = sums[1]}};
        struct ebs_chain_loaded loaded = {.sum = sum};
        int err;

        restore_bed_open(&bed, 1);
        rt_fault_alloc(nth);
        err = ebs_chain_load(&chain, bed.owner[0], &loaded);
        failed = rt_fault_hit();
        rt_fault_alloc(-1);
        assert_true(err == 0 || (failed && (err == RT_ENOMEM || err == RT_EFILE)));
        if (!err)
            assert_int_equal(restore_bed_digest(&bed), digest[3]);
    }
    rt_store_list_release(&list);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(any_number_of_owners),
        TEST(a_server_takes_its_shards),
        TEST(increments_are_the_last_table),
        TEST(what_a_cut_writes_comes_back),
        TEST(every_kind_of_row),
        TEST(policies_go_on),
        TEST(ages_are_kept),
        TEST(full_tables),
        TEST(the_filter_is_the_ledger),
        TEST(the_newest_that_is_whole),
        TEST(others_files_are_not_read),
        TEST(a_file_in_anothers_place),
        TEST(none_can_be_used),
        TEST(of_another_job),
        TEST(threads_are_told),
        TEST(memory_fails_before_and_after),
        TEST(memory_fails_while_rows_come),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
