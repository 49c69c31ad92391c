/* tests/unit/test_save.c -- an owner's rows to disk and back: every row once, bit for bit, whoever saves and whoever loads. What is not
 * loaded: test_load.c. */
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"
#include "tests/unit/save_bed.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <uv.h>
#include <cmocka.h>

#ifdef RT_DEBUG
#define TURN_MAX 100000000u /* ns; sanitizers take their time */
#define MANY     100000u
#else
#define TURN_MAX 10000000u
#define MANY     1000000u
#endif
#define ATTEMPTS 8

static void any_number_saves_any_number_loads(void **state)
{
    static const struct {
        uint32_t saves, loads;
    } row[] = {{1, 1}, {1, 3}, {4, 1}, {3, 4}};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct ebs_loaded all, one;
        uint64_t rows = 0;

        save_bed_save_of(row[i].saves);
        save_bed_open(row[i].loads); /* as one server of so many workers */
        if (ebs_load(save_bed.dir, false, save_bed.owner, save_bed.owners, &all) != 0)
            fail_msg("%s", rt_err_text());
        assert_int_equal(all.rows, 2 * SAVE_BED_ROWS);
        save_bed_check_rows();
        save_bed_close();
        save_bed_open(row[i].loads); /* as so many servers */
        for (uint32_t o = 0; o < save_bed.owners; o++) {
            assert_int_equal(ebs_load(save_bed.dir, false, &save_bed.owner[o], 1, &one), 0);
            assert_int_equal(one.files, all.files);
            rows += one.rows;
        }
        assert_int_equal(rows, 2 * SAVE_BED_ROWS);
        save_bed_check_rows();
        save_bed_close();
    }
}

/* A row that was loaded is as a new one but for its weights. */
static void state_is_initial(void **state)
{
    uint64_t id = save_bed_id(17);
    float row[EBS_DIM_MAX], zero[7] = {0};
    struct ebs_row got;

    (void)state;
    save_bed_open(1);
    save_bed_row(SAVE_BED_WIDE, id, row);
    assert_int_equal(ebs_table_put(save_bed.owner[0]->table[SAVE_BED_WIDE], id, row, NULL), 0);
    assert_true(ebs_table_get(save_bed.owner[0]->table[SAVE_BED_WIDE], id, &got));
    assert_memory_equal(got.weight, row, sizeof(zero));
    assert_memory_equal(got.state, zero, sizeof(zero));
    row[3] = 77.0f; /* again: in its place */
    assert_int_equal(ebs_table_put(save_bed.owner[0]->table[SAVE_BED_WIDE], id, row, NULL), 0);
    assert_true(ebs_table_get(save_bed.owner[0]->table[SAVE_BED_WIDE], id, &got));
    assert_memory_equal(got.weight, row, sizeof(zero));
    assert_int_equal(ebs_table_rows(save_bed.owner[0]->table[SAVE_BED_WIDE]), 1);
    assert_int_equal(ebs_table_counts(save_bed.owner[0]->table[SAVE_BED_WIDE])->created, 1);
    save_bed_close();
}

/* ---- optimizers' state ---- */

static void put_with_state(uint32_t rows, uint32_t n)
{
    float row[EBS_DIM_MAX], floats[EBS_DIM_MAX];

    for (uint32_t i = 0; i < rows; i++) {
        save_bed_row(SAVE_BED_WIDE, save_bed_id(i), row);
        save_bed_state(save_bed_id(i), n, floats);
        assert_int_equal(
            ebs_table_put(save_bed.owner[save_bed_owner_of(save_bed_id(i))]->table[SAVE_BED_WIDE],
                          save_bed_id(i), row, i % 2 ? floats : NULL),
            0);
        assert_int_equal(
            ebs_table_put(save_bed.owner[save_bed_owner_of(save_bed_id(i))]->table[SAVE_BED_WIDE],
                          save_bed_id(i), row, floats),
            0);
    }
}

