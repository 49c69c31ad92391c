/* tests/bench/embedding_server/cut.c -- a checkpoint's rows are written while an owner serves: what that costs.
 *
 *   client --LookupRows, ApplyGradients, REQUEST ids each, DEPTH under way--> one owner, 5 M rows, dim 16, Adagrad
 *   trainer --Cut, AwaitCut, EndCut--> the same; its file goes to TMPDIR
 *
 * Turns of PERIOD seconds without a cut and with one, a full one that begins with the turn, one after the other: so what else the
 * machine does disturbs both alike. A stall is the time from a request to its answer; memory is the process's. At last an increment, after updates of
 * as many Zipf(1.05) ids as half of the rows. What other programs take of the machine is in times by the wall; so what the owner's thread
 * takes of a core for an id is measured too, and its longest turn, from one look at the sockets to the next. Each file is read back and must be whole. */
#include "embedding_server/serve.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/base/mem.h"
#include "runtime/checkpoint/rowfile.h"
#include "runtime/job/batch_id.h"
#include "runtime/wire/checkpoint.h"
#include "tests/bench/embedding_server/entry.h"
#include "tests/bench/embedding_server/measure.h"
#include "tests/bench/embedding_server/parts.h"
#include "tests/bench/embedding_server/tables.h"
#include "tests/lib/bench.h"
#include "tests/lib/temp.h"
#include "tests/unit/owner_bed.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

#define DIM            16
#define ROWS           5e6
#define REQUEST        2048u
#define DEPTH          4u
#define PERIOD         30 /* seconds; BENCH_PERIOD */
#define TURNS          3
#define MIDDLEWARE     0u
#define TRAINER        1u
#define RESIDENT_EVERY 64u /* requests */

enum {
    RATIO,
    CPU,
    TURN,
    TURN_NONE,
    STALL,
    STALL_NONE,
    MEMORY,
    SECONDS,
    FULL_BYTES,
    PART,
    WAITS,
    FIGURES
};

struct request {
    struct cutting *all;
    uint64_t began_ns;
};

struct cutting {
    char dir[TEMP_PATH_MAX];
    struct subject subject;
    struct rt_job job;
    struct owner_bed bed;
    struct ids ids;
    struct request request[DEPTH];
    float *grad;      /* [REQUEST][DIM] */
    uint64_t until;   /* wall: ask no more */
    uint64_t left;    /* ids to update, where that is the measure */
    uint64_t asked;   /* requests */
    uint64_t done;    /* ids */
    uint64_t longest; /* ns */
    unsigned open;
    bool updates_only;
    uint64_t attempt, batch, step;
    size_t resident; /* the most that was seen */
    struct wire_await_cut_reply reply;
    /* the owner's thread, of its CPU time */
    uv_prepare_t turn_end;
    uint64_t turn_began;
    _Atomic uint64_t cpu_ns, turn_longest;
};

static void must(int err)
{
    if (err)
        die("cut: %s", rt_err_text());
}

/* ---- the client ---- */

static void ask(struct request *request);

static void stop_if_idle(struct cutting *c)
{
    if (c->open == 0)
        rt_loop_stop(c->bed.loop);
}

static bool has_more(const struct cutting *c)
{
    return c->updates_only ? c->left > 0 : bench_wall_ns() < c->until;
}

static void on_reply(void *arg, int err, const struct rt_frame *reply)
{
    struct request *request = arg;
    struct cutting *c = request->all;
    uint64_t took = bench_wall_ns() - request->began_ns;

    (void)reply;
    must(err);
    c->open--;
    c->done += REQUEST;
    c->longest = took > c->longest ? took : c->longest;
    if (has_more(c))
        ask(request);
    else
        stop_if_idle(c);
}

static void ask_update(struct request *request, const uint64_t *id)
{
    struct cutting *c = request->all;
    static const uint32_t table = 0;
    uint32_t n = REQUEST;
    struct wire_apply_gradients m = {.shard_map = c->bed.shards.version,
                                     .parts = 1,
                                     .step = c->step,
                                     .learning_rate = 1,
                                     .world = 1,
                                     .n_tables = 1,
                                     .table = &table,
                                     .n_ids = &n};
    struct rt_piece piece[2] = {owner_bed_piece(&c->bed, id, REQUEST * sizeof(*id)),
                                owner_bed_piece(&c->bed, c->grad, REQUEST * DIM * sizeof(float))};
    struct wire_out out = {0};

    must(wire_apply_gradients_pack(&m, &out));
    owner_bed_ask(&c->bed, MIDDLEWARE, WIRE_APPLY_GRADIENTS, rt_batch_id(0, c->batch++), &out,
                  piece, 2, on_reply, request);
}

