/* tests/unit/cut_bed.c -- see cut_bed.h. */
#include "tests/unit/cut_bed.h"

#include "embedding_server/serve.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"
#include "runtime/checkpoint/rowfile.h"
#include "runtime/job/batch_id.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

struct cut_bed cut_bed;
struct cut_bed_hold cut_bed_hold;

static const struct rt_table_conf tables[CUT_BED_TABLES] = {
    [CUT_BED_WIDE] = {.name = "user",
                      .dim = 16,
                      .init = {.kind = RT_INIT_CONSTANT, .value = 0.5},
                      .optimizer = {.kind = RT_OPT_ADAGRAD, .learning_rate = 0.1, .eps = 1e-8},
                      .admission = {.kind = RT_ADMIT_COUNT, .count = 2, .sketch_bytes = 1 << 16}},
    [CUT_BED_HALF] = {.name = "item",
                      .dim = 5,
                      .dtype = WIRE_BF16,
                      .init = {.kind = RT_INIT_CONSTANT, .value = 0.0},
                      .optimizer = {.kind = RT_OPT_SGD, .learning_rate = 0.1},
                      .eviction = {.kind = RT_EVICT_LRU, .rows = CUT_BED_ROWS - 1000}},
    [CUT_BED_NONE] = {.name = "empty",
                      .dim = 1,
                      .init = {.kind = RT_INIT_CONSTANT, .value = 0.0},
                      .optimizer = {.kind = RT_OPT_SGD, .learning_rate = 0.1}},
};

/* ---- asking ---- */

static void read_reply(struct cut_bed_answer *answer, const struct rt_frame *reply)
{
    struct wire_cut_reply cut = {0};
    struct rt_arena *arena;
    int err = 0;

    assert_int_equal(rt_arena_create(1 << 20, &arena), 0);
    if (answer->method == WIRE_CUT)
        err = wire_cut_reply_unpack(reply->message, reply->header.message_size, arena, &cut);
    else if (answer->method == WIRE_AWAIT_CUT)
        err = wire_await_cut_reply_unpack(reply->message, reply->header.message_size, arena,
                                          &answer->awaited);
    assert_int_equal(err, 0);
    answer->rows = cut.rows;
    if (answer->method == WIRE_AWAIT_CUT) {
        assert_int_equal(answer->awaited.n_tables, CUT_BED_TABLES);
        memcpy(answer->table, answer->awaited.table, sizeof(answer->table));
        snprintf(answer->file, sizeof(answer->file), "%s", answer->awaited.file);
    }
    rt_arena_destroy(arena);
}

static void on_answer(void *arg, int err, const struct rt_frame *reply)
{
    struct cut_bed_answer *answer = arg;

    answer->done = true;
    answer->err = err;
    if (err)
        snprintf(answer->text, sizeof(answer->text), "%s", rt_err_text());
    else
        read_reply(answer, reply);
    if (--cut_bed.wanted == 0)
        rt_loop_stop(cut_bed.owner.loop);
}

static struct cut_bed_answer *ask(uint32_t asker, uint16_t method, uint64_t batch_id,
                                  struct wire_out *out, const struct rt_piece *pieces, size_t n)
{
    struct cut_bed_answer *answer = &cut_bed.answer[cut_bed.asked++ % CUT_BED_ANSWERS];

    *answer = (struct cut_bed_answer){.method = method};
    owner_bed_ask(&cut_bed.owner, asker, method, batch_id, out, pieces, n, on_answer, answer);
    return answer;
}

void cut_bed_run(int n)
{
    cut_bed.wanted += n;
    if (cut_bed.wanted > 0)
        rt_loop_run(cut_bed.owner.loop);
}

struct cut_bed_answer *cut_bed_cut_of(uint32_t asker, const struct wire_cut *m)
{
    struct wire_out out = {0};
    struct cut_bed_answer *answer;

    assert_int_equal(wire_cut_pack(m, &out), 0);
    answer = ask(asker, WIRE_CUT, 0, &out, NULL, 0);
    cut_bed_run(1);
    return answer;
}

struct cut_bed_answer *cut_bed_make(uint64_t attempt, uint64_t base)
{
    return cut_bed_cut_of(CUT_BED_TRAINER, &(struct wire_cut){.attempt = attempt,
                                                              .step = cut_bed.step,
                                                              .name = "c",
                                                              .base = base,
                                                              .age = cut_bed.step});
}