/* Of every optimizer, by any number of owners; or it is left where it is. */
static void state_goes_with_its_rows(void **state)
{
    static const struct {
        enum rt_optimizer_kind kind;
        uint32_t floats, saves, loads;
        bool fresh;
    } row[] = {{RT_OPT_SGD, 0, 2, 3, false},   {RT_OPT_ADAGRAD, 7, 1, 3, false},
               {RT_OPT_ADAM, 14, 3, 1, false}, {RT_OPT_ROWWISE_ADAGRAD, 1, 2, 2, false},
               {RT_OPT_FTRL, 14, 2, 1, false}, {RT_OPT_ADAM, 14, 1, 2, true}};
    enum { N = 700 };
    struct ebs_loaded loaded;

    (void)state;
    save_bed.with_state = true;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        temp_folder(save_bed.dir);
        save_bed_table[SAVE_BED_WIDE].optimizer.kind = row[i].kind;
        save_bed_open(row[i].saves);
        put_with_state(N, row[i].floats);
        save_bed_save(save_bed.dir);
        for (uint32_t o = 0; o < save_bed.owners; o++)
            assert_int_equal(atomic_load(&save_bed.save[o].state), RT_SAVE_DONE);
        save_bed_close();
        save_bed_open(row[i].loads);
        if (ebs_load(save_bed.dir, row[i].fresh, save_bed.owner, save_bed.owners, &loaded) != 0)
            fail_msg("row %zu: %s", i, rt_err_text());
        assert_int_equal(loaded.rows, N);
        assert_int_equal(loaded.with_state, row[i].fresh ? 0 : N);
        save_bed_check_state(N, row[i].floats, row[i].fresh);
        save_bed_close();
    }
    save_bed.with_state = false;
    save_bed_table[SAVE_BED_WIDE].optimizer.kind = RT_OPT_ADAGRAD;
}

/* ---- what does not fit, what fails ---- */

/* Fewer owners, or others, have not room for all that was resident: what may be evicted is left out. */
static void surplus_is_left_out(void **state)
{
    struct ebs_loaded loaded;

    (void)state;
    save_bed_save_of(4);
    save_bed_table[SAVE_BED_HALF].eviction =
        (struct rt_eviction_conf){.kind = RT_EVICT_LRU, .rows = SAVE_BED_ROWS / 2};
    save_bed_open(1);
    if (ebs_load(save_bed.dir, false, save_bed.owner, 1, &loaded) != 0)
        fail_msg("%s", rt_err_text());
    assert_int_equal(ebs_table_rows(save_bed.owner[0]->table[SAVE_BED_HALF]), SAVE_BED_ROWS / 2);
    assert_int_equal(loaded.rows, SAVE_BED_ROWS + SAVE_BED_ROWS / 2);
    assert_int_equal(loaded.left_out, SAVE_BED_ROWS - SAVE_BED_ROWS / 2);
    save_bed_close();
    /* So is what a smaller server has no memory for. */
    save_bed_table[SAVE_BED_HALF].eviction = (struct rt_eviction_conf){.kind = RT_EVICT_LRU};
    save_bed.memory = 550 << 10;
    save_bed_open(1);
    if (ebs_load(save_bed.dir, false, save_bed.owner, 1, &loaded) != 0)
        fail_msg("%s", rt_err_text());
    assert_true(loaded.left_out > 0 && loaded.rows > SAVE_BED_ROWS);
    assert_int_equal(loaded.rows + loaded.left_out, 2 * SAVE_BED_ROWS);
    save_bed_close();
    save_bed_table[SAVE_BED_HALF].eviction = (struct rt_eviction_conf){0};
    save_bed_open(1);
    assert_int_equal(ebs_load(save_bed.dir, false, save_bed.owner, 1, &loaded), RT_EFULL);
    assert_non_null(strstr(rt_err_text(), "global.embedding_server.memory has no room for more"));
    save_bed_close();
    save_bed.memory = 0;
}

/* One part that cannot be written ends the save, and the next one begins anew. */
static void a_save_that_fails(void **state)
{
    char *nowhere = rt_path_join(save_bed.dir, "nowhere");

    (void)state;
    save_bed_open(2);
    save_bed_fill();
    save_bed_save(nowhere);
    for (uint32_t o = 0; o < 2; o++) {
        assert_int_equal(atomic_load(&save_bed.save[o].state), RT_SAVE_FAILED);
        assert_non_null(strstr(save_bed.save[o].error, "cannot create: No such file"));
    }
    assert_int_equal(rt_mkdir_all(nowhere), 0);
    save_bed_save(nowhere);
    assert_int_equal(atomic_load(&save_bed.save[0].state), RT_SAVE_DONE);
    assert_int_equal(atomic_load(&save_bed.save[1].state), RT_SAVE_DONE);
    /* Ended in the midst of it. */
    save_bed.save[0].state = RT_SAVE_WRITING;
    ebs_owner_save(save_bed.owner[0], &save_bed.save[0]);
    save_bed_close();
    assert_int_equal(atomic_load(&save_bed.save[0].state), RT_SAVE_FAILED);
    assert_string_equal(save_bed.save[0].error, "the embedding server stops");
    rt_free(nowhere);
}