static void ask_lookup(struct request *request, const uint64_t *id)
{
    struct cutting *c = request->all;
    static const uint32_t table = 0;
    uint32_t n = REQUEST;
    struct wire_lookup_rows m = {
        .shard_map = c->bed.shards.version, .n_tables = 1, .table = &table, .n_ids = &n};
    struct rt_piece piece = owner_bed_piece(&c->bed, id, REQUEST * sizeof(*id));
    struct wire_out out = {0};

    must(wire_lookup_rows_pack(&m, &out));
    owner_bed_ask(&c->bed, MIDDLEWARE, WIRE_LOOKUP_ROWS, 0, &out, &piece, 1, on_reply, request);
}

/* Of this process: what is cheap to ask. */
static size_t resident(void)
{
    unsigned long size, pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");

    if (!file || fscanf(file, "%lu %lu", &size, &pages) != 2)
        die("no /proc/self/statm");
    fclose(file);
    return pages * (size_t)sysconf(_SC_PAGESIZE);
}

static void ask(struct request *request)
{
    struct cutting *c = request->all;
    uint64_t id[REQUEST];

    ids_positions(&c->ids, id, REQUEST);
    ids_from_positions(id, REQUEST);
    request->began_ns = bench_wall_ns();
    if (c->updates_only || c->asked % 2)
        ask_update(request, id);
    else
        ask_lookup(request, id);
    c->left -= c->left < REQUEST ? c->left : REQUEST;
    c->asked++;
    c->open++;
    if (c->asked % RESIDENT_EVERY == 0) {
        size_t now = resident();

        c->resident = now > c->resident ? now : c->resident;
    }
}

/* ---- the trainer ---- */

static void on_cut(void *arg, int err, const struct rt_frame *reply)
{
    struct cutting *c = arg;

    (void)reply;
    must(err);
    c->open--;
    stop_if_idle(c);
}

static void on_done(void *arg, int err, const struct rt_frame *reply)
{
    struct cutting *c = arg;
    struct rt_arena *arena;

    must(err);
    must(rt_arena_create(1 << 20, &arena));
    must(wire_await_cut_reply_unpack(reply->message, reply->header.message_size, arena, &c->reply));
    rt_arena_destroy(arena);
    c->open--;
    stop_if_idle(c);
}

/* The instant; its rows are written beside what is asked from then on. */
static void begin_cut(struct cutting *c, uint64_t base)
{
    struct wire_cut cut = {
        .attempt = ++c->attempt, .base = base, .name = "c", .step = c->step, .age = c->step};
    struct wire_out out = {0};

    c->step++;
    must(wire_cut_pack(&cut, &out));
    owner_bed_ask(&c->bed, TRAINER, WIRE_CUT, 0, &out, NULL, 0, on_cut, c);
    c->open++;
    must(rt_loop_run(c->bed.loop)); /* nothing else is asked meanwhile */
    must(wire_await_cut_pack(&(struct wire_await_cut){c->attempt}, &out));
    owner_bed_ask(&c->bed, TRAINER, WIRE_AWAIT_CUT, 0, &out, NULL, 0, on_done, c);
    c->open++;
}

static void keep_cut(struct cutting *c)
{
    struct wire_out out = {0};

    must(wire_end_cut_pack(&(struct wire_end_cut){.attempt = c->attempt, .keep = true}, &out));
    owner_bed_ask(&c->bed, TRAINER, WIRE_END_CUT, 0, &out, NULL, 0, on_cut, c);
    c->open++;
    must(rt_loop_run(c->bed.loop));
}

static void check_file(struct cutting *c)
{
    char *folder = rt_path_join(c->dir, "c"), *path = rt_path_join(folder, "rows.00000");
    struct rt_rowfile_block block;
    struct rt_rowfile *file;
    int more;

    must(rt_rowfile_open(path, &c->job, &file));
    while ((more = rt_rowfile_next(file, &block)) > 0)
        ;
    must(more);
    if (rt_rowfile_bytes(file) != c->reply.bytes || rt_rowfile_digest(file) != c->reply.digest)
        die("cut: another file than was told");
    rt_rowfile_close(file);
    unlink(path);
    rt_free(path);
    rt_free(folder);
}

