/* tests/unit/test_cut_buffer.c -- what a cut takes: room for the copies of a batch of many tables, the memory that it was given and no
 * more, and no time at its instant, however large the sketches of admission are, nor when it is given up, however many rows there are.
 * The owner is asked by plain calls; its loop runs only to bring a cut to its end. */
#include "embedding_server/cut_write.h"
#include "embedding_server/serve.h"
#include "embedding_server/table_inner.h"
#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/mem.h"
#include "tests/lib/temp.h"
#include "tests/unit/owner_bed.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define TABLES 200u
#define ROWS   6000u /* of table 0; the others have one each */
#define MIB    ((size_t)1 << 20)

static struct {
    char dir[TEMP_PATH_MAX], name[TABLES][8];
    struct rt_table_conf table[TABLES];
    struct rt_job job;
    struct owner_bed bed;
    struct ebs_owner *owner;
    struct rt_timer look;
    uint64_t attempt;
} now;

static int set_up(void **state)
{
    char *folder;

    (void)state;
    memset(&now, 0, sizeof(now));
    temp_folder(now.dir);
    folder = rt_path_join(now.dir, "c");
    assert_int_equal(rt_mkdir_all(folder), 0);
    rt_free(folder);
    return 0;
}

static void open_owner(uint32_t tables, const struct rt_table_conf *conf, uint64_t buffer)
{
    for (uint32_t t = 0; t < tables; t++) {
        snprintf(now.name[t], sizeof(now.name[t]), "t%u", t);
        now.table[t] = *conf;
        now.table[t].name = now.name[t];
    }
    now.job = (struct rt_job){.n_tables = tables, .table = now.table, .global.seed = 1};
    now.job.global.mode = RT_MODE_HYBRID;
    now.job.global.checkpoint.buffer = buffer;
    owner_bed_open(&now.bed, &(struct owner_bed_conf){.job = &now.job, .checkpoint_dir = now.dir});
    now.owner = now.bed.owner;
}

static int tear_down(void **state)
{
    (void)state;
    owner_bed_close(&now.bed);
    return 0;
}

static struct ebs_cut *cut(void)
{
    const struct wire_cut m = {.attempt = ++now.attempt, .name = "c"};

    if (ebs_cut_make(now.owner, &m) != 0)
        fail_msg("%s", rt_err_text());
    return now.owner->cutter.cut;
}

static void look(void *arg)
{
    const struct ebs_cut *one = arg;

    if (one->state == EBS_CUT_WRITING || one->working)
        rt_timer_start(rt_loop_io(now.bed.loop), &now.look, 1000000);
    else
        rt_loop_stop(now.bed.loop);
}

static void finish(struct ebs_cut *one)
{
    now.look = (struct rt_timer){.fire = look, .arg = one, .impl = now.look.impl};
    rt_timer_start(rt_loop_io(now.bed.loop), &now.look, 0);
    assert_int_equal(rt_loop_run(now.bed.loop), 0);
    rt_timer_stop(rt_loop_io(now.bed.loop), &now.look);
    assert_int_equal(one->state, EBS_CUT_DONE);
}

static void stop(void *arg)
{
    rt_loop_stop(arg);
}

/* What is due, and some more. */
static void turn_once(void)
{
    now.look = (struct rt_timer){.fire = stop, .arg = now.bed.loop, .impl = now.look.impl};
    rt_timer_start(rt_loop_io(now.bed.loop), &now.look, 100000);
    assert_int_equal(rt_loop_run(now.bed.loop), 0);
}

static void put(uint32_t table, uint64_t id)
{
    float weight[EBS_DIM_MAX] = {1.0f};

    assert_int_equal(ebs_table_put(now.owner->table[table], id, weight, NULL), 0);
}

/* One id of each table but the first: is it let in, and has what it changes room then? */
static bool touch_all(void)
{
    static const uint64_t id = 7;
    static const float grad = 1.0f;
    static uint32_t table[TABLES - 1], n_ids[TABLES - 1];
    static const uint64_t *ids[TABLES - 1];
    static const void *grads[TABLES - 1];
    struct ebs_part part = {.m = {.n_tables = TABLES - 1,
                                  .table = table,
                                  .n_ids = n_ids,
                                  .learning_rate = 1,
                                  .world = 1,
                                  .step = 1},
                            .id = ids,
                            .grad = grads},
                    *alone = &part;

    for (uint32_t t = 0; t < TABLES - 1; t++) {
        table[t] = t + 1;
        n_ids[t] = 1;
        ids[t] = &id;
        grads[t] = &grad;
    }
    if (!ebs_cut_admits(now.owner, &alone, 1))
        return false;
    assert_int_equal(ebs_apply_parts(&now.owner->applier, &alone, 1, false, 0), 0);
    return true;
}

static void many_tables_beside_a_full_buffer(void **state)
{
    static const struct rt_table_conf conf = {
        .dim = 1, .optimizer = {.kind = RT_OPT_SGD, .learning_rate = 0.1}};
    unsigned admitted = 0, refused = 0;

    (void)state;
    open_owner(TABLES, &conf, 0);
    for (uint64_t id = 0; id < ROWS; id++)
        put(0, id);
    for (uint32_t t = 1; t < TABLES; t++)
        put(t, 7);
    for (uint64_t copies = 4500; copies < 5340; copies += 13) {
        struct ebs_cut *one = cut();
        size_t room;

        for (uint64_t id = 0; id < copies; id++)
            put(0, id);
        assert_false(one->buf.overflow);
        room = ebs_rowbuf_room(&one->buf);
        if (touch_all()) {
            assert_int_equal(one->buf.kept, copies + TABLES - 1);
            admitted++;
        } else {
            assert_true(room < 2 * TABLES * ebs_table_row_bytes(now.owner->table[0]) + 4096);
            refused++;
        }
        if (one->buf.overflow)
            fail_msg("%llu rows: a batch was let in, and its copies had no room",
                     (unsigned long long)copies);
        finish(one);
    }
    print_message("%u admitted, %u wait\n", admitted, refused);
    assert_true(admitted > 5 && refused > 5);
}

