/* tests/unit/save_bed.c -- see save_bed.h. */
#include "tests/unit/save_bed.h"

#include "runtime/base/err.h"
#include "runtime/base/rand.h"
#include "runtime/wire/member.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

struct save_bed save_bed;

struct rt_table_conf save_bed_table[SAVE_BED_TABLES] = {
    [SAVE_BED_WIDE] = {.name = "user/\xc3\xa4.x",
                       .dim = 7,
                       .init = {.kind = RT_INIT_CONSTANT, .value = 0.5},
                       .optimizer = {.kind = RT_OPT_ADAGRAD, .learning_rate = 1.0, .eps = 1e-8},
                       .admission = {.kind = RT_ADMIT_COUNT, .count = 3, .sketch_bytes = 1 << 16}},
    [SAVE_BED_HALF] = {.name = "item",
                       .dim = 5,
                       .dtype = WIRE_BF16,
                       .init = {.kind = RT_INIT_CONSTANT, .value = 0.0},
                       .optimizer = {.kind = RT_OPT_SGD, .learning_rate = 1.0}},
    [SAVE_BED_NONE] = {.name = "empty",
                       .dim = 1,
                       .init = {.kind = RT_INIT_CONSTANT, .value = 0.0},
                       .optimizer = {.kind = RT_OPT_SGD, .learning_rate = 1.0}},
};

/* ---- owners ---- */

void save_bed_open(uint32_t n)
{
    save_bed.job.table = save_bed_table;
    save_bed.job.n_tables = SAVE_BED_TABLES;
    save_bed.job.global.heartbeat_ms = 1000;
    save_bed.job.global.dead_ms = 5000;
    save_bed.owners = n;
    assert_int_equal(rt_shard_map_init(&save_bed.shards, n, 1), 0);
    assert_int_equal(rt_loop_create(&(struct rt_loop_conf){.name = "test"}, &save_bed.loop), 0);
    for (uint32_t o = 0; o < n; o++) {
        struct ebs_owner_conf conf = {.io = rt_loop_io(save_bed.loop),
                                      .job = &save_bed.job,
                                      .shards = &save_bed.shards,
                                      .owner = o,
                                      .greeting = &wire_greeting,
                                      .listen = "tcp:127.0.0.1:0",
                                      .memory = save_bed.memory,
                                      .save_bytes = save_bed.part ? save_bed.part : SAVE_BED_PART};
        if (ebs_owner_create(&conf, &save_bed.owner[o]) != 0)
            fail_msg("%s", rt_err_text());
    }
}

void save_bed_close(void)
{
    for (uint32_t o = 0; o < save_bed.owners; o++)
        ebs_owner_destroy(save_bed.owner[o]);
    rt_loop_destroy(save_bed.loop);
    save_bed.owners = 0;
}

int save_bed_folder(void **state)
{
    (void)state;
    temp_folder(save_bed.dir);
    return 0;
}

/* ---- rows ---- */

uint64_t save_bed_id(uint32_t i)
{
    return i < 2 ? (uint64_t) - (int64_t)i : rt_draw(3, i); /* 0 and the largest too */
}

void save_bed_row(int table, uint64_t id, float *out)
{
    for (uint32_t d = 0; d < save_bed_table[table].dim; d++) /* 8 bits: exact in bfloat16 too */
        out[d] = (float)(int)rt_below(rt_draw(id, d), 255) / 64.0f - 1.0f;
}

uint32_t save_bed_owner_of(uint64_t id)
{
    return rt_shard_owner(&save_bed.shards, rt_shard_of(id));
}

void save_bed_fill(void)
{
    float row[EBS_DIM_MAX];

    for (int t = 0; t < SAVE_BED_NONE; t++)
        for (uint32_t i = 0; i < SAVE_BED_ROWS; i++) {
            save_bed_row(t, save_bed_id(i), row);
            assert_int_equal(
                ebs_table_put(save_bed.owner[save_bed_owner_of(save_bed_id(i))]->table[t],
                              save_bed_id(i), row, NULL),
                0);
        }
}

