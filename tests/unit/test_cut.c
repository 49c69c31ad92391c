/* tests/unit/test_cut.c -- an owner's part of a checkpoint: Cut, AwaitCut and EndCut, and what is in the file.
 *
 * One owner on the test's loop, asked by a trainer and a middleware over loopback. The rows of the instant are copied by the test when Cut is
 * answered, for nothing was sent since; then updates come, large ones in slices, while the file is written with the smallest buffer; then
 * the file is read back. */
#include "embedding_server/serve.h"
#include "embedding_server/table_cut.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"
#include "runtime/checkpoint/rowfile.h"
#include "runtime/job/batch_id.h"
#include "runtime/job/layout.h"
#include "runtime/wire/checkpoint.h"
#include "tests/lib/temp.h"
#include "tests/unit/owner_bed.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#define TRAINER    0u
#define MIDDLEWARE 1u
#define ROWS       6000u /* of a table */
#define ROW_MAX    160u
#define UPDATE     2000u /* ids */
#define ANSWERS    64u
#ifdef RT_DEBUG
#define CUTS 6
#else
#define CUTS 30
#endif

enum { WIDE, HALF, NONE, TABLES };

static const struct rt_table_conf tables[TABLES] = {
    [WIDE] = {.name = "user",
              .dim = 16,
              .init = {.kind = RT_INIT_CONSTANT, .value = 0.5},
              .optimizer = {.kind = RT_OPT_ADAGRAD, .learning_rate = 0.1, .eps = 1e-8},
              .admission = {.kind = RT_ADMIT_COUNT, .count = 2, .sketch_bytes = 1 << 16}},
    [HALF] = {.name = "item",
              .dim = 5,
              .dtype = WIRE_BF16,
              .init = {.kind = RT_INIT_CONSTANT, .value = 0.0},
              .optimizer = {.kind = RT_OPT_SGD, .learning_rate = 0.1},
              .eviction = {.kind = RT_EVICT_LRU, .rows = ROWS - 1000}},
    [NONE] = {.name = "empty",
              .dim = 1,
              .init = {.kind = RT_INIT_CONSTANT, .value = 0.0},
              .optimizer = {.kind = RT_OPT_SGD, .learning_rate = 0.1}},
};

struct answer {
    bool done;
    int err;
    char text[600];
    uint16_t method;
    uint64_t rows; /* CutReply */
    struct wire_await_cut_reply awaited;
    struct wire_cut_table table[TABLES];
    char file[64];
};

/* Rows of each table by the number of their id. */
struct rows {
    bool has[TABLES][ROWS];
    uint8_t row[TABLES][ROWS][ROW_MAX];
    uint64_t n[TABLES];
};

static struct {
    char dir[TEMP_PATH_MAX];
    struct rt_job job;
    struct owner_bed owner;
    struct answer answer[ANSWERS];
    unsigned asked;
    int wanted;
    bool thread; /* the owner has one of its own */
    uint64_t attempt, step, batch, draws;
    struct rt_row_layout layout[TABLES];
    struct rows now, base;
} bed;

/* The owner's worker, held up. */
static struct {
    struct rt_work work;
    _Atomic bool go;
} hold;

/* ---- asking ---- */

static void read_reply(struct answer *answer, const struct rt_frame *reply)
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
        assert_int_equal(answer->awaited.n_tables, TABLES);
        memcpy(answer->table, answer->awaited.table, sizeof(answer->table));
        snprintf(answer->file, sizeof(answer->file), "%s", answer->awaited.file);
    }
    rt_arena_destroy(arena);
}

static void on_answer(void *arg, int err, const struct rt_frame *reply)
{
    struct answer *answer = arg;

    answer->done = true;
    answer->err = err;
    if (err)
        snprintf(answer->text, sizeof(answer->text), "%s", rt_err_text());
    else
        read_reply(answer, reply);
    if (--bed.wanted == 0)
        rt_loop_stop(bed.owner.loop);
}