/* Beside a ledger with which the trainers have finished so many batches of split 0. */
struct cut_bed_answer *cut_bed_cut_with(uint64_t attempt, uint64_t finished)
{
    const struct wire_split_ledger ledger = {.stepped_low = finished, .finished_low = finished};
    struct wire_await_phase_reply phase = {
        .phase = 1, .kind = WIRE_PHASE_TRAIN, .n_ledger = 1, .ledger = &ledger};
    struct wire_out out = {0};
    struct cut_bed_answer *answer;

    assert_int_equal(wire_await_phase_reply_pack(&phase, &out), 0);
    answer = cut_bed_cut_of(CUT_BED_TRAINER, &(struct wire_cut){.attempt = attempt,
                                                                .step = cut_bed.step,
                                                                .name = "c",
                                                                .age = cut_bed.step,
                                                                .ledger = out.data,
                                                                .ledger_size = out.size});
    wire_out_release(&out);
    return answer;
}

struct cut_bed_answer *cut_bed_await(uint64_t attempt)
{
    struct wire_out out = {0};

    assert_int_equal(wire_await_cut_pack(&(struct wire_await_cut){attempt}, &out), 0);
    return ask(CUT_BED_TRAINER, WIRE_AWAIT_CUT, 0, &out, NULL, 0);
}

struct cut_bed_answer *cut_bed_end(uint64_t attempt, bool keep)
{
    struct wire_out out = {0};
    struct cut_bed_answer *answer;

    assert_int_equal(wire_end_cut_pack(&(struct wire_end_cut){attempt, keep, false}, &out), 0);
    answer = ask(CUT_BED_TRAINER, WIRE_END_CUT, 0, &out, NULL, 0);
    cut_bed_run(1);
    return answer;
}

void cut_bed_expect(const struct cut_bed_answer *answer, int err, const char *words)
{
    assert_true(answer->done);
    if (answer->err != err || (err && !strstr(answer->text, words)))
        fail_msg("%d \"%s\", expected %d \"%s\"", answer->err, answer->err ? answer->text : "", err,
                 words);
}

uint64_t cut_bed_draw(uint64_t below)
{
    return rt_below(rt_draw(99, cut_bed.draws++), below);
}

uint64_t cut_bed_id_of(size_t k)
{
    return (uint64_t)k << 32 | k;
}

/* Of two tables, n ids each; parts of two are an update that waits for the other one. */
struct cut_bed_answer *cut_bed_update(uint32_t n, uint64_t step, uint32_t parts)
{
    static uint64_t id[CUT_BED_UPDATE];
    static float grad[CUT_BED_UPDATE * 16];
    uint32_t table[2] = {CUT_BED_WIDE, CUT_BED_HALF}, n_ids[2] = {n, n};
    struct wire_apply_gradients m = {.shard_map = cut_bed.owner.shards.version,
                                     .parts = parts,
                                     .step = step,
                                     .learning_rate = 1,
                                     .world = 1,
                                     .n_tables = 2,
                                     .table = table,
                                     .n_ids = n_ids,
                                     .digest = 1};
    struct rt_piece piece[4];
    struct wire_out out = {0};
    size_t first = cut_bed_draw(CUT_BED_ROWS);

    for (uint32_t i = 0; i < n; i++)
        id[i] = cut_bed_id_of((first + i * 7) % CUT_BED_ROWS);
    for (size_t i = 0; i < ARRAY_LEN(grad); i++)
        grad[i] = (float)(1 + cut_bed_draw(64)) / 16;
    piece[0] = piece[2] = owner_bed_piece(&cut_bed.owner, id, n * sizeof(*id));
    piece[2] = owner_bed_piece(&cut_bed.owner, id, n * sizeof(*id));
    piece[1] = owner_bed_piece(&cut_bed.owner, grad, n * 16 * sizeof(float));
    piece[3] = owner_bed_piece(&cut_bed.owner, grad, n * 5 * sizeof(float));
    assert_int_equal(wire_apply_gradients_pack(&m, &out), 0);
    return ask(CUT_BED_MIDDLEWARE, WIRE_APPLY_GRADIENTS, rt_batch_id(0, cut_bed.batch++), &out,
               piece, 4);
}