/* ---- turns ---- */

/* Called on the owner's thread, before each look at its sockets. */
static void on_turn_end(uv_prepare_t *handle)
{
    struct cutting *c = handle->data;
    uint64_t now = bench_cpu_ns(), took = c->turn_began ? now - c->turn_began : 0;

    c->turn_began = now;
    ebs_set(&c->cpu_ns, now);
    if (took > ebs_get(&c->turn_longest))
        ebs_set(&c->turn_longest, took);
}

/* Ids a second; by the owner's CPU time in *cpu. */
static double one_turn(struct cutting *c, bool cut, double *cpu)
{
    uint64_t cpu_ns = ebs_get(&c->cpu_ns);
    const char *period = getenv("BENCH_PERIOD");
    uint64_t begin = bench_wall_ns();

    c->until = begin + (uint64_t)((period ? strtod(period, NULL) : PERIOD) * 1e9);
    c->done = c->longest = 0;
    ebs_set(&c->turn_longest, 0);
    c->updates_only = false;
    if (cut)
        begin_cut(c, 0);
    for (unsigned i = 0; i < DEPTH; i++)
        ask(&c->request[i]);
    must(rt_loop_run(c->bed.loop));
    *cpu = 1e9 * (double)c->done / (double)(ebs_get(&c->cpu_ns) - cpu_ns);
    return 1e9 * (double)c->done / (double)(bench_wall_ns() - begin);
}

static void update_zipf(struct cutting *c)
{
    ids_init(&c->ids, IDS_ZIPF, c->subject.rows, 7);
    c->updates_only = true;
    c->left = c->subject.rows / 2;
    for (unsigned i = 0; i < DEPTH; i++)
        ask(&c->request[i]);
    must(rt_loop_run(c->bed.loop));
}

static void start(struct cutting *c)
{
    char *folder;

    rt_log_set_level(RT_LOG_ERROR);
    temp_folder(c->dir);
    folder = rt_path_join(c->dir, "c");
    must(rt_mkdir_all(folder));
    rt_free(folder);
    c->job = (struct rt_job){.n_tables = 1, .table = &c->subject.conf};
    c->job.global.seed = 1;
    c->job.global.mode = RT_MODE_HYBRID;
    c->job.global.checkpoint.buffer = 16 << 20;
    owner_bed_open(&c->bed, &(struct owner_bed_conf){
                                .job = &c->job, .thread = true, .checkpoint_dir = c->dir});
    subject_fill(c->bed.owner->table[0], 0, c->subject.rows, FILL_IDS);
    c->turn_end.data = c;
    if (uv_prepare_init(rt_loop_uv(c->bed.owner_loop), &c->turn_end) != 0 ||
        uv_prepare_start(&c->turn_end, on_turn_end) != 0)
        die("cut: no handle");
    owner_bed_run(&c->bed);
    owner_bed_connect(&c->bed, MIDDLEWARE);
    owner_bed_connect_as(&c->bed, TRAINER, RT_ROLE_TRAINER);
    c->grad = bench_array(REQUEST * DIM * sizeof(float));
    for (size_t i = 0; i < REQUEST * DIM; i++)
        c->grad[i] = 0.01f * (float)(i % 7);
    for (unsigned i = 0; i < DEPTH; i++)
        c->request[i].all = c;
    ids_init(&c->ids, IDS_UNIFORM, c->subject.rows, 1);
    c->step = 1;
}