static struct answer *ask(uint32_t asker, uint16_t method, uint64_t batch_id, struct wire_out *out,
                          const struct rt_piece *pieces, size_t n)
{
    struct answer *answer = &bed.answer[bed.asked++ % ANSWERS];

    *answer = (struct answer){.method = method};
    owner_bed_ask(&bed.owner, asker, method, batch_id, out, pieces, n, on_answer, answer);
    return answer;
}

static void run(int n)
{
    bed.wanted += n;
    if (bed.wanted > 0)
        rt_loop_run(bed.owner.loop);
}

static struct answer *cut_of(uint32_t asker, const struct wire_cut *m)
{
    struct wire_out out = {0};
    struct answer *answer;

    assert_int_equal(wire_cut_pack(m, &out), 0);
    answer = ask(asker, WIRE_CUT, 0, &out, NULL, 0);
    run(1);
    return answer;
}

static struct answer *cut(uint64_t attempt, uint64_t base)
{
    return cut_of(
        TRAINER,
        &(struct wire_cut){
            .attempt = attempt, .step = bed.step, .name = "c", .base = base, .age = bed.step});
}

/* Beside a ledger with which the trainers have finished so many batches of split 0. */
static struct answer *cut_with(uint64_t attempt, uint64_t finished)
{
    const struct wire_split_ledger ledger = {.stepped_low = finished, .finished_low = finished};
    struct wire_await_phase_reply phase = {
        .phase = 1, .kind = WIRE_PHASE_TRAIN, .n_ledger = 1, .ledger = &ledger};
    struct wire_out out = {0};
    struct answer *answer;

    assert_int_equal(wire_await_phase_reply_pack(&phase, &out), 0);
    answer = cut_of(TRAINER, &(struct wire_cut){.attempt = attempt,
                                                .step = bed.step,
                                                .name = "c",
                                                .age = bed.step,
                                                .ledger = out.data,
                                                .ledger_size = out.size});
    wire_out_release(&out);
    return answer;
}

static struct answer *await(uint64_t attempt)
{
    struct wire_out out = {0};

    assert_int_equal(wire_await_cut_pack(&(struct wire_await_cut){attempt}, &out), 0);
    return ask(TRAINER, WIRE_AWAIT_CUT, 0, &out, NULL, 0);
}

static struct answer *end(uint64_t attempt, bool keep)
{
    struct wire_out out = {0};
    struct answer *answer;

    assert_int_equal(wire_end_cut_pack(&(struct wire_end_cut){attempt, keep}, &out), 0);
    answer = ask(TRAINER, WIRE_END_CUT, 0, &out, NULL, 0);
    run(1);
    return answer;
}

static void expect(const struct answer *answer, int err, const char *words)
{
    assert_true(answer->done);
    if (answer->err != err || (err && !strstr(answer->text, words)))
        fail_msg("%d \"%s\", expected %d \"%s\"", answer->err, answer->err ? answer->text : "", err,
                 words);
}

static uint64_t draw(uint64_t below)
{
    return rt_below(rt_draw(99, bed.draws++), below);
}

static uint64_t id_of(size_t k)
{
    return (uint64_t)k << 32 | k;
}

/* Of two tables, n ids each; parts of two are an update that waits for the other one. */
static struct answer *update(uint32_t n, uint64_t step, uint32_t parts)
{
    static uint64_t id[UPDATE];
    static float grad[UPDATE * 16];
    uint32_t table[2] = {WIDE, HALF}, n_ids[2] = {n, n};
    struct wire_apply_gradients m = {.shard_map = bed.owner.shards.version,
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
    size_t first = draw(ROWS);

