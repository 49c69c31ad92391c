/* tests/lib/oracle.c -- see oracle.h.
 *
 * The rows of a table are asked for owner by owner, ASK_IDS at a time and one call per owner, and their norms kept in
 * an array by id: ids are small numbers. An owner that is lost while it is asked is asked again. */
#include "tests/lib/oracle.h"

#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/half.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"
#include "runtime/base/strbuf.h"
#include "runtime/job/shard.h"
#include "runtime/net/rpc.h"
#include "runtime/wire/member.h"
#include "runtime/wire/rows.h"

#include <inttypes.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define CLIP        0.001
#define CLIP_TEXT   "0.001"
#define DIM         4
#define ASK_IDS     4096u
#define INDEX       50000 /* nobody of the job */
#define OWNERS_MAX  64u
#define DEADLINE_NS (5 * RT_S)
#define TABLES      3

static const char *const table_name[TABLES] = {"row", "user", "item"};

/* ---- the job ---- */

static void put(const char *dir, const char *name, const char *text)
{
    char *path = rt_path_join(dir, name);
    if (rt_file_write(path, text, strlen(text)) != 0)
        fail_msg("%s", rt_err_text());
    rt_free(path);
}

static void put_rows(const char *dir, const struct oracle_shape *shape)
{
    struct rt_strbuf text = {0};
    uint64_t key = rt_draw_key(1, "oracle", NULL);
    for (uint64_t i = 0; i < shape->rows; i++)
        rt_strbuf_addf(&text, "0\t1000000\t%" PRIu64 "\t%" PRIu64 "\t%" PRIu64 "\n", i,
                       rt_below(rt_draw(key, 2 * i), shape->users),
                       rt_below(rt_draw(key, 2 * i + 1), shape->items));
    put(dir, "train.tsv", text.text);
    rt_strbuf_release(&text);
}

void oracle_write(const char *dir, const struct oracle_shape *shape)
{
    struct rt_strbuf data = {0};
    rt_assert(shape->rows % (shape->splits * shape->block_rows) == 0 &&
              shape->block_rows % shape->batch_size == 0);
    put(dir, "global.yml",
        "mode: hybrid\nstaleness: 4\nseed: 4\nmiddleware: {loops: 1}\n"
        "embedding_server: {workers: 2}\n");
    put(dir, "embedding.yml",
        "defaults: {dim: 4, initializer: {type: constant, value: 0}, optimizer: {type: sgd, "
        "learning_rate: 1}}\n"
        "tables: {row: {optimizer: {gradient_clip: " CLIP_TEXT "}}, user: {}, item: {}}\n"
        "features: {row: {}, user: {}, item: {}}\n");
    rt_strbuf_addf(&data,
                   "format: tsv\nheader: false\nbatch_size: %u\nsplits: %u\nblock_rows: %u\n"
                   "shuffle_rows: %u\nwindow: 4\ntrain: [train.tsv]\n"
                   "columns: {y: label, x: dense, row: {integer: true}, user: {integer: true}, "
                   "item: {integer: true}}\n",
                   shape->batch_size, shape->splits, shape->block_rows, shape->block_rows);
    put(dir, "data.yml", data.text);
    rt_strbuf_release(&data);
    put(dir, "model.yml",
        "layers:\n"
        "  - {name: all, type: concat, inputs: [features, dense]}\n"
        "  - {name: top, type: mlp, inputs: [all], sizes: [1]}\n"
        "  - {name: loss, type: bce, inputs: [top]}\n"
        "optimizer: {type: sgd, learning_rate: 0}\n");
    put_rows(dir, shape);
}

/* ---- what is expected ---- */

struct counts {
    uint32_t n;     /* ids: 0..n-1 */
    uint32_t *of;   /* [n] occurrences in the data file */
    double *norm;   /* [n] of the row, as read */
    uint32_t index; /* of the table in the job */
};

struct owner {
    struct oracle *oracle;
    struct rt_peer *peer;
    uint32_t number, table, cursor; /* where its next ids are looked for */
    uint32_t n_ids;
    uint64_t id[ASK_IDS];
    bool asking, ended;
};

struct oracle {
    struct oracle_conf conf;
    struct rt_shard_map map;
    struct rt_rpc *rpc;
    struct rt_arena *arena;
    struct wire_out out;
    struct counts table[TABLES];
    uint32_t tables, owners_left;
    struct owner *owner; /* [map.owners] */
};

static void count(struct counts *counts, uint64_t id)
{
    while (id >= counts->n) {
        uint32_t n = counts->n ? 2 * counts->n : 256;
        counts->of = rt_xrealloc(counts->of, n * sizeof(*counts->of));
        memset(counts->of + counts->n, 0, (n - counts->n) * sizeof(*counts->of));
        counts->n = n;
    }
    counts->of[id]++;
}

