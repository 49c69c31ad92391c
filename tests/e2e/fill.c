/* tests/e2e/fill.c -- give the tables of a running embedding server so many rows, as a middleware would.
 *
 *   fill JOB_FOLDER WORKERS PORT TABLE=ROWS...        (PORT: of owner 0 on 127.0.0.1; the others' follow)
 *
 * Each id comes once, in the order of a draw, and gets one gradient; two ApplyGradients of at most BATCH_ROWS rows of one
 * table are open at each owner. By real TCP: the short way to a loopback listener is switched off. Prints the rows that
 * every owner says it applied. What it sends stands in memory once: gradients are all the same. */
#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"
#include "runtime/job/batch_id.h"
#include "runtime/job/job.h"
#include "runtime/net/loop.h"
#include "runtime/net/near.h"
#include "runtime/net/rpc.h"
#include "runtime/wire/member.h"
#include "runtime/wire/rows.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BATCH_ROWS  8192u
#define OPEN_MAX    2u
#define OWNERS_MAX  16u
#define DIM_MAX     128u
#define INCARNATION 5

struct filler;
struct owner {
    struct filler *filler;
    struct rt_peer *peer;
    uint64_t sequence, applied;
    uint32_t open, n; /* calls; ids of the next one */
    uint64_t *id;     /* [BATCH_ROWS] in buf */
    struct rt_buf *buf;
};

static struct filler {
    struct rt_job *job;
    struct rt_loop *loop;
    struct rt_rpc *rpc;
    struct rt_arena *arena;
    struct wire_out out;
    struct rt_shard_map map;
    uint64_t *rows; /* [tables] wanted */
    uint32_t table; /* that is being filled */
    uint64_t drawn; /* ids of it */
    struct owner owner[OWNERS_MAX];
} filler;
static float gradient[BATCH_ROWS * DIM_MAX];

static _Noreturn void die(const char *what)
{
    fprintf(stderr, "fill: %s: %s\n", what, rt_err_text());
    exit(1);
}

static void fill(struct filler *f);

static void on_reply(void *arg, int err, const struct rt_frame *reply)
{
    struct owner *owner = arg;
    struct filler *f = owner->filler;
    struct wire_apply_gradients_reply m;

    if (err)
        die("ApplyGradients");
    rt_arena_reset(f->arena);
    if (wire_apply_gradients_reply_unpack(reply->message, reply->header.message_size, f->arena, &m))
        die("the answer");
    owner->applied += m.rows_applied;
    owner->open--;
    fill(f);
}

static void ask(struct owner *owner)
{
    struct filler *f = owner->filler;
    size_t dim = f->job->table[f->table].dim, ids = owner->n * sizeof(uint64_t);
    struct wire_apply_gradients m = {.shard_map = f->map.version,
                                     .parts = 1,
                                     .step = owner->sequence + 1,
                                     .learning_rate = 1,
                                     .world = 1,
                                     .n_tables = 1,
                                     .table = &f->table,
                                     .n_ids = &owner->n,
                                     .dtype = WIRE_F32};
    struct rt_piece piece[2] = {{owner->id, ids, owner->buf},
                                {gradient, owner->n * dim * sizeof(float), NULL}};

    if (wire_apply_gradients_pack(&m, &f->out))
        die("pack");
    struct rt_outgoing out = {.batch_id = rt_batch_id(0, owner->sequence++),
                              .message = f->out.data,
                              .message_size = f->out.size,
                              .pieces = piece,
                              .n_pieces = 2};
    if (rt_rpc_call(owner->peer, WIRE_APPLY_GRADIENTS, &out, 0, on_reply, owner))
        die("call");
    rt_buf_unref(owner->buf);
    owner->buf = NULL;
    owner->n = 0;
    owner->open++;
}

/* false: no more may be open at this owner. */
static bool add(struct filler *f, uint64_t id)
{
    struct owner *owner = &f->owner[rt_shard_owner(&f->map, rt_shard_of(id))];

    if (owner->n == BATCH_ROWS) {
        if (owner->open == OPEN_MAX)
            return false;
        ask(owner);
    }
    if (!owner->buf) {
        owner->buf = rt_io_buf(rt_loop_io(f->loop), BATCH_ROWS * sizeof(uint64_t));
        if (!owner->buf)
            die("buffer");
        owner->id = (uint64_t *)(void *)owner->buf->data;
    }
    owner->id[owner->n++] = id;
    return true;
}

/* What is left of a table at its end. false: some owner has enough to do. */
static bool flush(struct filler *f)
{
    for (uint32_t k = 0; k < f->map.owners; k++) {
        if (f->owner[k].n && f->owner[k].open == OPEN_MAX)
            return false;
        if (f->owner[k].n)
            ask(&f->owner[k]);
    }
    return true;
}