    for (uint32_t i = 0; i < n; i++)
        id[i] = id_of((first + i * 7) % ROWS);
    for (size_t i = 0; i < ARRAY_LEN(grad); i++)
        grad[i] = (float)(1 + draw(64)) / 16;
    piece[0] = piece[2] = owner_bed_piece(&bed.owner, id, n * sizeof(*id));
    piece[2] = owner_bed_piece(&bed.owner, id, n * sizeof(*id));
    piece[1] = owner_bed_piece(&bed.owner, grad, n * 16 * sizeof(float));
    piece[3] = owner_bed_piece(&bed.owner, grad, n * 5 * sizeof(float));
    assert_int_equal(wire_apply_gradients_pack(&m, &out), 0);
    return ask(MIDDLEWARE, WIRE_APPLY_GRADIENTS, rt_batch_id(0, bed.batch++), &out, piece, 4);
}

static struct answer *look_up(void)
{
    uint32_t table = WIDE, n = 1;
    uint64_t id = id_of(5);
    struct wire_lookup_rows m = {
        .shard_map = bed.owner.shards.version, .n_tables = 1, .table = &table, .n_ids = &n};
    struct rt_piece piece = owner_bed_piece(&bed.owner, &id, sizeof(id));
    struct wire_out out = {0};

    assert_int_equal(wire_lookup_rows_pack(&m, &out), 0);
    return ask(MIDDLEWARE, WIRE_LOOKUP_ROWS, 0, &out, &piece, 1);
}

/* ---- the bed ---- */

static void open_bed(uint32_t slice_rows, const char *dir)
{
    memset(&bed.answer, 0, sizeof(bed.answer));
    bed.asked = 0;
    bed.wanted = 0;
    bed.attempt = bed.step = 0;
    bed.batch = 0;
    bed.job = (struct rt_job){.n_tables = TABLES, .table = tables, .global.seed = 1};
    bed.job.global.mode = RT_MODE_HYBRID;
    for (uint32_t t = 0; t < TABLES; t++)
        bed.layout[t] = rt_row_layout(&tables[t]);
    owner_bed_open(&bed.owner, &(struct owner_bed_conf){.job = &bed.job,
                                                        .slice_rows = slice_rows,
                                                        .thread = bed.thread,
                                                        .checkpoint_dir = dir});
    if (bed.thread)
        owner_bed_run(&bed.owner);
    owner_bed_connect_as(&bed.owner, TRAINER, RT_ROLE_TRAINER);
    owner_bed_connect(&bed.owner, MIDDLEWARE);
    bed.wanted = 0;
}

static char *path_of(const char *name)
{
    char *folder = rt_path_join(bed.dir, "c"), *path = rt_path_join(folder, name);

    rt_free(folder);
    return path;
}

static bool is_there(const char *name)
{
    char *path = path_of(name);
    bool there = rt_file_exists(path);

    rt_free(path);
    return there;
}

static int set_up(void **state)
{
    char *folder;

    (void)state;
    temp_folder(bed.dir);
    folder = rt_path_join(bed.dir, "c");
    assert_int_equal(rt_mkdir_all(folder), 0);
    rt_free(folder);
    open_bed(0, bed.dir);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    atomic_store(&hold.go, true);
    owner_bed_close(&bed.owner);
    return 0;
}

/* ---- rows ---- */

static void put_row(struct rows *rows, uint32_t t, const uint8_t *row)
{
    uint64_t id;
    size_t k;

    memcpy(&id, row, sizeof(id));
    k = (size_t)(id >> 32);
    assert_true(k < ROWS && id == id_of(k));
    rows->n[t] += !rows->has[t][k];
    rows->has[t][k] = true;
    memcpy(rows->row[t][k], row, bed.layout[t].row_bytes);
}

static void copy_tables(struct rows *out)
{
    struct ebs_row row;

    memset(out, 0, sizeof(*out));
    for (uint32_t t = 0; t < TABLES; t++)
        for (uint32_t at = 0; ebs_table_next(bed.owner.owner->table[t], &at, &row);)
            put_row(out, t, row.weight - bed.layout[t].weight);
}

static void read_block(const struct rt_rowfile_block *block, struct rows *rows)
{
    uint32_t t = block->table;

    for (size_t i = 0; i < block->count && block->kind == RT_ROWFILE_REMOVED; i++) {
        uint64_t id;

        memcpy(&id, block->payload + i * sizeof(id), sizeof(id));
        rows->n[t] -= rows->has[t][id >> 32];
        rows->has[t][id >> 32] = false;
    }
    for (size_t i = 0; i < block->count && block->kind == RT_ROWFILE_ROWS; i++)
        put_row(rows, t, block->payload + i * bed.layout[t].row_bytes);
}

/* Into what the base was. */
static void read_file(const struct answer *awaited, uint64_t base, uint64_t step, struct rows *rows)
{
    char *path = path_of(awaited->file);
    struct rt_rowfile_block block;
    struct rt_rowfile *file;
    int more;

    if (rt_rowfile_open(path, &bed.job, &file) != 0)
        fail_msg("%s", rt_err_text());
    assert_int_equal(rt_rowfile_head(file)->attempt, bed.attempt);
    assert_int_equal(rt_rowfile_head(file)->base, base);
    assert_int_equal(rt_rowfile_head(file)->step, step);
    while ((more = rt_rowfile_next(file, &block)) > 0)
        read_block(&block, rows);
    if (more < 0)
        fail_msg("%s", rt_err_text());
    assert_int_equal(rt_rowfile_bytes(file), awaited->awaited.bytes);
    assert_int_equal(rt_rowfile_digest(file), awaited->awaited.digest);
    for (uint32_t t = 0; t < TABLES; t++) {
        assert_int_equal(rt_rowfile_tables(file)[t].rows, awaited->table[t].rows);
        assert_int_equal(rt_rowfile_tables(file)[t].removed, awaited->table[t].removed);
        assert_int_equal(rt_rowfile_tables(file)[t].digest, awaited->table[t].digest);
    }
    rt_rowfile_close(file);
    rt_free(path);
}

static void check_rows(void)
{
    for (uint32_t t = 0; t < TABLES; t++) {
        assert_int_equal(bed.base.n[t], bed.now.n[t]);
        for (size_t k = 0; k < ROWS; k++)
            if (bed.base.has[t][k] != bed.now.has[t][k] ||
                (bed.now.has[t][k] &&
                 memcmp(bed.base.row[t][k], bed.now.row[t][k], bed.layout[t].row_bytes) != 0))
                fail_msg("table %s: id %zu: another row than at the cut", tables[t].name, k);
    }
}

/* A cut with updates beside it; base + file are the rows of its instant. */
static void whole_cut(uint64_t base, int updates, uint32_t n)
{
    struct answer *made = cut(++bed.attempt, base), *awaited;
    uint64_t rows = 0, step = bed.step;

    expect(made, 0, "");
    copy_tables(&bed.now);
    awaited = await(bed.attempt);
    for (int u = 0; u < updates; u++)
        update(n, ++bed.step, 1);
    run(updates + 1);
    expect(awaited, 0, "");
    for (uint32_t t = 0; t < TABLES; t++) {
        assert_int_equal(awaited->table[t].live, bed.now.n[t]);
        rows += awaited->table[t].rows;
    }
    assert_int_equal(rows, made->rows);
    if (base == 0)
        memset(&bed.base, 0, sizeof(bed.base));
    read_file(awaited, base, step, &bed.base);
    check_rows();
}

static void rows_while_they_change(void **state)
{
    static const uint32_t slices[] = {0, 64, 300};
    const struct ebs_owner_stats *stats;

    (void)state;
    for (size_t s = 0; s < ARRAY_LEN(slices); s++) {
        owner_bed_close(&bed.owner);
        open_bed(slices[s], bed.dir);
        stats = ebs_owner_stats(bed.owner.owner);
        for (int u = 0; u < 8; u++)
            update(UPDATE, ++bed.step, 1);
        run(8);
        for (int c = 0; c < CUTS; c++) {
            bool full = c % 5 == 0;

            whole_cut(full ? 0 : bed.attempt, (int)draw(12), 1 + (uint32_t)draw(UPDATE));
            expect(end(bed.attempt, true), 0, "");
        }
        print_message("slices of %u: %llu rows, %llu copies, %llu waits\n", slices[s],
                      (unsigned long long)stats->cut_rows, (unsigned long long)stats->cut_copies,
                      (unsigned long long)stats->cut_waits);
        assert_true(stats->cut_copies > 0);
        assert_int_equal(stats->cuts_failed, 0);
        assert_int_equal(stats->cut_writing, 0);
        assert_true(stats->cut_seconds > 0);
    }
}

/* ---- what is refused ---- */

static void what_is_refused(void **state)
{
    struct answer *open, *refused;

    (void)state;
    update(10, ++bed.step, 1);
    run(1);
    expect(cut_with(10, 0), RT_ENOTREADY,
           "is applied here and not finished in the ledger: the trainers have gone back, and have "
           "to make it again first");
    expect(cut(10, 9), RT_ESTALE,
           "an increment to attempt 9, this owner knows what changed since attempt 0");
    open = update(10, 2, 2);
    look_up(); /* comes behind it */
    run(1);
    expect(cut(10, 0), RT_ENOTREADY, "0 updates are being applied, 1 wait for their parts");
    assert_false(open->done);
    owner_bed_connect(&bed.owner, MIDDLEWARE); /* who waited for it is gone */
    assert_true(open->done && open->err);
    bed.wanted = 0;
    expect(cut(10, 0), 0, "");
    expect(cut(9, 0), RT_ESTALE, "attempt 9, this owner has heard of 10");
    expect(cut_of(TRAINER, &(struct wire_cut){.attempt = 10, .step = 1, .age = 1, .name = "d"}),
           RT_ESTALE, "attempt 10, this owner has heard of 10");
    refused = await(9);
    run(1);
    expect(refused, RT_EUNKNOWN, "attempt 9 is not known here, the latest is 10");
    expect(end(9, true), RT_ESTALE, "attempt 9 is not here to be kept, the latest is 10");
    refused =
        cut_of(MIDDLEWARE, &(struct wire_cut){.attempt = 11, .step = 1, .age = 1, .name = "c"});
    assert_true(refused->err != 0);
}

/* Large updates are in the turn: not the instant that the trainer takes it for. */
static void an_update_under_way(void **state)
{
    struct answer *updates[20], *asked, *refused;

    (void)state;
    owner_bed_close(&bed.owner);
    open_bed(64, bed.dir);
    for (size_t u = 0; u < ARRAY_LEN(updates); u++)
        updates[u] = update(UPDATE, 1, 1);
    asked = look_up(); /* comes behind them */
    while (!asked->done)
        run(1);
    bed.step = 1;
    refused = cut(1, 0);
    while (!refused->done)
        run(1);
    expect(refused, RT_ENOTREADY, " updates are being applied, 0 wait for their parts");
    for (size_t u = 0; u < ARRAY_LEN(updates); u++)
        while (!updates[u]->done)
            run(1);
    bed.wanted = 0;
    whole_cut(0, 3, UPDATE);
}

static void without_a_folder(void **state)
{
    struct answer *awaited;

    (void)state;
    expect(cut_of(TRAINER, &(struct wire_cut){.attempt = 3, .name = "nowhere"}), 0, "");
    awaited = await(3);
    run(1);
    expect(awaited, RT_EFILE, "/nowhere/rows.00000.partial: cannot be made: No such file");
    expect(end(3, true), RT_ENOTREADY, "attempt 3 is not on disk");
    expect(end(3, false), 0, "");
    owner_bed_close(&bed.owner);
    open_bed(0, NULL);
    expect(cut(4, 0), RT_EUSAGE, "this embedding server has no checkpoint folder");
}

static void a_step_that_is_not_here(void **state)
{
    (void)state;
    bed.job.global.mode = RT_MODE_FULL;
    bed.step = 1;
    expect(cut(1, 0), RT_ENOTREADY, "a cut at step 1, this owner has applied steps up to 0");
    bed.step = 0;
    expect(cut(1, 0), 0, "");
}

/* ---- what fails ---- */

static void fill(void)
{
    for (int u = 0; u < 8; u++)
        update(UPDATE, ++bed.step, 1);
    run(8);
}

/* A file that cannot be written is gone, the attempt has failed, and the next one is whole. */
static void disks_that_are_full(void **state)
{
    static const rlim_t limits[] = {0, 100, 3000, 40000, 200000};
    struct rlimit before, limit;
    struct answer *awaited;

    (void)state;
    fill();
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    for (size_t i = 0; i < ARRAY_LEN(limits); i++) {
        limit = (struct rlimit){.rlim_cur = limits[i], .rlim_max = before.rlim_max};
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
        expect(cut(++bed.attempt, 0), 0, "");
        awaited = await(bed.attempt);
        update(UPDATE, ++bed.step, 1);
        run(2);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
        expect(awaited, RT_EFILE, "/c/rows.00000.partial: cannot write at byte ");
        assert_non_null(strstr(awaited->text, "File too large"));
        expect(cut(bed.attempt + 1, bed.attempt), RT_ESTALE, "an increment to attempt");
        assert_false(is_there("rows.00000"));
    }
    assert_int_equal(ebs_owner_stats(bed.owner.owner)->cuts_failed, ARRAY_LEN(limits));
    whole_cut(0, 5, UPDATE);
    assert_false(is_there("rows.00000.partial"));
}

/* Rows change without asking for room, as an import has them do. */
static void no_room_for_copies(void **state)
{
    const float weight[16] = {1.0f};
    struct wire_cut m = {.name = "c"};
    struct answer *awaited;

    (void)state;
    fill();
    m.attempt = ++bed.attempt;
    m.step = m.age = bed.step;
    assert_int_equal(ebs_cut_make(bed.owner.owner, &m), 0);
    for (size_t k = 0; k < ROWS; k++)
        assert_int_equal(ebs_table_put(bed.owner.owner->table[WIDE], id_of(k), weight, NULL), 0);
    awaited = await(bed.attempt);
    run(1);
    expect(awaited, RT_EFULL, "(global.checkpoint.buffer) had no room for them");
    whole_cut(0, 5, UPDATE);
}

/* Refused, and nothing has begun. */
static void no_memory(void **state)
{
    struct wire_cut m = {.attempt = 1, .name = "c"};
    struct ebs_owner *owner = bed.owner.owner;
    int err, nth = 0;

    (void)state;
    fill();
    m.step = m.age = bed.step;
    for (;; nth++) {
        rt_fault_alloc(nth);
        err = ebs_cut_make(owner, &m);
        rt_fault_alloc(-1);
        if (err == 0)
            break;
        assert_int_equal(err, RT_ENOMEM);
        assert_null(owner->cutter.cut);
        assert_int_equal(owner->cutter.latest, 0);
        assert_true(nth < 100);
    }
    assert_true(nth > 3);
}

static void stopped_in_the_midst(void **state)
{
    (void)state;
    fill();
    expect(cut(1, 0), 0, "");
    await(1);
    bed.wanted = 2;
    owner_bed_close(&bed.owner);
    assert_false(is_there("rows.00000.partial"));
    open_bed(0, bed.dir);
}

/* ---- the worker held up ---- */

static void hold_run(void *arg)
{
    (void)arg;
    while (!atomic_load(&hold.go))
        usleep(100);
}

static void hold_done(void *arg)
{
    (void)arg;
}

static void hold_post(void *arg)
{
    (void)arg;
    hold.work = (struct rt_work){.run = hold_run, .done = hold_done};
    rt_io_work(rt_loop_io(bed.owner.owner_loop), &hold.work);
}

static void hold_worker(void)
{
    atomic_store(&hold.go, false);
    assert_int_equal(rt_loop_post(bed.owner.owner_loop, hold_post, NULL), 0);
}

static int set_up_thread(void **state)
{
    (void)state;
    (void)set_up(state);
    owner_bed_close(&bed.owner);
    bed.thread = true;
    open_bed(0, bed.dir);
    bed.thread = false;
    fill();
    hold_worker();
    return 0;
}

static void attempts_one_after_the_other(void **state)
{
    struct answer *first, *second;
    uint64_t rows;

    (void)state;
    rows = cut(20, 0)->rows;
    assert_true(rows > ROWS / 2);
    expect(end(20, true), RT_ENOTREADY, "attempt 20 is not on disk");
    first = await(20);
    expect(cut(20, 0), 0, "");
    assert_int_equal(bed.answer[(bed.asked - 1) % ANSWERS].rows, rows);
    second = await(20);
    run(1);
    expect(first, RT_ECANCELED, "asked again");
    assert_false(second->done);
    bed.wanted++; /* for the one that waits */
    cut(21, 0);
    expect(second, RT_ECANCELED, "a newer checkpoint has begun");
    first = await(21);
    bed.wanted++;
    end(21, false);
    expect(first, RT_ECANCELED, "the checkpoint was given up");
    expect(cut(21, 0), RT_ESTALE, "attempt 21, this owner has heard of 21");
    expect(end(30, false), 0, "");
    expect(cut(30, 0), RT_ESTALE, "attempt 30, this owner has heard of 30");
    atomic_store(&hold.go, true);
    expect(cut(31, 0), 0, "");
    first = await(31);
    run(1);
    expect(first, 0, "");
    assert_true(is_there("rows.00000"));
    second = await(31); /* its answer was lost */
    run(1);
    expect(second, 0, "");
    expect(end(31, true), 0, "");
    expect(end(31, true), 0, "");
    expect(end(31, false), RT_ESTALE, "attempt 31 was kept");
    expect(cut(32, 31), 0, "");
    assert_int_equal(bed.answer[(bed.asked - 1) % ANSWERS].rows, 0);
    first = await(32);
    run(1);
    expect(first, 0, "");
    expect(end(32, false), 0, "");
    for (int i = 0; i < 1000 && is_there("rows.00000"); i++)
        usleep(1000);
    assert_false(is_there("rows.00000"));
    expect(cut(33, 31), RT_ESTALE, "since attempt 0");
    assert_false(is_there("rows.00000.partial"));
}

/* Nothing is written: updates wait when the buffer is full, and lookups do not. */
static void updates_wait_and_lookups_do_not(void **state)
{
    const struct ebs_owner_stats *stats = ebs_owner_stats(bed.owner.owner);
    struct answer *updates[8], *awaited, *asked;
    int done = 0;

    (void)state;
    expect(cut(1, 0), 0, "");
    awaited = await(1);
    for (size_t u = 0; u < ARRAY_LEN(updates); u++)
        updates[u] = update(UPDATE, ++bed.step, 1);
    for (int i = 0; i < 2000 && stats->cut_waits == 0; i++) {
        asked = look_up();
        while (!asked->done)
            run(1);
        assert_int_equal(asked->err, 0);
    }
    assert_true(stats->cut_waits > 0);
    for (size_t u = 0; u < ARRAY_LEN(updates); u++)
        done += updates[u]->done;
    assert_true(done < (int)ARRAY_LEN(updates) && !awaited->done);
    atomic_store(&hold.go, true);
    while (!awaited->done)
        run(1);
    expect(awaited, 0, "");
    for (size_t u = 0; u < ARRAY_LEN(updates); u++) {
        while (!updates[u]->done)
            run(1);
        assert_int_equal(updates[u]->err, 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(rows_while_they_change, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_is_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(an_update_under_way, set_up, tear_down),
        cmocka_unit_test_setup_teardown(without_a_folder, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_step_that_is_not_here, set_up, tear_down),
        cmocka_unit_test_setup_teardown(disks_that_are_full, set_up, tear_down),
        cmocka_unit_test_setup_teardown(no_room_for_copies, set_up, tear_down),
        cmocka_unit_test_setup_teardown(no_memory, set_up, tear_down),
        cmocka_unit_test_setup_teardown(stopped_in_the_midst, set_up, tear_down),
        cmocka_unit_test_setup_teardown(attempts_one_after_the_other, set_up_thread, tear_down),
        cmocka_unit_test_setup_teardown(updates_wait_and_lookups_do_not, set_up_thread, tear_down),
    };

    return cmocka_run_group_tests_name("cut", tests, NULL, NULL);
}