static void read_data(struct oracle *o)
{
    char *path = rt_path_join(o->conf.job->folder, "train.tsv");
    FILE *file = fopen(path, "r");
    uint64_t id[TABLES];
    if (!file)
        fail_msg("%s cannot be read", path);
    while (fscanf(file, "0 1000000 %" SCNu64 " %" SCNu64 " %" SCNu64 "\n", &id[0], &id[1],
                  &id[2]) == TABLES)
        for (int t = 0; t < TABLES; t++)
            count(&o->table[t], id[t]);
    if (!feof(file))
        fail_msg("%s: not the oracle's", path);
    fclose(file);
    rt_free(path);
}

static uint32_t table_index(const struct rt_job *job, const char *name)
{
    uint32_t t = 0;
    while (t < job->n_tables && strcmp(job->table[t].name, name) != 0)
        t++;
    rt_assert(t < job->n_tables);
    return t;
}

/* ---- asking ---- */

static void ask(struct owner *owner);

static void take_rows(struct owner *owner, const struct rt_frame *reply)
{
    struct counts *counts = &owner->oracle->table[owner->table];
    struct rt_segments segments = rt_segments_of(reply->payload);
    uint32_t dtype = owner->oracle->conf.job->global.wire.rows;
    const uint8_t *at;
    const void *payload;
    if (rt_segment_take(&segments, owner->n_ids, DIM * wire_dtype_size(dtype), &payload) != 0)
        fail_msg("LookupRows: %s", rt_err_text());
    at = payload;
    for (uint32_t i = 0; i < owner->n_ids; i++) {
        float row[DIM];
        double sum = 0;
        rt_widen(dtype, at + (size_t)i * DIM * wire_dtype_size(dtype), row, DIM);
        for (int d = 0; d < DIM; d++)
            sum += (double)row[d] * row[d];
        counts->norm[owner->id[i]] = sqrt(sum);
    }
    owner->n_ids = 0;
}

static void on_rows(void *arg, int err, const struct rt_frame *reply)
{
    struct owner *owner = arg;
    owner->asking = false;
    if (err && err != RT_EPEER && err != RT_EDEADLINE && err != RT_ECANCELED)
        fail_msg("LookupRows: %s", rt_err_text());
    if (!err)
        take_rows(owner, reply);
    if (!err || rt_peer_is_up(owner->peer))
        ask(owner);
}

static bool more_ids(struct owner *owner)
{
    struct oracle *o = owner->oracle;
    for (; owner->table < o->tables; owner->table++, owner->cursor = 0) {
        const struct counts *counts = &o->table[owner->table];
        for (; owner->cursor < counts->n && owner->n_ids < ASK_IDS; owner->cursor++)
            if (counts->of[owner->cursor] &&
                rt_shard_owner(&o->map, rt_shard_of(owner->cursor)) == owner->number)
                owner->id[owner->n_ids++] = owner->cursor;
        if (owner->n_ids)
            return true;
    }
    return false;
}

static void send_ask(struct owner *owner)
{
    struct oracle *o = owner->oracle;
    struct wire_lookup_rows m = {.shard_map = o->map.version,
                                 .n_tables = 1,
                                 .table = &o->table[owner->table].index,
                                 .n_ids = &owner->n_ids,
                                 .dtype = o->conf.job->global.wire.rows};
    struct rt_piece piece = {owner->id, owner->n_ids * sizeof(uint64_t), NULL};
    if (wire_lookup_rows_pack(&m, &o->out) != 0)
        fail_msg("%s", rt_err_text());
    struct rt_outgoing out = {
        .message = o->out.data, .message_size = o->out.size, .pieces = &piece, .n_pieces = 1};
    owner->asking =
        rt_rpc_call(owner->peer, WIRE_LOOKUP_ROWS, &out, DEADLINE_NS, on_rows, owner) == 0;
}

static void ask(struct owner *owner)
{
    struct oracle *o = owner->oracle;
    if (owner->asking || owner->ended)
        return;
    if (owner->n_ids || more_ids(owner)) {
        send_ask(owner);
        return;
    }
    owner->ended = true;
    if (--o->owners_left == 0)
        o->conf.done(o->conf.arg);
}

static void on_peer_up(void *ctx, struct rt_peer *peer)
{
    struct oracle *o = ctx;
    for (uint32_t k = 0; k < o->map.owners; k++)
        if (o->owner[k].peer == peer)
            ask(&o->owner[k]);
}