struct cut_bed_answer *cut_bed_look_up(void)
{
    uint32_t table = CUT_BED_WIDE, n = 1;
    uint64_t id = cut_bed_id_of(5);
    struct wire_lookup_rows m = {
        .shard_map = cut_bed.owner.shards.version, .n_tables = 1, .table = &table, .n_ids = &n};
    struct rt_piece piece = owner_bed_piece(&cut_bed.owner, &id, sizeof(id));
    struct wire_out out = {0};

    assert_int_equal(wire_lookup_rows_pack(&m, &out), 0);
    return ask(CUT_BED_MIDDLEWARE, WIRE_LOOKUP_ROWS, 0, &out, &piece, 1);
}

/* ---- the bed ---- */

void cut_bed_open(uint32_t slice_rows, const char *dir)
{
    memset(&cut_bed.answer, 0, sizeof(cut_bed.answer));
    cut_bed.asked = 0;
    cut_bed.wanted = 0;
    cut_bed.attempt = cut_bed.step = 0;
    cut_bed.batch = 0;
    cut_bed.job = (struct rt_job){.n_tables = CUT_BED_TABLES, .table = tables, .global.seed = 1};
    cut_bed.job.global.mode = RT_MODE_HYBRID;
    for (uint32_t t = 0; t < CUT_BED_TABLES; t++)
        cut_bed.layout[t] = rt_row_layout(&tables[t]);
    owner_bed_open(&cut_bed.owner, &(struct owner_bed_conf){.job = &cut_bed.job,
                                                            .slice_rows = slice_rows,
                                                            .thread = cut_bed.thread,
                                                            .cut_still_ns = cut_bed.still_ns,
                                                            .checkpoint_dir = dir});
    if (cut_bed.thread)
        owner_bed_run(&cut_bed.owner);
    owner_bed_connect_as(&cut_bed.owner, CUT_BED_TRAINER, RT_ROLE_TRAINER);
    owner_bed_connect(&cut_bed.owner, CUT_BED_MIDDLEWARE);
    cut_bed.wanted = 0;
}

static char *path_of(const char *name)
{
    char *folder = rt_path_join(cut_bed.dir, "c"), *path = rt_path_join(folder, name);

    rt_free(folder);
    return path;
}

bool cut_bed_is_there(const char *name)
{
    char *path = path_of(name);
    bool there = rt_file_exists(path);

    rt_free(path);
    return there;
}

int cut_bed_set_up(void **state)
{
    char *folder;

    (void)state;
    temp_folder(cut_bed.dir);
    folder = rt_path_join(cut_bed.dir, "c");
    assert_int_equal(rt_mkdir_all(folder), 0);
    rt_free(folder);
    cut_bed_open(0, cut_bed.dir);
    return 0;
}

int cut_bed_tear_down(void **state)
{
    (void)state;
    atomic_store(&cut_bed_hold.go, true);
    owner_bed_close(&cut_bed.owner);
    return 0;
}

/* ---- rows ---- */

static void put_row(struct cut_bed_rows *rows, uint32_t t, const uint8_t *row)
{
    uint64_t id;
    size_t k;

    memcpy(&id, row, sizeof(id));
    k = (size_t)(id >> 32);
    assert_true(k < CUT_BED_ROWS && id == cut_bed_id_of(k));
    rows->n[t] += !rows->has[t][k];
    rows->has[t][k] = true;
    memcpy(rows->row[t][k], row, cut_bed.layout[t].row_bytes);
}

static void copy_tables(struct cut_bed_rows *out)
{
    struct ebs_row row;

    memset(out, 0, sizeof(*out));
    for (uint32_t t = 0; t < CUT_BED_TABLES; t++)
        for (uint32_t at = 0; ebs_table_next(cut_bed.owner.owner->table[t], &at, &row);)
            put_row(out, t, row.weight - cut_bed.layout[t].weight);
}

static void read_block(const struct rt_rowfile_block *block, struct cut_bed_rows *rows)
{
    uint32_t t = block->table;

    for (size_t i = 0; i < block->count && block->kind == RT_ROWFILE_REMOVED; i++) {
        uint64_t id;

        memcpy(&id, block->payload + i * sizeof(id), sizeof(id));
        rows->n[t] -= rows->has[t][id >> 32];
        rows->has[t][id >> 32] = false;
    }
    for (size_t i = 0; i < block->count && block->kind == RT_ROWFILE_ROWS; i++)
        put_row(rows, t, block->payload + i * cut_bed.layout[t].row_bytes);
}