/* As much as may be open. */
static void fill(struct filler *f)
{
    for (; f->table < f->job->n_tables; f->table++, f->drawn = 0) {
        uint64_t key = rt_draw_key(1, "fill", f->job->table[f->table].name);

        for (; f->drawn < f->rows[f->table]; f->drawn++)
            if (!add(f, rt_draw(key, f->drawn)))
                return;
        if (!flush(f))
            return;
    }
    for (uint32_t k = 0; k < f->map.owners; k++)
        if (f->owner[k].open)
            return;
    rt_loop_stop(f->loop);
}

static void on_peer_up(void *ctx, struct rt_peer *peer)
{
    struct filler *f = ctx;

    (void)peer;
    for (uint32_t k = 0; k < f->map.owners; k++)
        if (!rt_peer_is_up(f->owner[k].peer))
            return;
    fill(f);
}

static void on_peer_down(void *ctx, struct rt_peer *peer, int err, const char *why)
{
    (void)ctx;
    fprintf(stderr, "fill: %s went: %s (%d)\n", rt_peer_name(peer), why, err);
    exit(1);
}

static void connect_all(struct filler *f, uint32_t port)
{
    struct rt_rpc_conf conf = {.io = rt_loop_io(f->loop),
                               .self = {.role = RT_ROLE_MIDDLEWARE,
                                        .incarnation = INCARNATION,
                                        .wire_version = RT_WIRE_VERSION,
                                        .config_hash = f->job->config_hash,
                                        .plan_hash = f->job->plan_hash},
                               .greeting = &wire_greeting,
                               .reply_max = 1 << 20,
                               .ctx = f,
                               .peer_up = on_peer_up,
                               .peer_down = on_peer_down};
    char address[RT_ADDRESS_MAX];

    snprintf(conf.self.job, sizeof(conf.self.job), "%s", f->job->name);
    if (rt_rpc_create(&conf, &f->rpc))
        die("rpc");
    for (uint32_t k = 0; k < f->map.owners; k++) {
        f->owner[k].filler = f;
        f->owner[k].peer = rt_rpc_peer(f->rpc, RT_ROLE_EMBEDDING_SERVER, 0, k);
        snprintf(address, sizeof(address), "tcp:127.0.0.1:%u", port + k);
        rt_peer_set_address(f->owner[k].peer, address, 0);
    }
}

/* "users=8000000" */
static void want(struct filler *f, const char *arg)
{
    const char *is = strchr(arg, '=');

    for (uint32_t t = 0; is && t < f->job->n_tables; t++) {
        if (strlen(f->job->table[t].name) == (size_t)(is - arg) &&
            strncmp(f->job->table[t].name, arg, (size_t)(is - arg)) == 0) {
            rt_assert(f->job->table[t].dim <= DIM_MAX);
            f->rows[t] = strtoull(is + 1, NULL, 10);
            return;
        }
    }
    fprintf(stderr, "fill: expected TABLE=ROWS, got '%s'\n", arg);
    exit(2);
}

int main(int argc, char **argv)
{
    struct filler *f = &filler;
    uint64_t begin;

    if (argc < 5) {
        fputs("Usage: fill JOB_FOLDER WORKERS PORT TABLE=ROWS...\n", stderr);
        return 2;
    }
    if (rt_job_load(
            &(struct rt_job_source){.folder = argv[1], .models_dir = getenv("SAFFRON_MODELS_DIR")},
            &f->job) ||
        rt_shard_map_init(&f->map, 1, (uint32_t)strtoul(argv[2], NULL, 10)) ||
        f->map.owners > OWNERS_MAX)
        die("the job");
    f->rows = rt_xcalloc(f->job->n_tables, sizeof(*f->rows));
    for (int i = 4; i < argc; i++)
        want(f, argv[i]);
    for (size_t i = 0; i < ARRAY_LEN(gradient); i++)
        gradient[i] = 0.001f;
    rt_near_set(false);
    if (rt_arena_create(1 << 20, &f->arena) ||
        rt_loop_create(&(struct rt_loop_conf){.name = "fill", .pool_budget = 64 << 20}, &f->loop))
        die("loop");
    connect_all(f, (uint32_t)strtoul(argv[3], NULL, 10));
    begin = rt_now_ns();
    if (rt_loop_run(f->loop))
        die("run");
    for (uint32_t k = 0; k < f->map.owners; k++)
        printf("owner %u rows %" PRIu64 "\n", k, f->owner[k].applied);
    printf("seconds %.2f\n", (double)(rt_now_ns() - begin) * 1e-9);
    return 0; /* the kernel takes the rest */
}