static void run_cut(const void *arg, double *out)
{
    struct cutting *c = rt_xcalloc(1, sizeof(*c));
    double ratio[TURNS], cpu[TURNS], cpu_none, tables;
    const struct ebs_owner_stats *stats;
    size_t before;

    (void)arg;
    c->subject = subject_make(DIM, RT_OPT_ADAGRAD, bench_rows(ROWS));
    start(c);
    stats = ebs_owner_stats(c->bed.owner);
    tables = (double)ebs_get(&stats->memory_bytes);
    one_turn(c, true, &cpu_none); /* marks are paid for from here on: in turns without a cut too */
    check_file(c);
    out[STALL] = out[STALL_NONE] = out[MEMORY] = out[SECONDS] = out[TURN] = out[TURN_NONE] = 0;
    for (int turn = 0; turn < TURNS; turn++) {
        double none = one_turn(c, false, &cpu_none);

        if (1e-6 * (double)ebs_get(&c->turn_longest) > out[TURN_NONE])
            out[TURN_NONE] = 1e-6 * (double)ebs_get(&c->turn_longest);
        before = resident();
        c->resident = 0;
        if (1e-6 * (double)c->longest > out[STALL_NONE])
            out[STALL_NONE] = 1e-6 * (double)c->longest;
        ratio[turn] = one_turn(c, true, &cpu[turn]) / none;
        cpu[turn] /= cpu_none;
        if (1e-6 * (double)ebs_get(&c->turn_longest) > out[TURN])
            out[TURN] = 1e-6 * (double)ebs_get(&c->turn_longest);
        if (1e-6 * (double)c->longest > out[STALL])
            out[STALL] = 1e-6 * (double)c->longest;
        if (100 * (double)(c->resident - before) / tables > out[MEMORY] && c->resident > before)
            out[MEMORY] = 100 * (double)(c->resident - before) / tables;
        if (atomic_load(&stats->cut_seconds) > out[SECONDS])
            out[SECONDS] = atomic_load(&stats->cut_seconds);
        check_file(c);
    }
    out[RATIO] = median(ratio, TURNS);
    out[CPU] = median(cpu, TURNS);
    out[FULL_BYTES] = (double)c->reply.bytes;
    out[WAITS] = (double)ebs_get(&stats->cut_waits);
    keep_cut(c);
    begin_cut(c, c->attempt); /* what the turn has changed */
    must(rt_loop_run(c->bed.loop));
    keep_cut(c);
    update_zipf(c);
    begin_cut(c, c->attempt);
    must(rt_loop_run(c->bed.loop));
    check_file(c);
    out[PART] = (double)c->reply.bytes / out[FULL_BYTES];
    bench_array_free(c->grad, REQUEST * DIM * sizeof(float));
    owner_bed_halt(&c->bed);
    uv_close((uv_handle_t *)&c->turn_end, NULL);
    owner_bed_close(&c->bed);
    rt_free(c);
}

void part_cut(const char *unused)
{
    double out[FIGURES];

    (void)unused;
    bench_child(run_cut, NULL, out, FIGURES);
    entry_put(&(struct entry){.name = "cut_throughput",
                              .value = out[RATIO],
                              .unit = "x without a cut",
                              .limit = 1,
                              .limit_name = "without",
                              .demanded = 0.95});
    entry_put(&(struct entry){.name = "cut_owner_cpu",
                              .value = out[CPU],
                              .unit = "ids per CPU time x without a cut",
                              .limit = 1,
                              .limit_name = "without"});
    entry_put(&(struct entry){.name = "cut_longest_turn", .value = out[TURN], .unit = "ms of CPU"});
    entry_put(&(struct entry){
        .name = "cut_longest_turn_without", .value = out[TURN_NONE], .unit = "ms of CPU"});
    entry_put(&(struct entry){.name = "cut_longest_stall",
                              .value = out[STALL],
                              .unit = "ms",
                              .limit = 50,
                              .limit_name = "a request may take",
                              .demanded = 1,
                              .less = true});
    entry_put(&(struct entry){
        .name = "cut_longest_stall_without", .value = out[STALL_NONE], .unit = "ms"});
    entry_put(&(struct entry){.name = "cut_memory",
                              .value = out[MEMORY],
                              .unit = "% of the tables",
                              .limit = 15,
                              .limit_name = "more while it is written",
                              .demanded = 1,
                              .less = true});
    entry_put(&(struct entry){.name = "cut_seconds", .value = out[SECONDS], .unit = "s"});
    entry_put(&(struct entry){.name = "cut_bytes", .value = out[FULL_BYTES], .unit = "bytes"});
    entry_put(&(struct entry){.name = "cut_waits", .value = out[WAITS], .unit = "updates"});
    entry_put(
        &(struct entry){.name = "cut_increment_zipf", .value = out[PART], .unit = "of a full one"});
}
