/* ctl/plan_sum.c -- the sum of section "Scale on paper", for any job.
 *
 * Servers come from three needs, each by itself: memory of rows, rows a second that an owner can read and write,
 * and row numbers (an owner's table has fewer than 2^32). The most of them is what it takes, unless a number was
 * given; then that number has to do. The fullest server decides, since shards do not always divide evenly.
 *
 * What is constant per process, loop and link was measured on idle processes (x86-64, jemalloc) and is small beside rows;
 * what is on its way between processes is bounded by staleness and window, and counted as if all of it were. */
#include "ctl/plan_sum.h"
#include "ctl/amount.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "runtime/net/frame.h"

#include <math.h>

#define PROCESS_BYTES (12u << 20) /* a role that has begun; a trainer's libraries are more */
#define TRAINER_BYTES (32u << 20)
#define LOOP_BYTES    (2u << 20)
#define LINK_BYTES    (8u << 10)
#define PROCESS_FILES 12u /* standard ones, log, admin, NATS, the main loop's own */
#define LOOP_FILES    7u  /* of a thread with listeners */
#define LONE_FILES    3u  /* of a role whose main loop does all: its listeners, a data file */
#define TRAINER_FILES 2u  /* curves, scores */
#define MESSAGE_BYTES 64u /* of a packed message, and 6 for each table in it */
#define TABLE_BYTES   6u
#define POOL_LEAST    (256ull << 20) /* of a middleware's loop, over its memory (middleware/loop.c) */

#define CTL_HOP_INFO(a, b, text) {RT_ROLE_##a, RT_ROLE_##b, #text},
const struct ctl_hop_info ctl_hops[CTL_HOP_COUNT] = {CTL_HOP_LIST(CTL_HOP_INFO)};

/* ---- tables ---- */

/* Rows of the whole table, about: an owner's capacity counts whole pages as well. */
static uint64_t rows_of(const struct ctl_question *q, uint32_t t)
{
    uint64_t capacity = rt_table_capacity(&q->job->table[t]);

    return capacity && (q->rows[t] == 0 || q->rows[t] > capacity) ? capacity : q->rows[t];
}

/* Rows of an owner with so many shards: no more than it lets in (embedding_server/table.c). */
static uint64_t owner_rows(const struct ctl_question *q, uint32_t t, uint32_t shards)
{
    uint64_t capacity = rt_owner_capacity(&q->job->table[t], shards);
    uint64_t rows =
        (uint64_t)fmin(ceil((double)q->rows[t] * shards / (double)RT_SHARDS), RT_ROWS_MAX);

    return capacity && (q->rows[t] == 0 || rows > capacity) ? capacity : rows;
}

static uint64_t total(const struct rt_table_size *size)
{
    return size->rows + size->index + size->slack + size->allocator;
}

static void add(struct rt_table_size *to, const struct rt_table_size *size, uint64_t n)
{
    to->rows += size->rows * n;
    to->index += size->index * n;
    to->slack += size->slack * n;
    to->allocator += size->allocator * n;
}

/* @owners that have all of @shards, as evenly as they go: so many have one more than the others. */
static void add_owners(const struct ctl_question *q, uint32_t t, uint32_t owners, uint32_t shards,
                       uint32_t all_owners, struct ctl_plan_table *to)
{
    uint32_t more = shards % owners;

    for (uint32_t extra = 0; extra <= 1; extra++) {
        uint32_t n = extra ? more : owners - more;
        uint64_t rows = n ? owner_rows(q, t, shards / owners + extra) : 0;
        struct rt_table_size size = rt_table_size(&q->job->table[t], rows, all_owners);

        to->rows += rows * n;
        add(&to->size, &size, n);
    }
}

static void sum_tables(const struct ctl_question *q, struct ctl_plan *out)
{
    for (uint32_t t = 0; t < q->job->n_tables; t++) {
        struct ctl_plan_table *to = &out->table[t];

        to->row_bytes = rt_row_layout(&q->job->table[t]).row_bytes;
        add_owners(q, t, out->owners, RT_SHARDS, out->owners, to);
        if (q->rows[t] && to->rows > q->rows[t]) /* shares were rounded up */
            to->rows = q->rows[t];
        to->size.rows = to->rows * to->row_bytes;
        add(&out->size, &to->size, 1);
        out->rows += to->rows;
        out->parameters += (double)to->rows * q->job->table[t].dim;
    }
}