/* Every id's row is at its owner, which has no other, and nobody else has one. */
void save_bed_check_rows(void)
{
    float want[EBS_DIM_MAX], got[EBS_DIM_MAX];

    for (int t = 0; t < SAVE_BED_TABLES; t++) {
        uint64_t rows = 0;

        for (uint32_t o = 0; o < save_bed.owners; o++)
            rows += ebs_table_rows(save_bed.owner[o]->table[t]);
        assert_int_equal(rows, t == SAVE_BED_NONE ? 0 : SAVE_BED_ROWS);
        for (uint32_t i = 0; i < rows; i++) {
            uint64_t id = save_bed_id(i);

            save_bed_row(t, id, want);
            assert_int_equal(
                ebs_table_lookup(save_bed.owner[save_bed_owner_of(id)]->table[t], &id, 1, got), 1);
            assert_memory_equal(got, want, save_bed_table[t].dim * sizeof(float));
        }
    }
}

void save_bed_state(uint64_t id, uint32_t n, float *out)
{
    for (uint32_t i = 0; i < n; i++)
        out[i] = (float)rt_below(rt_draw(id, 100 + i), 1000) / 7.0f;
}

void save_bed_check_state(uint32_t rows, uint32_t n, bool fresh)
{
    float want[EBS_DIM_MAX] = {0};
    struct ebs_row got;

    for (uint32_t i = 0; i < rows; i++) {
        uint64_t id = save_bed_id(i);

        if (!fresh)
            save_bed_state(id, n, want);
        assert_true(
            ebs_table_get(save_bed.owner[save_bed_owner_of(id)]->table[SAVE_BED_WIDE], id, &got));
        assert_memory_equal(got.state, want, n * sizeof(*want));
    }
}

/* ---- saving ---- */

static void look(void *arg)
{
    bool writing = false;

    (void)arg;
    for (uint32_t o = 0; o < save_bed.owners; o++)
        writing |= atomic_load(&save_bed.save[o].state) == RT_SAVE_WRITING;
    if (writing)
        rt_timer_start(rt_loop_io(save_bed.loop), &save_bed.look, 1000000);
    else
        rt_loop_stop(save_bed.loop);
}

void save_bed_save(const char *dir)
{
    for (uint32_t o = 0; o < save_bed.owners; o++) {
        memset(&save_bed.save[o], 0, sizeof(save_bed.save[o]));
        save_bed.save[o].dir = dir;
        save_bed.save[o].id = save_bed.id;
        save_bed.save[o].with_state = save_bed.with_state;
        atomic_init(&save_bed.save[o].state, RT_SAVE_WRITING);
        ebs_owner_save(save_bed.owner[o], &save_bed.save[o]);
    }
    save_bed.look = (struct rt_timer){.fire = look};
    rt_timer_start(rt_loop_io(save_bed.loop), &save_bed.look, 0);
    assert_int_equal(rt_loop_run(save_bed.loop), 0);
    rt_timer_stop(rt_loop_io(save_bed.loop), &save_bed.look);
}

void save_bed_save_of(uint32_t owners)
{
    uint64_t files = 0, bytes = 0;

    save_bed_open(owners);
    save_bed_fill();
    save_bed_save(save_bed.dir);
    for (uint32_t o = 0; o < owners; o++) {
        if (atomic_load(&save_bed.save[o].state) != RT_SAVE_DONE)
            fail_msg("%s", save_bed.save[o].error);
        files += atomic_load(&save_bed.save[o].files);
        bytes += atomic_load(&save_bed.save[o].bytes);
    }
    assert_int_equal(
        bytes, SAVE_BED_ROWS * (8 + 7 * 4) + SAVE_BED_ROWS * (8 + 5 * 2) +
                   (save_bed.with_state ? SAVE_BED_ROWS * 7 * 4 : 0)); /* WIDE has Adagrad's */
    assert_true(files > SAVE_BED_ROWS * 36 / SAVE_BED_PART);
    save_bed_close();
}