static void connect_all(struct oracle *o)
{
    const struct rt_job *job = o->conf.job;
    struct rt_rpc_conf conf = {.io = o->conf.io,
                               .self = {.role = RT_ROLE_MIDDLEWARE,
                                        .index = INDEX,
                                        .incarnation = 1,
                                        .wire_version = RT_WIRE_VERSION,
                                        .config_hash = job->config_hash,
                                        .plan_hash = job->plan_hash},
                               .greeting = &wire_greeting,
                               .reply_max = 1 << 20,
                               .ctx = o,
                               .peer_up = on_peer_up};
    snprintf(conf.self.job, sizeof(conf.self.job), "%s", job->name);
    if (rt_rpc_create(&conf, &o->rpc) != 0)
        fail_msg("%s", rt_err_text());
    for (uint32_t k = 0; k < o->map.owners; k++) {
        o->owner[k].oracle = o;
        o->owner[k].number = k;
        o->owner[k].peer =
            rt_rpc_peer(o->rpc, RT_ROLE_EMBEDDING_SERVER, k / o->conf.workers, k % o->conf.workers);
        rt_peer_set_address(o->owner[k].peer, o->conf.address[k], o->conf.incarnation);
    }
}

void oracle_start(const struct oracle_conf *conf, struct oracle **out)
{
    struct oracle *o = rt_xcalloc(1, sizeof(*o));
    o->conf = *conf;
    if (rt_shard_map_init(&o->map, conf->servers, conf->workers) != 0 ||
        rt_arena_create(1 << 20, &o->arena) != 0)
        fail_msg("%s", rt_err_text());
    rt_assert(o->map.owners <= OWNERS_MAX);
    o->owner = rt_xcalloc(o->map.owners, sizeof(*o->owner));
    o->owners_left = o->map.owners;
    o->tables = conf->steps_are_equal ? TABLES : 1;
    read_data(o);
    for (int t = 0; t < TABLES; t++) {
        o->table[t].index = table_index(conf->job, table_name[t]);
        o->table[t].norm = rt_xcalloc(o->table[t].n, sizeof(double));
    }
    connect_all(o);
    *out = o;
}

void oracle_destroy(struct oracle *o)
{
    if (!o)
        return;
    rt_rpc_destroy(o->rpc);
    for (int t = 0; t < TABLES; t++) {
        rt_free(o->table[t].of);
        rt_free(o->table[t].norm);
    }
    wire_out_release(&o->out);
    rt_arena_destroy(o->arena);
    rt_free(o->owner);
    rt_free(o);
}

/* ---- the result ---- */

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* What one occurrence moves a row of the table by: the median over its rows. */
static double unit_of(const struct counts *counts, uint64_t epochs)
{
    double *each = rt_xcalloc(counts->n, sizeof(*each)), unit;
    uint32_t n = 0;
    for (uint32_t id = 0; id < counts->n; id++)
        if (counts->of[id])
            each[n++] = counts->norm[id] / ((double)counts->of[id] * (double)epochs);
    qsort(each, n, sizeof(*each), by_value);
    unit = n ? each[n / 2] : 0;
    rt_free(each);
    return unit;
}

static void check_table(const struct oracle *o, int t, struct oracle_result *r)
{
    const struct counts *counts = &o->table[t];
    uint64_t epochs = o->conf.job->data.epochs;
    const uint32_t *told = o->conf.declared;
    double unit = t == 0 ? CLIP : unit_of(counts, epochs);
    for (uint32_t id = 0; id < counts->n; id++) {
        uint64_t want = counts->of[id] * epochs, declared = t == 0 && told ? told[id] : 0;
        double is = unit > 0 ? counts->norm[id] / unit : 0, whole = round(is);
        if (!want)
            continue;
        r->rows++;
        r->expected += want;
        r->odd += fabs(is - whole) > 0.2;
        uint64_t least = want - declared, found = (uint64_t)whole;
        r->lost += found < least ? least - found : 0;
        r->doubled += found > want ? found - want : 0;
        r->there += found > least && found <= want ? found - least : 0;
        if ((found < least || found > want || fabs(is - whole) > 0.2) && !r->first[0])
            snprintf(r->first, sizeof(r->first),
                     "table %s, id %" PRIu32 ": applied %.2f times, expected %" PRIu64
                     " less %" PRIu64 " that were told",
                     table_name[t], id, is, want, declared);
    }
}

void oracle_result(const struct oracle *o, struct oracle_result *out)
{
    memset(out, 0, sizeof(*out));
    for (uint32_t t = 0; t < o->tables; t++)
        check_table(o, (int)t, out);
}