/* Tables of the server that has most shards. */
static uint64_t fullest_tables(const struct ctl_question *q, uint32_t servers)
{
    uint32_t owners = servers * q->workers, most = 0;
    uint64_t bytes = 0;
    struct rt_shard_map map = {.servers = servers, .workers = q->workers, .owners = owners};

    for (uint32_t s = 0; s < servers; s++) {
        uint32_t shards =
            rt_shard_first(&map, (s + 1) * q->workers) - rt_shard_first(&map, s * q->workers);

        most = shards > most ? shards : most;
    }
    for (uint32_t t = 0; t < q->job->n_tables; t++) {
        struct ctl_plan_table its = {0};

        add_owners(q, t, q->workers, most, owners, &its);
        bytes += total(&its.size);
    }
    return bytes;
}

/* ---- one sample ---- */

/* What one sample is on the wire, of all tables and features. */
struct sample {
    double rows;                       /* different ones */
    double row_weights, row_gradients; /* bytes of them, without ids */
    double ids;                        /* bytes, lists' lengths among them */
    double embeddings, gradients;      /* bytes between middleware and trainer */
    double sums;                       /* float32 of hashed tables' ids, in a middleware */
    double sequence_sums;              /* float32 of sequences' 16-bit gradients, in a trainer */
};

static const struct rt_table_conf *table_of(const struct ctl_question *q, uint32_t f)
{
    return &q->job->table[q->job->feature[f].table];
}

/* Of hashed tables, each of whose ids is several rows, as if no two ids had one in common. */
static double feature_rows(const struct ctl_question *q, uint32_t f)
{
    uint32_t functions = table_of(q, f)->hash_functions;

    return q->ids[f] * q->distinct * (functions ? functions : 1);
}

/* A pooled feature is one row; a sequence its different rows, and which of them stands where. */
static void add_feature(const struct ctl_question *q, uint32_t f, struct sample *out)
{
    const struct rt_wire_conf *wire = &q->job->global.wire;
    double dim = table_of(q, f)->dim, embeddings = wire_dtype_size(wire->embeddings) * dim;
    double gradients = wire_dtype_size(wire->gradients) * dim;
    bool sequence = q->job->feature[f].pooling == RT_POOL_NONE;
    double n = sequence ? q->ids[f] * q->distinct : 1;

    out->ids += q->ids[f] * sizeof(uint64_t) + (q->ids[f] == 1 ? 0 : sizeof(uint32_t));
    out->embeddings += n * embeddings + (sequence ? (q->ids[f] + 1) * sizeof(uint32_t) : 0);
    out->gradients += n * gradients;
    if (table_of(q, f)->hash_functions)
        out->sums += q->ids[f] * q->distinct * dim * sizeof(float);
    if (sequence && wire->gradients != WIRE_F32)
        out->sequence_sums += q->job->feature[f].max_length * dim * sizeof(float);
}

static struct sample sum_features(const struct ctl_question *q)
{
    const struct rt_wire_conf *wire = &q->job->global.wire;
    struct sample out = {0};

    for (uint32_t f = 0; f < q->job->n_features; f++) {
        double rows = feature_rows(q, f), weights = rows * table_of(q, f)->dim;

        out.rows += rows;
        out.row_weights += weights * (double)wire_dtype_size(wire->rows);
        out.row_gradients += weights * (double)wire_dtype_size(wire->row_gradients);
        add_feature(q, f, &out);
    }
    return out;
}

static double sample_dense(const struct rt_data_conf *data)
{
    return sizeof(float) * ((double)data->n_dense + data->n_labels + data->weighted) +
           (data->grouped ? sizeof(uint64_t) : 0);
}

/* Frame, message and padding of `messages` of a batch, per sample, when each has `segments` arrays of its tables. */
static double framing(const struct ctl_question *q, double messages, double segments)
{
    double tables = q->job->n_tables;
    double padding = segments * tables * RT_SEGMENT_ALIGN / 2;

    return messages * (RT_FRAME_HEADER_SIZE + MESSAGE_BYTES + TABLE_BYTES * tables + padding) /
           q->job->data.batch_size;
}

/* A ring sends each parameter twice, but for the share that a rank has itself. */
static double all_reduce(const struct ctl_question *q)
{
    double world = q->replicas[RT_ROLE_TRAINER];
    bool async = q->job->global.mode == RT_MODE_ASYNC; /* averages weights, in full */
    double turns = async ? (double)q->job->global.sync_every : 1;
    size_t bytes = async ? sizeof(float) : wire_dtype_size(q->job->global.wire.all_reduce);

    return 2 * (world - 1) / world * (double)q->dense_parameters * (double)bytes /
           q->job->data.batch_size / turns;
}