/* Into what the base was. */
static void read_file(const struct cut_bed_answer *awaited, uint64_t base, uint64_t step,
                      struct cut_bed_rows *rows)
{
    char *path = path_of(awaited->file);
    struct rt_rowfile_block block;
    struct rt_rowfile *file;
    int more;

    if (rt_rowfile_open(path, &cut_bed.job, &file) != 0)
        fail_msg("%s", rt_err_text());
    assert_int_equal(rt_rowfile_head(file)->attempt, cut_bed.attempt);
    assert_int_equal(rt_rowfile_head(file)->base, base);
    assert_int_equal(rt_rowfile_head(file)->step, step);
    while ((more = rt_rowfile_next(file, &block)) > 0)
        read_block(&block, rows);
    if (more < 0)
        fail_msg("%s", rt_err_text());
    assert_int_equal(rt_rowfile_bytes(file), awaited->awaited.bytes);
    assert_int_equal(rt_rowfile_digest(file), awaited->awaited.digest);
    for (uint32_t t = 0; t < CUT_BED_TABLES; t++) {
        assert_int_equal(rt_rowfile_tables(file)[t].rows, awaited->table[t].rows);
        assert_int_equal(rt_rowfile_tables(file)[t].removed, awaited->table[t].removed);
        assert_int_equal(rt_rowfile_tables(file)[t].digest, awaited->table[t].digest);
    }
    rt_rowfile_close(file);
    rt_free(path);
}

static void check_rows(void)
{
    for (uint32_t t = 0; t < CUT_BED_TABLES; t++) {
        assert_int_equal(cut_bed.base.n[t], cut_bed.now.n[t]);
        for (size_t k = 0; k < CUT_BED_ROWS; k++)
            if (cut_bed.base.has[t][k] != cut_bed.now.has[t][k] ||
                (cut_bed.now.has[t][k] && memcmp(cut_bed.base.row[t][k], cut_bed.now.row[t][k],
                                                 cut_bed.layout[t].row_bytes) != 0))
                fail_msg("table %s: id %zu: another row than at the cut", tables[t].name, k);
    }
}

/* A cut with updates beside it; base + file are the rows of its instant. */
void cut_bed_whole_cut(uint64_t base, int updates, uint32_t n)
{
    struct cut_bed_answer *made = cut_bed_make(++cut_bed.attempt, base), *awaited;
    uint64_t rows = 0, step = cut_bed.step;

    cut_bed_expect(made, 0, "");
    copy_tables(&cut_bed.now);
    awaited = cut_bed_await(cut_bed.attempt);
    for (int u = 0; u < updates; u++)
        cut_bed_update(n, ++cut_bed.step, 1);
    cut_bed_run(updates + 1);
    cut_bed_expect(awaited, 0, "");
    for (uint32_t t = 0; t < CUT_BED_TABLES; t++) {
        assert_int_equal(awaited->table[t].live, cut_bed.now.n[t]);
        rows += awaited->table[t].rows;
    }
    assert_int_equal(rows, made->rows);
    if (base == 0)
        memset(&cut_bed.base, 0, sizeof(cut_bed.base));
    read_file(awaited, base, step, &cut_bed.base);
    check_rows();
}

/* ---- the worker held up ---- */

void cut_bed_fill(void)
{
    for (int u = 0; u < 8; u++)
        cut_bed_update(CUT_BED_UPDATE, ++cut_bed.step, 1);
    cut_bed_run(8);
}

static void hold_run(void *arg)
{
    (void)arg;
    while (!atomic_load(&cut_bed_hold.go))
        usleep(100);
}

static void hold_done(void *arg)
{
    (void)arg;
}

static void hold_post(void *arg)
{
    (void)arg;
    cut_bed_hold.work = (struct rt_work){.run = hold_run, .done = hold_done};
    rt_io_work(rt_loop_io(cut_bed.owner.owner_loop), &cut_bed_hold.work);
}

void cut_bed_hold_worker(void)
{
    atomic_store(&cut_bed_hold.go, false);
    assert_int_equal(rt_loop_post(cut_bed.owner.owner_loop, hold_post, NULL), 0);
}

int cut_bed_set_up_thread(void **state)
{
    (void)state;
    (void)cut_bed_set_up(state);
    owner_bed_close(&cut_bed.owner);
    cut_bed.thread = true;
    cut_bed_open(0, cut_bed.dir);
    cut_bed.thread = false;
    cut_bed_fill();
    cut_bed_hold_worker();
    return 0;
}