/* The longest rows that so small a buffer is for: pieces become shorter, not the buffer longer. */
static void no_more_memory_than_was_given(void **state)
{
    static const struct rt_table_conf conf = {
        .dim = 256,
        .optimizer = {.kind = RT_OPT_ADAM, .learning_rate = 0.1, .eps = 1e-8},
        .eviction = {.kind = RT_EVICT_LRU, .rows = 2 * ROWS},
        .admission = {.kind = RT_ADMIT_COUNT, .count = 2, .sketch_bytes = 4 * MIB}};
    struct ebs_cut *one;

    (void)state;
    open_owner(2, &conf, MIB);
    for (uint64_t id = 0; id < ROWS / 4; id++)
        put(0, id);
    one = cut();
    assert_true(one->buf.n_blocks * (one->buf.block_bytes + sizeof(struct ebs_rowbuf_block)) <=
                MIB);
    for (uint32_t t = 0; t < 2; t++)
        assert_true(one->part[t].policy_bytes < 8192);
    assert_in_range(one->piece_rows, 16, ebs_piece_rows(now.owner->table[0]));
    assert_true(one->piece_bytes <= ebs_rowbuf_size(&one->buf) / 4);
    assert_int_equal(now.owner->turn.applier.piece_rows, one->piece_rows);
    finish(one);
    assert_int_equal(now.owner->turn.applier.piece_rows, 0);
    assert_int_equal(one->table[0].rows, ROWS / 4);
}

/* Nothing of a sketch is copied at the instant, so nobody waits for that. */
static void sketches_take_no_time(void **state)
{
    static const struct rt_table_conf conf = {
        .dim = 1,
        .optimizer = {.kind = RT_OPT_SGD, .learning_rate = 0.1},
        .admission = {.kind = RT_ADMIT_COUNT, .count = 2, .sketch_bytes = 64 * MIB}};
    float grad[256];
    uint64_t id[256];
    struct ebs_cut *one;
    uint64_t took = 0;

    (void)state;
    open_owner(4, &conf, MIB);
    for (size_t i = 0; i < ARRAY_LEN(id); i++) {
        id[i] = 1000 * i;
        grad[i] = 1.0f;
    }
    for (int again = 0; again < 3; again++) {
        struct ebs_applied applied = {0};

        ebs_table_apply(
            now.owner->table[3],
            &(struct ebs_update){
                .id = id, .grad = grad, .n = ARRAY_LEN(id), .lr = 1, .step = 1, .window = 1},
            &applied);
        if (again == 0) {
            took = rt_now_ns();
            one = cut();
            took = rt_now_ns() - took;
        }
        assert_true(ebs_cut_admits_piece(now.owner, true));
        if (again == 1)
            assert_int_equal(one->buf.kept, 256); /* the lines that were counted in */
    }
    print_message("256 MiB of sketches: cut in %.3f ms\n", (double)took * 1e-6);
    finish(one);
    assert_int_equal(one->table[3].rows, 0); /* none of them had a row then */
    assert_true(one->bytes > 256 * 72 && one->bytes < 65536);
}

/* Rows are let go in slices, or by the next cut; which is whole either way. */
static void many_rows_take_no_time(void **state)
{
    static const struct rt_table_conf conf = {
        .dim = 1, .optimizer = {.kind = RT_OPT_SGD, .learning_rate = 0.1}};
    const char *wanted = getenv("TEST_CUT_ROWS"); /* to measure */
    uint64_t rows = wanted ? strtoull(wanted, NULL, 10) : 600000, took, next, end;

    (void)state;
    open_owner(1, &conf, MIB);
    for (uint64_t id = 0; id < rows; id++)
        put(0, id);
    const struct ebs_slab *slab = &now.owner->table[0]->slab;
    for (int slices = 0; slices < 2; slices++) {
        struct ebs_cut *one = cut();

        put(0, rows / 2);
        assert_int_equal(one->buf.kept, 1);
        took = rt_now_ns();
        ebs_cut_give_up(one, "a test");
        took = rt_now_ns() - took;
        assert_int_equal(slab->cut_end, (rows + 63) / 64 * 64);
        put(0, rows / 2 + 1); /* nobody wants what it was */
        end = rt_now_ns() + 60 * RT_S;
        while (slices && slab->cut_end > 0 && rt_now_ns() < end)
            turn_once();
        assert_int_equal(!!slab->cut_end, !slices);
        next = rt_now_ns();
        one = cut();
        next = rt_now_ns() - next;
        print_message("%llu rows: given up in %.3f ms, cut again %s in %.3f ms\n",
                      (unsigned long long)rows, (double)took * 1e-6, slices ? "later" : "at once",
                      (double)next * 1e-6);
        finish(one);
        assert_int_equal(one->table[0].rows, rows);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(many_tables_beside_a_full_buffer),
        TEST(no_more_memory_than_was_given),
        TEST(sketches_take_no_time),
        TEST(many_rows_take_no_time),
    };

    return cmocka_run_group_tests_name("cut_buffer", tests, NULL, NULL);
}