static void sum_sample(const struct ctl_question *q, struct ctl_plan *out)
{
    double *hop = out->bytes_per_sample, owners = out->owners;
    struct sample sample = sum_features(q);

    out->rows_per_sample = sample.rows;
    hop[CTL_HOP_data_compose_to_middleware] = sample.ids + framing(q, 1, 0);
    hop[CTL_HOP_data_compose_to_trainer] = sample_dense(&q->job->data) + framing(q, 1, 0);
    hop[CTL_HOP_middleware_to_embedding_server] = 2 * sample.rows * sizeof(uint64_t) +
                                                  sample.row_gradients + framing(q, owners, 1) +
                                                  framing(q, owners, 2);
    hop[CTL_HOP_embedding_server_to_middleware] =
        sample.row_weights + framing(q, owners, 1) + framing(q, owners, 0);
    hop[CTL_HOP_middleware_to_trainer] = sample.embeddings + framing(q, 2, 0);
    hop[CTL_HOP_trainer_to_middleware] = sample.gradients + framing(q, 2, 0);
    hop[CTL_HOP_trainer_to_trainer] = all_reduce(q);
}

/* ---- processes ---- */

static void sum_links(const struct ctl_question *q, struct ctl_plan *out)
{
    uint64_t composers = q->replicas[RT_ROLE_DATA_COMPOSE], trainers = q->replicas[RT_ROLE_TRAINER];
    uint64_t loops = (uint64_t)q->replicas[RT_ROLE_MIDDLEWARE] * q->loops;
    struct ctl_plan_process *p = out->process;
    const uint64_t own[RT_ROLE_COUNT] = {LONE_FILES, LOOP_FILES * q->loops, LOOP_FILES * q->workers,
                                         LONE_FILES + TRAINER_FILES};

    p[RT_ROLE_DATA_COMPOSE].links = loops + trainers;
    p[RT_ROLE_MIDDLEWARE].links = (uint64_t)q->loops * (out->owners + composers + trainers);
    p[RT_ROLE_EMBEDDING_SERVER].links = loops * q->workers + q->workers;
    /* Each rank calls each other, on a connection of its own; trainer/0 calls each owner, for checkpoints and for what one that came back lacks. */
    p[RT_ROLE_TRAINER].links = loops + composers + 2 * (trainers - 1) + out->owners;
    for (int role = 0; role < RT_ROLE_COUNT; role++)
        p[role].descriptors = p[role].links + PROCESS_FILES + own[role];
}

static void sum_traffic(const struct ctl_question *q, struct ctl_plan *out)
{
    for (int h = 0; h < CTL_HOP_COUNT; h++) {
        double bytes = out->bytes_per_sample[h] * q->samples_per_second;
        enum rt_role from = ctl_hops[h].from, to = ctl_hops[h].to;
        double senders = from == RT_ROLE_EMBEDDING_SERVER ? out->servers : q->replicas[from];
        double receivers = to == RT_ROLE_EMBEDDING_SERVER ? out->servers : q->replicas[to];

        out->process[from].out += bytes / senders;
        out->process[to].in += bytes / receivers;
    }
    out->owner_rows = out->rows_per_sample * q->samples_per_second / out->owners;
}

/* Bytes of batches that may be on their way at one server: every permit of every rank. */
static double in_flight(const struct ctl_question *q, uint32_t servers)
{
    double batches = (double)q->replicas[RT_ROLE_TRAINER] * q->job->global.staleness;
    struct sample sample = sum_features(q);

    return batches * q->job->data.batch_size *
           (2 * sample.rows * sizeof(uint64_t) + sample.row_weights + sample.row_gradients) /
           servers;
}

/* Everything of an embedding server but its tables. */
static uint64_t server_base(const struct ctl_question *q, uint32_t servers)
{
    uint64_t links = (uint64_t)q->replicas[RT_ROLE_MIDDLEWARE] * q->loops * q->workers;

    return PROCESS_BYTES + (uint64_t)q->workers * LOOP_BYTES + links * LINK_BYTES +
           (uint64_t)in_flight(q, servers);
}