/* ---- the loop ---- */

static uint64_t cpu_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static struct {
    uv_prepare_t end;
    uint64_t began, longest, n; /* ns of this thread's CPU */
} turns;

/* Called before each look at the sockets. */
static void on_turn_end(uv_prepare_t *handle)
{
    uint64_t now = cpu_ns();

    (void)handle;
    if (turns.began > 0 && now - turns.began > turns.longest)
        turns.longest = now - turns.began;
    turns.n++;
    turns.began = now;
}

/* @return ns of the longest turn */
static uint64_t save_many(void)
{
    float row[7] = {1.0f, -1.0f};

    save_bed_open(1);
    for (uint32_t i = 0; i < MANY; i++)
        assert_int_equal(
            ebs_table_put(save_bed.owner[0]->table[SAVE_BED_WIDE], rt_draw(5, i), row, NULL), 0);
    turns.began = turns.longest = turns.n = 0;
    assert_int_equal(uv_prepare_init(rt_loop_uv(save_bed.loop), &turns.end), 0);
    assert_int_equal(uv_prepare_start(&turns.end, on_turn_end), 0);
    save_bed_save(save_bed.dir);
    uv_close((uv_handle_t *)&turns.end, NULL);
    assert_int_equal(atomic_load(&save_bed.save[0].state), RT_SAVE_DONE);
    assert_int_equal(atomic_load(&save_bed.save[0].bytes), MANY * (8 + 7 * 4));
    print_message("%u rows in %llu turns, the longest %.2f ms of CPU\n", MANY,
                  (unsigned long long)turns.n, 1e-6 * (double)turns.longest);
    save_bed_close();
    return turns.longest;
}

/* Requests get in between the pieces of a large table. A host that takes the CPU away makes one turn of an attempt longer; what is too
 * long by itself is so in each. */
static void a_save_takes_turns(void **state)
{
    int attempt = 1;

    (void)state;
    save_bed.part = (size_t)8 << 20;
    while (save_many() >= TURN_MAX)
        assert_true(attempt++ < ATTEMPTS);
    assert_true(turns.n > MANY / 100000u);
    save_bed.part = 0;
}

static void names_of_files(void **state)
{
    static const struct {
        const char *table, *name;
    } row[] = {{"user", "d/table.user.1.20.safetensors"},
               {"A-z_9", "d/table.A-z_9.1.20.safetensors"},
               {"a.0/b c\xc3\xa4", "d/table.a%2E0%2Fb%20c%C3%A4.1.20.safetensors"}};
    char table[129] = {0}, *path[2];

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        path[0] = rt_save_table_path("d", row[i].table, 1, 20);
        assert_string_equal(path[0], row[i].name);
        rt_free(path[0]);
    }
    memset(table, '.', 128); /* 384 bytes as %2E */
    path[0] = rt_save_table_path("d", table, 65535, UINT32_MAX);
    table[127] = ',';
    path[1] = rt_save_table_path("d", table, 65535, UINT32_MAX);
    assert_true(strlen(path[0]) < 255 - 20);
    assert_string_not_equal(path[0], path[1]);
    rt_free(path[0]);
    rt_free(path[1]);
}
int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_of_files),
        cmocka_unit_test_setup(any_number_saves_any_number_loads, save_bed_folder),
        cmocka_unit_test(state_is_initial),
        cmocka_unit_test(state_goes_with_its_rows),
        cmocka_unit_test_setup(surplus_is_left_out, save_bed_folder),
        cmocka_unit_test_setup(a_save_that_fails, save_bed_folder),
        cmocka_unit_test_setup(a_save_takes_turns, save_bed_folder),
    };
    return cmocka_run_group_tests_name("save", tests, NULL, NULL);
}