static void sum_memory(const struct ctl_question *q, struct ctl_plan *out)
{
    const struct rt_data_conf *data = &q->job->data;
    double composers = q->replicas[RT_ROLE_DATA_COMPOSE], ranks = q->replicas[RT_ROLE_TRAINER];
    double samples = (double)data->window * data->batch_size; /* a composer's, of one rank */
    double dense = sample_dense(data);
    struct sample sample = sum_features(q);
    struct ctl_plan_process *p = out->process;
    uint64_t pool = q->job->global.middleware_memory;

    p[RT_ROLE_EMBEDDING_SERVER].memory =
        fullest_tables(q, out->servers) + server_base(q, out->servers);
    p[RT_ROLE_DATA_COMPOSE].memory =
        PROCESS_BYTES + LOOP_BYTES +
        (uint64_t)((samples * ranks + 2.0 * data->shuffle_rows) * (sample.ids + dense));
    /* Ids, their places and sums, the pooled embeddings, the gradients of rows, and a quarter (middleware/put.c). */
    p[RT_ROLE_MIDDLEWARE].memory =
        PROCESS_BYTES + (uint64_t)q->loops * LOOP_BYTES +
        (uint64_t)(samples * composers * ranks / q->replicas[RT_ROLE_MIDDLEWARE] * 1.25 *
                   (1.5 * sample.ids + sample.sums + sample.embeddings +
                    sample.rows * sizeof(uint64_t) + sample.row_gradients));
    p[RT_ROLE_MIDDLEWARE].memory_max =
        PROCESS_BYTES +
        q->loops * (LOOP_BYTES + pool + (pool / 2 > POOL_LEAST ? pool / 2 : POOL_LEAST));
    /* Weights, gradients, two of optimizer state and what is being reduced; sums of the step that runs. */
    p[RT_ROLE_TRAINER].memory = TRAINER_BYTES + q->dense_parameters * sizeof(float) * 5 +
                                (uint64_t)(samples * composers * dense +
                                           q->job->global.staleness * (double)data->batch_size *
                                               (sample.embeddings + sample.gradients) +
                                           (double)data->batch_size * sample.sequence_sums);
}

/* ---- servers ---- */

static uint32_t servers_max(const struct ctl_question *q)
{
    return RT_OWNERS_MAX / q->workers;
}

/* The least number of servers whose owners have a row number for each row. */
static uint32_t servers_for_rows(const struct ctl_question *q, uint32_t *table)
{
    uint64_t owners = 1;

    *table = 0;
    for (uint32_t t = 0; t < q->job->n_tables; t++) {
        uint64_t rows = rows_of(q, t), need;

        /* An owner has up to one shard more than its part of them. */
        for (need = rows / RT_ROWS_MAX + 1; need < RT_SHARDS; need++)
            if ((double)rows * ceil((double)RT_SHARDS / (double)need) / RT_SHARDS <= RT_ROWS_MAX)
                break;
        if (need > owners) {
            owners = need;
            *table = t;
        }
    }
    return (uint32_t)((owners + q->workers - 1) / q->workers);
}

static uint32_t servers_for_rate(const struct ctl_question *q, double rows_per_sample)
{
    double rows = rows_per_sample * q->samples_per_second;

    return (uint32_t)fmin(ceil(rows / q->owner_rate / q->workers), UINT32_MAX);
}

/* Both limits of a server: what the process may have, and what the job lets its tables have. */
static double fullness(const struct ctl_question *q, uint32_t servers)
{
    double tables = (double)fullest_tables(q, servers), full = 0;

    if (q->server_memory)
        full = (tables + (double)server_base(q, servers)) / (double)q->server_memory;
    if (q->job->global.embedding_server_memory)
        full = fmax(full, tables / (double)q->job->global.embedding_server_memory);
    return full;
}

static uint32_t servers_for_memory(const struct ctl_question *q, uint32_t least)
{
    double servers = least;

    while (servers <= servers_max(q)) {
        double full = fullness(q, (uint32_t)servers);

        if (full <= 1)
            return (uint32_t)servers;
        servers = fmax(servers + 1, floor(servers * full)); /* what each takes can only shrink */
    }
    return UINT32_MAX;
}

static int too_many(const struct ctl_question *q, const char *why)
{
    return RT_FAIL(RT_EUSAGE,
                   "%s asks for more than %u embedding servers of %u workers, which is "
                   "the most: %u owners",
                   why, servers_max(q), q->workers, RT_OWNERS_MAX);
}

static int check_memory(const struct ctl_question *q, uint32_t servers, uint32_t need)
{
    char takes[CTL_AMOUNT_MAX], has[CTL_AMOUNT_MAX];
    uint64_t cap = q->job->global.embedding_server_memory, tables = fullest_tables(q, servers);
    uint64_t all = tables + server_base(q, servers);

    if (q->server_memory && all > q->server_memory)
        return RT_FAIL(RT_EUSAGE,
                       "--embedding-servers %u: the fullest takes %s, --server-memory is %s; "
                       "expected at least %u servers",
                       servers, ctl_amount((double)all, "B", takes),
                       ctl_amount((double)q->server_memory, "B", has), need);
    if (cap && tables > cap)
        return RT_FAIL(RT_EUSAGE,
                       "--embedding-servers %u: tables of the fullest take %s, "
                       "global.embedding_server.memory is %s; expected at least %u servers",
                       servers, ctl_amount((double)tables, "B", takes),
                       ctl_amount((double)cap, "B", has), need);
    return 0;
}

/* The number that was asked for will do? */
static int check_asked(const struct ctl_question *q, const struct ctl_plan_need *need,
                       const char *table)
{
    uint32_t asked = q->replicas[RT_ROLE_EMBEDDING_SERVER];

    if (asked > servers_max(q))
        return RT_FAIL(RT_EUSAGE, "--embedding-servers %u: expected at most %u of %u workers",
                       asked, servers_max(q), q->workers);
    if (asked < need->rows)
        return RT_FAIL(RT_EUSAGE,
                       "--embedding-servers %u: table %s would have over %u rows in one owner; "
                       "expected at least %u servers of %u workers",
                       asked, table, RT_ROWS_MAX, need->rows, q->workers);
    return asked < need->memory ? check_memory(q, asked, need->memory) : 0;
}

static int find_needs(const struct ctl_question *q, double rows_per_sample,
                      struct ctl_plan_need *out, const char **table)
{
    uint32_t max = servers_max(q), t;
    char takes[CTL_AMOUNT_MAX], has[CTL_AMOUNT_MAX];

    out->rows = servers_for_rows(q, &t);
    *table = q->job->table[t].name;
    out->rate = servers_for_rate(q, rows_per_sample);
    if (out->rows > max)
        return too_many(q, "the number of rows");
    if (q->server_memory && q->server_memory <= server_base(q, max))
        return RT_FAIL(RT_EUSAGE, "--server-memory %s: a server takes %s before its first row",
                       ctl_amount((double)q->server_memory, "B", has),
                       ctl_amount((double)server_base(q, max), "B", takes));
    if (q->server_memory || q->job->global.embedding_server_memory)
        out->memory = servers_for_memory(q, out->rows);
    return out->memory > max ? too_many(q, "the memory of a server") : 0;
}

static int choose_servers(const struct ctl_question *q, struct ctl_plan *out)
{
    struct ctl_plan_need *need = &out->need;
    const char *table;
    int err;

    out->rows_per_sample = sum_features(q).rows;
    err = find_needs(q, out->rows_per_sample, need, &table);
    if (err)
        return err;
    out->servers = need->rows > need->memory ? need->rows : need->memory;
    out->servers = need->rate > out->servers ? need->rate : out->servers;
    if (q->replicas[RT_ROLE_EMBEDDING_SERVER]) {
        err = check_asked(q, need, table);
        if (err)
            return err;
        out->servers = q->replicas[RT_ROLE_EMBEDDING_SERVER];
    }
    if (out->servers > servers_max(q))
        return too_many(q, "--samples-per-second");
    out->owners = out->servers * q->workers;
    return 0;
}

int ctl_plan_sum(const struct ctl_question *question, struct ctl_plan *out)
{
    int err;

    rt_assert(question->distinct > 0 && question->distinct <= 1 && question->owner_rate > 0);
    rt_assert(question->workers > 0 && question->loops > 0);
    *out = (struct ctl_plan){0};
    err = choose_servers(question, out);
    if (err)
        return err;
    out->table = rt_xcalloc(question->job->n_tables, sizeof(*out->table));
    sum_tables(question, out);
    sum_sample(question, out);
    sum_links(question, out);
    sum_traffic(question, out);
    sum_memory(question, out);
    return 0;
}

void ctl_plan_release(struct ctl_plan *plan)
{
    rt_free(plan->table);
    *plan = (struct ctl_plan){0};
}
